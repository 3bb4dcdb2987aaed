"""The checks themselves: each passes what is right, catches what is wrong, and refuses what could not fail."""

import math
import re

import numpy as np
import pytest
import sympy
import torch
from scipy import stats

from diffnotes.book import check

a, b = sympy.symbols("a b", positive=True)
x, y = sympy.symbols("x y", real=True)
unit = sympy.Symbol("u", positive=True)


# ---- symbolic -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lhs", "rhs"),
    [
        (sympy.sqrt(a) ** 2 + sympy.sqrt(1 - a) ** 2, 1),
        (sympy.sqrt(a * b) * sympy.sqrt(1 - a), sympy.sqrt(a) * sympy.sqrt(b - a * b)),
        (sympy.log(a * b**2), sympy.log(a) + 2 * sympy.log(b)),
        (1 / (1 / a + 1 / b), a * b / (a + b)),
        (1 / (sympy.sqrt(a + 1) - sympy.sqrt(a)), sympy.sqrt(a + 1) + sympy.sqrt(a)),
        (sympy.Integral(sympy.exp(-(x**2) / 2), (x, -sympy.oo, sympy.oo)), sympy.sqrt(2 * sympy.pi)),
        (sympy.tanh(x), (sympy.exp(2 * x) - 1) / (sympy.exp(2 * x) + 1)),
        ((x + y, [x * (x + 1), 0]), [y + x, (x**2 + x, 0)]),
        (sympy.Matrix([[a, b]]) * 2, sympy.Matrix([[2 * a, b + b]])),
        (0.5, 0.5),
    ],
)
def test_symbolic_holds(lhs, rhs, capsys):
    check.symbolic("fwd-step", lhs, rhs)
    assert capsys.readouterr().out == "✓ (fwd-step) holds · symbolic\n"


@pytest.mark.parametrize(
    ("lhs", "rhs", "shown"),
    [
        (a, sympy.sqrt(a), "a = 1/3: 0.333333 against 0.577350"),
        (x, sympy.Abs(x), "not reduce to zero"),  # differ only where x < 0, which is not tried: still a failure
        ([a, b], [a, b**2], "rhs at [1] = b**2"),
        (sympy.Matrix([[a], [b]]), sympy.Matrix([[a], [a]]), "at [1][0]"),
        (sympy.nan, sympy.nan, "nan"),
        (sympy.oo, sympy.oo, "nan"),
        (1, 1 + sympy.Rational(1, 10**30), "not reduce to zero: -1/1000"),
    ],
)
def test_symbolic_fails_and_shows_both_sides(lhs, rhs, shown):
    with pytest.raises(check.CheckFailed) as caught:
        check.symbolic("fwd-step", lhs, rhs)
    report = str(caught.value)
    assert report.startswith("(fwd-step) symbolic check: fails\n  lhs"), report
    assert shown in report


@pytest.mark.parametrize(
    ("lhs", "rhs"),
    [("a + b", "b + a"), ([a], [a, b]), ([], []), ([a], a), (sympy.Eq(a, b), 0), (sympy.true, 1), (None, a)],
)
def test_symbolic_refuses(lhs, rhs):
    with pytest.raises(ValueError, match="lhs and rhs must"):
        check.symbolic("fwd-step", lhs, rhs)


# ---- exact ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lhs", "rhs"),
    [
        (0.1 + 0.2, 0.3),
        (3, 3),
        (torch.tensor([0.1, 0.2], dtype=torch.float64).sum(), 0.3),
        (np.full((2, 3), 1 / 3), [[1 / 3] * 3] * 2),
        (torch.arange(3), np.arange(3)),
        ([1.0, 1e-13], [1.0, 2e-13]),  # a cancelled element is measured by the whole array
    ],
)
def test_exact_holds(lhs, rhs, capsys):
    check.exact("fwd-step", lhs, rhs)
    assert capsys.readouterr().out == "✓ (fwd-step) holds to 1e-10 · exact\n"


def test_exact_carries_gradients_and_devices():
    leaf = torch.ones(2, dtype=torch.float64, requires_grad=True)
    check.exact("fwd-step", leaf * 2, [2.0, 2.0])


@pytest.mark.parametrize(
    ("lhs", "rhs"),
    [
        (1.0, 1 + 1.1e-10),
        ([1.0, 2.0], [1.0, 2.0 + 3e-10]),
        (math.nan, math.nan),
        (math.inf, math.inf),
        ([1.0, math.inf], [2.0, math.inf]),
        ([0.0, math.nan], [0.0, math.nan]),
        (0.0, 1e-300),
        (-1.0, 1.0),
    ],
)
def test_exact_fails_and_shows_both_sides(lhs, rhs):
    with pytest.raises(check.CheckFailed, match=r"\(fwd-step\) exact check: fails\n  lhs = .*\n  rhs = .*\n  .*worst"):
        check.exact("fwd-step", lhs, rhs)


def test_exact_tolerances():
    check.exact("fwd-step", 1.0, 1.05, rtol=0.1)
    with pytest.raises(check.CheckFailed, match=r"worst at \[1\]: 1e-13 against 2e-13"):
        check.exact("fwd-step", [1.0, 1e-13], [1.0, 2e-13], elementwise=True)
    with pytest.raises(ValueError, match="rtol must be finite and >= 0"):
        check.exact("fwd-step", 0.0, 0.0, rtol=-1.0)


def test_exact_names_the_worst_element():
    with pytest.raises(check.CheckFailed, match=r"2 of 4 differ; worst at \[1, 0\]: 3 against 5"):
        check.exact("fwd-step", [[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.5], [5.0, 4.0]])


one = torch.ones(2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("lhs", "rhs", "said"),
    [
        (one.float(), one, "lhs must be float64, got float32"),
        (one, one.bfloat16(), "rhs must be float64, got bfloat16"),
        (np.float32(1), 1.0, "lhs must be float64, got float32"),
        (1.0, one, r"one shape, got \(\) and \(2,\)"),
        (one, one, "one and the same object"),
        ([], [], "must not be empty"),
        (sympy.Rational(1, 3), 1 / 3, "lhs must be real numbers"),
        (1j, 1.0, "lhs must be real numbers"),
        (True, 1.0, "lhs must be real numbers"),
    ],
)
def test_exact_refuses(lhs, rhs, said):
    with pytest.raises(ValueError, match=said):
        check.exact("fwd-step", lhs, rhs)


# ---- Monte Carlo ----------------------------------------------------------------------------------------------


def draws(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (draws(1000), 0.0),
        (draws(1000, 2, 3) ** 2, torch.ones(2, 3)),
        (draws(1000, dtype=torch.float32), 0),
        ([0.0, 1.0], 0.5),
    ],
)
def test_monte_carlo_holds(samples, expected, capsys):
    check.monte_carlo("fwd-step", samples, expected)
    said = capsys.readouterr().out
    assert re.fullmatch(r"✓ \(fwd-step\) holds within 4 standard errors of [\de.+-]+%? · Monte Carlo\n", said), said


def test_monte_carlo_is_z_standard_errors_wide():
    samples = draws(400)
    error = float(samples.std()) / 20
    check.monte_carlo("fwd-step", samples, float(samples.mean()) + 3.99 * error)
    with pytest.raises(check.CheckFailed, match=r"lhs = .*\n  rhs = .*\n.*4 standard errors"):
        check.monte_carlo("fwd-step", samples, float(samples.mean()) + 4.01 * error)
    with pytest.raises(check.CheckFailed):
        check.monte_carlo("fwd-step", samples, float(samples.mean()) - 2.01 * error, z=2)


def test_monte_carlo_raises_false_alarms_as_often_as_it_says():
    """At z = 2 the two-sided probability is 4.55%; of 2,000 right checks, 91 +- 4 * 9.3 fail."""
    failed = 0
    for seed in range(2000):
        try:
            check.monte_carlo("fwd-step", draws(200, seed=seed), 0.0, z=2)
        except check.CheckFailed:
            failed += 1
    p = 2 * stats.t.sf(2, 199)
    assert abs(failed - 2000 * p) < 4 * math.sqrt(2000 * p * (1 - p))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_monte_carlo_never_passes_what_is_not_finite(bad):
    samples = draws(100)
    samples[3] = bad
    with pytest.raises(check.CheckFailed):
        check.monte_carlo("fwd-step", samples, 0.0)
    with pytest.raises(check.CheckFailed):
        check.monte_carlo("fwd-step", draws(100), bad)


@pytest.mark.parametrize(
    ("samples", "expected", "options", "said"),
    [
        (draws(1), 0.0, {}, "n >= 2"),
        (torch.tensor(1.0), 0.0, {}, "n >= 2"),
        (draws(10, 2), 0.0, {}, r"expected must have shape \(2,\)"),
        (draws(10), 0.0, {"z": 0}, "z must be > 0"),
        (torch.full((10,), 0.5), 0.5, {}, "samples must vary"),
        (torch.cat([draws(10, 1), torch.ones(10, 1)], 1), [0.0, 1.0], {}, "samples must vary"),
        (draws(100), 0.0, {"resolution": 0.1}, "samples must be more numerous: 4 standard errors are up to 0.4"),
    ],
)
def test_monte_carlo_refuses(samples, expected, options, said):
    with pytest.raises(ValueError, match=said):
        check.monte_carlo("fwd-step", samples, expected, **options)


# ---- slips and labels -----------------------------------------------------------------------------------------


def test_a_slip_that_is_caught_is_told(capsys):
    with check.slip("variance for standard deviation"):
        check.exact("fwd-step", 0.25, 0.5)
        raise AssertionError("nothing runs after the check has failed")
    assert capsys.readouterr().out == ("✓ (fwd-step) catches the slip: variance for standard deviation · exact\n")


def test_a_slip_that_no_check_sees_fails():
    with pytest.raises(check.CheckFailed, match="no check failed inside: nothing is wrong"):
        with check.slip("nothing is wrong"):
            check.exact("fwd-step", 0.5, 0.5)


def test_a_slip_passes_other_errors_on():
    with pytest.raises(ValueError, match="one shape"):
        with check.slip("a bad call is no slip"):
            check.exact("fwd-step", [1.0], 0.5)


@pytest.mark.parametrize("label", ["1-step", "step", "fwd step", "Fwd-step", "fwd-", "", "fwd_step"])
def test_labels_are_lower_case_words(label):
    for call in (check.symbolic, check.exact):
        with pytest.raises(ValueError, match="label must be lower-case words"):
            call(label, 1, 1)
    with pytest.raises(ValueError, match="label must be lower-case words"):
        check.monte_carlo(label, [0.0, 1.0], 0.5)


def test_failures_are_assertion_errors():
    assert issubclass(check.CheckFailed, AssertionError)
