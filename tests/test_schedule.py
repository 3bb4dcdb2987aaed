"""schedule.py: the numbers, the index convention, accuracy where digits are lost, every spacing, every error."""

import itertools
import math
import re
import warnings
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.swa_utils import AveragedModel

import diffnotes
from diffnotes.arguments import may_look, number
from diffnotes.forward import prior_kl
from diffnotes.schedule import NoiseSchedule, flat, timesteps

SPACINGS = ("trailing", "leading", "linspace", "quadratic")
EPS = 2.0**-53  # one float64 rounding, relative

betas = st.lists(st.floats(1e-6, 0.999), min_size=1, max_size=60).map(lambda b: torch.tensor(b, dtype=torch.float64))


def exact_alpha_bars(schedule: NoiseSchedule) -> list[Fraction]:
    """alpha-bar_0 .. alpha-bar_T as exact fractions of the stored betas: no rounding at all."""
    bars = [Fraction(1)]
    for beta in schedule.betas[1:].tolist():
        bars.append(bars[-1] * (1 - Fraction(beta)))
    return bars


def as_floats(values: list[Fraction]) -> torch.Tensor:
    return torch.tensor([float(v) for v in values], dtype=torch.float64)


def close(a: torch.Tensor, b: torch.Tensor, rtol: float) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=0.0)


# ---- numbers and conventions ------------------------------------------------------------------------------------


def test_known_numbers_of_the_linear_schedule() -> None:
    s = NoiseSchedule.linear(T=1000)
    assert s.betas[1] == 1e-4
    assert s.betas[1000] == 0.02
    assert float(s.alpha_bars[500]) == pytest.approx(0.07858724288, rel=1e-9)  # all digits that were given
    assert float(s.alpha_bars[1000]) == pytest.approx(4.03582976538e-5, rel=1e-11)
    assert float(s.posterior_variances[2]) == pytest.approx(5.453187661e-5, rel=1e-9)
    assert float(s.log_snr[1000]) == pytest.approx(-10.117673, abs=5e-7)


def test_index_zero_is_the_data() -> None:
    s = NoiseSchedule.constant(T=3, beta=0.25)
    assert s.T == 3
    assert len(s.betas) == len(s.alpha_bars) == 4
    assert (s.betas[0], s.alphas[0], s.alpha_bars[0], s.one_minus_alpha_bars[0]) == (0, 1, 1, 0)
    assert s.snr[0] == s.log_snr[0] == math.inf
    close(s.alpha_bars, torch.tensor([1, 0.75, 0.75**2, 0.75**3], dtype=torch.float64), 4 * EPS)


def test_cosine_follows_nichol_and_dhariwal_section_3_2() -> None:
    T, offset = 100, 0.008
    s = NoiseSchedule.cosine(T)
    f = [math.cos((t / T + offset) / (1 + offset) * math.pi / 2) ** 2 for t in range(T + 1)]
    unclipped = torch.tensor([a / f[0] for a in f[:-1]], dtype=torch.float64)  # the last beta alone is clipped
    close(s.alpha_bars[:-1], unclipped, 1e-10)
    assert s.betas[-1] == 0.999
    assert float(s.betas[1:-1].max()) < 0.999


def test_defaults_are_those_of_the_papers() -> None:
    """Ho et al. 2020, section 4, and Nichol and Dhariwal 2021, section 3.2: 1000 steps."""
    assert NoiseSchedule.linear().T == NoiseSchedule.cosine().T == 1000
    assert torch.equal(NoiseSchedule.linear().betas, NoiseSchedule.linear(1000, 1e-4, 0.02).betas)
    assert torch.equal(NoiseSchedule.cosine().betas, NoiseSchedule.cosine(1000, 0.008).betas)


def test_a_straight_line_may_be_level() -> None:
    flat = NoiseSchedule.constant(1000, 0.01)
    assert torch.equal(NoiseSchedule.linear(1000, start=0.01, end=0.01).betas, flat.betas)
    assert flat.betas[1:].tolist() == [0.01] * 1000  # the nearest float64, not that of a float32


def test_linear_is_rescaled_so_that_the_total_noise_stays() -> None:
    for T in (50, 200, 4000):
        total = float(NoiseSchedule.linear(T).betas.sum())
        assert total == pytest.approx(1000 * (1e-4 + 0.02) / 2, rel=T * EPS)


@given(betas)
def test_derived_quantities_against_exact_fractions(b: torch.Tensor) -> None:
    s = NoiseSchedule(b)
    bars = exact_alpha_bars(s)
    # Each log1p is off by an ulp of itself, and the sum of T of them by T ulps of the sum: relative T * EPS * |log|
    # after exp. |log alpha-bar| is at most 60 * 6.9; a factor 4 covers exp, expm1 and the division.
    tol = 4 * s.T * EPS * max(1.0, float(-s.log_alpha_bars[-1]))
    noise = [1 - a for a in bars]
    post = [Fraction(0)] + [Fraction(s.betas[t].item()) * noise[t - 1] / noise[t] for t in range(1, s.T + 1)]
    close(s.alpha_bars, as_floats(bars), tol)
    close(s.one_minus_alpha_bars, as_floats(noise), tol)
    close(s.sqrt_alpha_bars**2, as_floats(bars), tol)
    close(s.sqrt_one_minus_alpha_bars**2, as_floats(noise), tol)
    close(s.posterior_variances, as_floats(post), tol)
    close(s.snr[1:], as_floats([a / n for a, n in zip(bars[1:], noise[1:], strict=True)]), tol)
    close(s.alphas, 1 - s.betas, EPS)
    torch.testing.assert_close(s.log_snr[1:], s.snr[1:].log(), rtol=4 * tol, atol=4 * tol)


def test_one_minus_alpha_bar_keeps_its_digits_near_the_data() -> None:
    s = NoiseSchedule.constant(T=2, beta=1e-12)
    close(s.one_minus_alpha_bars[1:], as_floats([1 - a for a in exact_alpha_bars(s)[1:]]), 8 * EPS)


@given(betas)
def test_posterior_variance_lies_below_beta_and_all_is_monotone(b: torch.Tensor) -> None:
    s = NoiseSchedule(b)
    assert s.posterior_variances[1] == 0
    assert bool((s.posterior_variances <= s.betas).all())  # strictly on paper; equal where 1 - alpha-bar rounds to 1
    assert bool((s.alpha_bars.diff() < 0).all())
    assert bool((s.log_snr[1:].diff() < 0).all())


@given(betas)
def test_from_alpha_bars_inverts_alpha_bars(b: torch.Tensor) -> None:
    s = NoiseSchedule(b)
    again = NoiseSchedule.from_alpha_bars(s.alpha_bars[1:])
    # log(alpha-bar) carries an absolute error of about EPS * (1 + |log|), and beta is a difference of two of them
    allowed = 8 * EPS * s.T * (1 + float(-s.log_alpha_bars[-1]))
    torch.testing.assert_close(again.betas, s.betas, rtol=0.0, atol=allowed)


def test_a_sub_sequence_is_a_schedule() -> None:
    full = NoiseSchedule.linear(1000)
    ts = timesteps(1000, 7)
    sub = NoiseSchedule.from_alpha_bars(full.alpha_bars[ts])
    close(sub.alpha_bars[1:], full.alpha_bars[ts], 100 * EPS)
    assert float(sub.betas[3]) == pytest.approx(float(1 - full.alpha_bars[ts[2]] / full.alpha_bars[ts[1]]), rel=1e-13)


def test_is_frozen_float64_and_keeps_the_callers_tensor() -> None:
    given_betas = torch.tensor([0.1, 0.2], dtype=torch.float32)
    s = NoiseSchedule(given_betas)
    assert s.betas.dtype == s.alpha_bars.dtype == s.snr.dtype == torch.float64
    assert given_betas.shape == (2,)
    with pytest.raises(AttributeError):
        s.betas = given_betas  # type: ignore[misc]


def test_float32_alpha_bars_are_worked_on_in_float64() -> None:
    bars = torch.tensor([0.9, 0.5], dtype=torch.float32)
    assert torch.equal(NoiseSchedule.from_alpha_bars(bars).betas, NoiseSchedule.from_alpha_bars(bars.double()).betas)


def test_a_schedule_equals_itself_alone_and_can_be_a_key() -> None:
    """Tensors have no one truth value, so schedules are not compared number by number."""
    a, b = NoiseSchedule.constant(3, 0.1), NoiseSchedule.constant(3, 0.1)
    assert a == a
    assert a != b
    assert {a: 1}[a] == 1


DERIVED = ("alphas", "log_alpha_bars", "alpha_bars", "one_minus_alpha_bars", "sqrt_alpha_bars",
           "sqrt_one_minus_alpha_bars", "posterior_variances", "log_snr", "snr")  # fmt: skip


def test_tensors_made_in_inference_mode_are_ordinary_ones() -> None:
    with torch.inference_mode():
        s = NoiseSchedule.linear(100)
        assert not any(getattr(s, name).is_inference() for name in ("betas", *DERIVED))


def test_derived_tensors_are_made_at_once() -> None:
    s = NoiseSchedule.linear(100)
    assert set(DERIVED) < set(vars(s))  # so that no compiler meets a cached_property at its first use


# ---- looking up ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_at_casts_last_and_broadcasts(dtype: torch.dtype) -> None:
    s = NoiseSchedule.linear(1000)
    x, t = torch.zeros(2, 3, 4, dtype=dtype), torch.tensor([1, 1000])
    got = s.at(s.sqrt_one_minus_alpha_bars, t, x)
    assert got.shape == (2, 1, 1)
    assert got.dtype == dtype
    assert torch.equal(got.flatten(), s.sqrt_one_minus_alpha_bars[t].to(dtype))
    assert torch.equal(s.at(s.betas, 7, x), s.betas[7].to(dtype))


def test_the_first_and_the_last_step_can_be_looked_up() -> None:
    s, x = NoiseSchedule.linear(100), torch.zeros(2, 3)
    for t in (1, 100):
        want = s.betas[t].float()
        assert torch.equal(s.at(s.betas, t, x), want)
        assert torch.equal(s.at(s.betas, torch.tensor([t, t]), x), want.expand(2, 1))
    assert s.at(s.betas, torch.zeros(0, dtype=torch.int64), x[:0]).shape == (0, 1)  # nothing to be out of range


def test_with_an_int_a_schedule_on_the_cpu_serves_every_device() -> None:
    """What comes back is one number, and torch multiplies a tensor anywhere by one number of the CPU."""
    s = NoiseSchedule.linear(100)
    value = s.at(s.betas, 7, torch.zeros(2, 3, device="meta"))
    assert (value.device.type, float(value)) == ("cpu", float(s.betas[7].float()))


def test_meta_and_fake_devices() -> None:
    s = NoiseSchedule(torch.full((10,), 0.1, device="meta", dtype=torch.float64))
    x = torch.zeros(2, 3, device="meta")
    assert s.at(s.alpha_bars, torch.zeros(2, dtype=torch.int64, device="meta"), x).shape == (2, 1)
    assert "meta" in repr(s)
    assert s.to("meta").T == 10
    assert NoiseSchedule.constant(10, 0.1).to("meta").betas.device.type == "meta"
    with FakeTensorMode():
        s = NoiseSchedule(torch.full((10,), 0.1, device="cuda", dtype=torch.float64))
        x, t = torch.zeros(2, 3, device="cuda"), torch.ones(2, dtype=torch.int64, device="cuda")
        got = s.at(s.posterior_variances, t, x)
        assert got.device.type == "cuda"
        assert got.shape == (2, 1)
        with pytest.raises(ValueError, match=r"share a device.*schedule\.to"):
            NoiseSchedule.at(s, s.betas, t.new_ones(2, device="cpu"), torch.zeros(2, 3))
        with pytest.raises(ValueError, match="share a device"):
            s.at(s.betas, 3, torch.zeros(2, 3))


# ---- timesteps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("T", [1, 2, 3, 10, 97, 1000])
def test_timesteps_for_every_number_of_steps(T: int, spacing: str) -> None:
    for steps in range(1, T + 1):
        ts = timesteps(T, steps, spacing)  # type: ignore[arg-type]
        assert len(ts) == steps
        assert ts[0] >= 1
        assert ts[-1] <= T
        assert all(a < b for a, b in itertools.pairwise(ts))
        assert ts[0] == 1 if spacing == "leading" else ts[-1] == T
    assert ts == list(range(1, T + 1))  # all steps is every step


@given(st.data())
def test_timesteps_are_near_the_line_they_round(data: st.DataObject) -> None:
    T = data.draw(st.integers(2, 5000))
    steps = data.draw(st.integers(2, T))
    for i, (a, b) in enumerate(zip(timesteps(T, steps), timesteps(T, steps, "linspace"), strict=True)):
        assert abs(a - (i + 1) * T / steps) <= 0.5
        assert abs(b - (1 + i * (T - 1) / (steps - 1))) <= 0.5


def test_timesteps_of_the_papers() -> None:
    assert timesteps(1000, 10) == list(range(100, 1001, 100))  # Lin et al. 2023, table 2
    assert timesteps(1000, 10, "leading") == list(range(1, 1000, 100))
    assert timesteps(1000, 10, "linspace") == [1, 112, 223, 334, 445, 556, 667, 778, 889, 1000]
    quadratic = timesteps(1000, 10, "quadratic")
    assert quadratic == [1 + round(999 * (i / 9) ** 2) for i in range(10)]
    assert timesteps(10, 8, "quadratic") == [1, 2, 3, 4, 5, 6, 8, 10]  # squares closer than 1 are pushed apart


# ---- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [[0.0], [1.0], [0.1, -0.1], [0.1, 1.5], [math.nan], []])
def test_bad_betas(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="betas must"):
        NoiseSchedule(torch.tensor(bad, dtype=torch.float64))
    with pytest.raises(ValueError, match="betas must"):
        NoiseSchedule(torch.full((2, 2), 0.1))


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("bad", [None, "linear", ["a"], [[0.1], [0.1, 0.2]], {}])
@pytest.mark.parametrize(
    ("name", "make"), [("betas", NoiseSchedule), ("alpha_bars", NoiseSchedule.from_alpha_bars)], ids=["betas", "bars"]
)
def test_what_is_no_list_of_numbers(name: str, make: Any, bad: Any) -> None:
    said = f"^{name} must be a tensor, array or list of numbers, got {re.escape(repr(bad))}$"
    with pytest.raises(ValueError, match=said):
        make(bad)


def test_bad_makers() -> None:
    with pytest.raises(ValueError, match=r"T=20 puts betas at .*larger T"):
        NoiseSchedule.linear(20)
    for start in (-0.1, 0.0):
        with pytest.raises(ValueError, match=r"puts betas at .* start and end within it"):
            NoiseSchedule.linear(1000, start=start)
    for make in (NoiseSchedule.linear, NoiseSchedule.cosine, lambda T: NoiseSchedule.constant(T, 0.1)):
        with pytest.raises(ValueError, match="T must be at least 1, got 0"):
            make(0)
    with pytest.raises(ValueError, match=r"s must lie in \[0, inf\), got -0\.001"):
        NoiseSchedule.cosine(10, s=-0.001)
    for beta in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"beta must lie in \(0, 1\), got"):
            NoiseSchedule.constant(10, beta)
    for bars in ([0.5, 0.6], [1.0, 0.5], [0.5, 0.0]):  # rising, 1, and the zero of a rescaled schedule
        with pytest.raises(ValueError, match=r"alpha_bars must fall strictly and lie in .* got tensor"):
            NoiseSchedule.from_alpha_bars(torch.tensor(bars))
    for shape in (torch.zeros(0), torch.tensor(0.5), torch.full((2, 2), 0.5)):
        with pytest.raises(ValueError, match=r"alpha_bars must have shape \(T,\) with T >= 1, got"):
            NoiseSchedule.from_alpha_bars(shape)


def test_rows() -> None:
    for shape, rows in (((3,), (3, 1)), ((3, 2), (3, 2)), ((3, 2, 2), (3, 4)), ((0, 2), (0, 2))):
        assert flat(torch.zeros(shape)).shape == rows


def test_bad_times() -> None:
    s, x = NoiseSchedule.linear(100), torch.zeros(2, 3)
    for t in (0, 101, -1):
        with pytest.raises(ValueError, match=rf"t must lie in 1\.\.100, got {t}"):
            s.at(s.betas, t, x)
        with pytest.raises(ValueError, match=r"t must lie in 1\.\.100"):
            s.at(s.betas, torch.tensor([5, t]), x)
    with pytest.raises(ValueError, match="t must have shape"):
        s.at(s.betas, torch.tensor([1, 2, 3]), x)


@pytest.mark.usefixtures("no_shape_checks")
def test_bad_timesteps() -> None:
    for steps in (0, 11, -1):
        with pytest.raises(ValueError, match=rf"steps must lie in 1\.\.T = 1\.\.10, got {steps}"):
            timesteps(10, steps)
    with pytest.raises(ValueError, match=r"spacing must be one of .*'log'"):
        timesteps(10, 5, "log")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="T must be at least 1"):
        timesteps(0, 1)


def test_only_numbers_that_lie_on_the_cpu_are_looked_at() -> None:
    assert may_look(torch.zeros(2))
    assert may_look(torch.nn.Parameter(torch.zeros(2)))
    assert not may_look(torch.zeros(2, device="meta"))
    with FakeTensorMode():
        assert not may_look(torch.zeros(2))
        assert not may_look(torch.zeros(2, device="cuda"))
        assert not may_look(torch.nn.Parameter(torch.zeros(2)))


NOT_WHOLE = [1000.0, 2.5, math.nan, math.inf, True, "5", None, np.float64(5), np.array([5]), torch.tensor([5])]


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("value", NOT_WHOLE, ids=repr)
def test_what_is_no_whole_number_is_refused_by_name(value: Any) -> None:
    s = NoiseSchedule.linear(100)
    for name, call in {
        "T": [NoiseSchedule.linear, NoiseSchedule.cosine, lambda T: NoiseSchedule.constant(T, 0.1)],
        "steps": [lambda steps: timesteps(10, steps)],
    }.items():
        for f in call:
            with pytest.raises(ValueError, match=f"{name} must be a whole number, got"):
                f(value)
    with pytest.raises(ValueError, match=r"^steps must be a"):
        s.pairs([value])
    with pytest.raises(ValueError, match="t must"):
        s.at(s.betas, value, torch.zeros(2, 3))


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "0.1", None, np.ones(2), 1j], ids=repr)
def test_what_is_no_finite_number_is_refused_by_name(value: Any) -> None:
    for name, call in {
        "start": lambda x: NoiseSchedule.linear(1000, start=x),
        "end": lambda x: NoiseSchedule.linear(1000, end=x),
        "s": lambda x: NoiseSchedule.cosine(10, x),
        "beta": lambda x: NoiseSchedule.constant(10, x),
    }.items():
        with pytest.raises(ValueError, match=rf"{name} must (lie|be a number) in [\[(].*\), got"):
            call(value)


@pytest.mark.parametrize(
    ("value", "within", "fits"),
    [
        (0, "[0, 1)", True),
        (1, "[0, 1)", False),
        (0, "(0, 1]", False),
        (1, "(0, 1]", True),
        (np.float32(0.5), "(0, 1)", True),
        (1e308, "(-inf, inf)", True),
    ],
)
def test_intervals_are_open_or_closed_as_they_say(value: float, within: str, fits: bool) -> None:
    if fits:
        assert number("x", value, within) == value
    else:
        with pytest.raises(ValueError, match=re.escape(f"x must lie in {within}, got {float(value)}")):
            number("x", value, within)


@pytest.mark.usefixtures("no_shape_checks")
def test_numbers_and_arrays_of_numpy_do() -> None:
    s, x = NoiseSchedule.linear(100), torch.zeros(2, 3)
    for same in (NoiseSchedule.linear(np.int64(100), np.float64(1e-4)), NoiseSchedule(s.betas[1:].numpy())):
        assert torch.equal(same.betas, s.betas)
    bars: Any = s.alpha_bars[1:].numpy()
    close(NoiseSchedule.from_alpha_bars(bars).betas, s.betas, rtol=100 * EPS / 1e-3)
    assert timesteps(np.int64(10), np.int64(4)) == timesteps(10, 4)  # type: ignore[arg-type]
    assert {type(t) for t in timesteps(np.int64(10), np.int64(4))} == {int}  # type: ignore[arg-type]
    for t in (np.int64(7), np.int32(7), np.uint8(7)):
        assert float(s.at(s.betas, t, x)) == float(s.betas[7].float())  # type: ignore[arg-type]
    for dtype in (torch.int32, torch.int16, torch.uint8):
        t = torch.tensor([7, 100])
        assert torch.equal(s.at(s.betas, t.to(dtype), x), s.at(s.betas, t, x))


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("t", [torch.tensor([1.0, 2.0]), torch.tensor([True, True])])
def test_times_that_are_not_whole_are_refused(t: torch.Tensor) -> None:
    s = NoiseSchedule.linear(100)
    with pytest.raises(ValueError, match="t must hold whole numbers, got torch"):
        s.at(s.betas, t, torch.zeros(2, 3))


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("x", [torch.zeros(2, 3).byte(), torch.zeros(2, 3).long(), np.zeros((2, 3))])
def test_factors_are_never_rounded_to_integers(x: Any) -> None:
    s = NoiseSchedule.linear(100)
    with pytest.raises(ValueError, match=r"x must be (floating point, got torch|a torch.Tensor, got ndarray)"):
        s.at(s.betas, 5, x)


@pytest.mark.parametrize("T", [1, 2])
def test_the_shortest_schedules(T: int) -> None:
    for s in (NoiseSchedule.linear(T, 1e-4, 2e-4), NoiseSchedule.cosine(T), NoiseSchedule.constant(T, 0.1)):
        assert s.T == T
        assert bool((s.alpha_bars.diff() < 0).all())
        assert float(s.posterior_variances[1]) == 0
        assert bool(s.posterior_variances.isfinite().all())


def test_a_model_for_another_schedule_is_refused() -> None:
    s = NoiseSchedule.linear(100)
    for model in (SimpleNamespace(T=100), SimpleNamespace(), SimpleNamespace(T="what it likes"), lambda x, t: x):
        s.check_T(model)
    with pytest.raises(ValueError, match="model must be made for the schedule's T = 100, got one for T = 1000"):
        s.check_T(SimpleNamespace(T=1000))


def net_for(T: int) -> Any:
    net: Any = nn.Identity()
    net.T = T
    return net


compiled = partial(torch.compile, backend="eager")


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        AveragedModel,
        compiled,
        lambda net: partial(net, y=None),
        lambda net: partial(partial(nn.DataParallel(nn.DataParallel(net)), y=None)),
        lambda net: compiled(nn.DataParallel(net)),
        lambda net: nn.DataParallel(compiled(net)),
    ],
    ids=["parallel", "averaged", "compiled", "partial", "many", "compiled parallel", "parallel compiled"],
)
def test_a_model_for_another_schedule_is_refused_through_its_wrappers(wrap: Any) -> None:
    s = NoiseSchedule.linear(100)
    for fits in (net_for(100), nn.Identity()):
        s.check_T(wrap(fits))
    with pytest.raises(ValueError, match="model must be made for the schedule's T = 100, got one for T = 1000"):
        s.check_T(wrap(net_for(1000)))


# ---- what a sampler asks of it --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "pairs"),
    [
        (None, [(4, 3), (3, 2), (2, 1), (1, 0)]),
        (2, [(4, 2), (2, 0)]),
        ([1, 4], [(4, 1), (1, 0)]),
        ((3,), [(3, 0)]),
        (range(2, 4), [(3, 2), (2, 0)]),
    ],
)
def test_pairs(steps: Any, pairs: list[tuple[int, int]]) -> None:
    assert NoiseSchedule.constant(4, 0.1).pairs(steps) == pairs


@pytest.mark.parametrize("steps", [[], [0, 4], [2, 2], [3, 2], [5], [-1]])
def test_times_that_do_not_rise_are_refused(steps: list[int]) -> None:
    with pytest.raises(ValueError, match=r"steps must be a number, or times that rise within 1\.\.4, got \["):
        NoiseSchedule.constant(4, 0.1).pairs(steps)


def test_the_spacing_of_pairs_is_that_of_timesteps() -> None:
    assert NoiseSchedule.constant(10, 0.1).pairs(3, "leading") == [(7, 4), (4, 1), (1, 0)]


def test_a_prior_not_reached_is_told() -> None:
    """The limit is 0.001 bits a dimension for data of unit power."""

    def warned(alpha_bar: float) -> bool:
        s = NoiseSchedule.from_alpha_bars(torch.tensor([0.5, alpha_bar], dtype=torch.float64))
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            s.warn_unless_prior(2)
        nats = prior_kl(s, torch.ones(1, 1, dtype=torch.float64))  # |x_0|^2 = 1, one dimension
        assert (float(nats) / math.log(2) > 1e-3) is bool(record)
        return bool(record)

    assert [warned(a) for a in (0.0047, 0.0014, 0.00138, 4e-5)] == [True, True, False, False]
    with pytest.warns(UserWarning, match=r"t = 100, where alpha_bar = 0\.897.*1\.6 bits"):
        NoiseSchedule.linear(1000).warn_unless_prior(100)


def private(text: str) -> bool:
    """Whether a source uses a private name of torch."""
    return bool(re.search(r"(?<!\")\btorch(\.\w+)*\._[A-Za-z]|\bfrom torch[\w.]* import .*\b_[A-Za-z]", text))


def test_no_private_name_of_torch_is_used() -> None:
    """Such as FakeTensor and `torch._C._is_alias_of`: they may go with any release."""
    for path in Path(diffnotes.__file__).parent.rglob("*.py"):
        assert not private(path.read_text("utf-8")), path.name


@pytest.mark.parametrize(
    "planted",
    [
        "torch._C._is_alias_of(x, y)",
        "torch._VF.norm(x)",
        "torch.nn.modules._functions",
        "import torch.utils._pytree as tree",
        "from torch._subclasses.fake_tensor import FakeTensor",
        "from torch import Tensor, _C",
        "from torch.utils import _pytree",
    ],
)
def test_a_planted_private_name_is_seen(planted: str) -> None:
    assert private(planted)


def test_other_names_are_let_be() -> None:
    assert not private('from torch import Tensor, nn\ntorch.__version__, x._torch, name.startswith("torch._dynamo")')
