"""The checks that follow the equations of the book.

A check names its equation, compares two sides that were computed in different ways, and either prints one line or
raises `CheckFailed`. There are three kinds: `symbolic` by SymPy, `exact` in float64, and `monte_carlo` for samples.

A check that cannot fail shows nothing, so each refuses input that would let it pass for free. In the same spirit,
`slip` holds a deliberately wrong formula, which the check inside must catch.

>>> exact("fwd-alpha-bar", 0.1 + 0.2, 0.3)
✓ (fwd-alpha-bar) holds to 1e-10 · exact
>>> with slip("the square root left out"):
...     exact("fwd-alpha-bar", 0.25, 0.5)
✓ (fwd-alpha-bar) catches the slip: the square root left out · exact

`diffnotes.book.ledger` reads the notebooks and lists the checks of each equation, and what is missing.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import sympy
from jaxtyping import Float64

LABEL = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+")


class CheckFailed(AssertionError):
    """The two sides of an equation differ; `label` names the equation and `kind` the check."""

    def __init__(self, label: str, kind: str, report: str) -> None:
        super().__init__(f"({label}) {kind} check: fails\n{report}")
        self.label, self.kind = label, kind


def verdict(label: str, kind: str, close: str = "", slip: str = "") -> str:
    """The one line that a check prints: what it found, how close, and of which kind it is.

    The ledger looks for it in the outputs that a notebook was saved with.
    """
    return f"✓ ({label}) {f'catches the slip: {slip}' if slip else f'holds{close}'} · {kind}"


def _known(label: str) -> None:
    if not LABEL.fullmatch(label):
        raise ValueError(f"label must be lower-case words joined by '-', such as 'fwd-step', got {label!r}")


# ---- the three checks -----------------------------------------------------------------------------------------


def symbolic(label: str, lhs: Any, rhs: Any, *, why: str = "") -> None:
    """Check that SymPy can reduce lhs - rhs to zero.

    Args:
        lhs, rhs: SymPy expressions, numbers, matrices, or lists and tuples of these, nested alike on both sides.
        why: what the check shows, for the ledger.

    Raises:
        CheckFailed: a difference did not reduce to zero. The message shows numbers for the symbols at which the sides
            differ, if it finds some; if not, SymPy could not decide, and the check fails all the same.
        ValueError: a bad label, a side that is not a SymPy expression, or sides of different lengths.

    >>> import sympy
    >>> a, b = sympy.symbols("a b", positive=True)
    >>> symbolic("fwd-merge", sympy.sqrt(a * b) ** 2, a * b)
    ✓ (fwd-merge) holds · symbolic
    """
    _known(label)
    for place, left, right in _pairs("", lhs, rhs):
        difference = (left - right).doit()
        if not _is_zero(difference):
            where = f" at {place}" if place else ""
            report = f"  lhs{where} = {left}\n  rhs{where} = {right}\n  {_witness(left, right, difference)}"
            raise CheckFailed(label, "symbolic", report)
    print(verdict(label, "symbolic"))


def exact(label: str, lhs: Any, rhs: Any, rtol: float = 1e-10, *, elementwise: bool = False, why: str = "") -> None:
    """Check that two float64 results are equal up to rounding.

    The rule is |lhs - rhs| <= rtol * scale for every element, where scale is the largest |lhs| or |rhs| in the *whole
    array*: an element that is small because large ones cancelled carries their rounding. If nothing cancels, use the
    stricter `elementwise=True`, with each element's own size as its scale.

    The default, 1e-10, is about a million roundings of 2**-53 = 1.1e-16, all of one sign: room for a product or a sum
    over T = 1000 steps, and far below any slip in a formula.

    Args:
        lhs, rhs: tensors, arrays, numbers or nested lists of one shape; float64 or integers.
        rtol: the relative tolerance, >= 0.
        why: where the tolerance comes from, for the ledger.

    Raises:
        CheckFailed: the sides differ, or one of them contains NaN or infinity, which never pass.
        ValueError: float32 or below (where 1e-10 means nothing), no elements, one object on both sides, different
            shapes, a bad label, or a negative tolerance.
    """
    _known(label)
    if not 0 <= rtol < math.inf:
        raise ValueError(f"rtol must be finite and >= 0, got {rtol}")
    if lhs is rhs and not isinstance(lhs, int | float):
        raise ValueError("lhs and rhs are one and the same object, so the check could not fail")
    left, right = _float64("lhs", lhs), _float64("rhs", rhs)
    if left.shape != right.shape:
        raise ValueError(f"lhs and rhs must have one shape, got {left.shape} and {right.shape}")
    sizes = np.maximum(np.abs(left), np.abs(right))
    scale = sizes if elementwise else np.max(sizes, where=np.isfinite(sizes), initial=0)
    allowed = np.broadcast_to(rtol * scale, left.shape)
    _compare(label, "exact", left, right, allowed, "rounding", f" to {rtol:g}" if rtol else " exactly")


def monte_carlo(
    label: str, samples: Any, expected: Any, z: int | float = 4, *, resolution: float | None = None, why: str = ""
) -> None:
    """Check that the mean of independent samples is within z of its standard errors of the expected value.

    The standard error of each element is the standard deviation of the samples (with n - 1) over sqrt(n). If the
    equation is right, one element is off by more than z = 4 of them with probability 2 * Phi(-4) = 6.3e-5 (for n in
    the hundreds or more; below that the tails of Student's t are heavier), and m elements raise a false alarm with
    probability at most m times that. With a seeded generator, a check that has passed once always passes.

    Args:
        samples: shape (n, ...), n >= 2, independent along the first axis, any floating dtype.
        expected: shape (...), the value that theory predicts for the mean.
        z: how many standard errors, > 0.
        resolution: the largest error the check may overlook. If z standard errors exceed it in some element, the
            samples are too few and are refused, so that a noisy check cannot pass a wrong formula.
        why: where the numbers come from, for the ledger.

    Raises:
        CheckFailed: a mean is too far off, or a sample or an expected value is not finite.
        ValueError: fewer than two samples, shapes that do not match, z <= 0, too few samples for `resolution`, or an
            element whose samples are all equal: its standard error is zero, so it is a case for `exact`.
    """
    _known(label)
    if not 0 < z < math.inf:
        raise ValueError(f"z must be > 0, got {z}")
    draws = _float64("samples", samples, any_float=True)
    target = _float64("expected", expected, any_float=True)
    if draws.ndim == 0 or len(draws) < 2:
        raise ValueError(f"samples must have shape (n, ...) with n >= 2, got {draws.shape}")
    if draws.shape[1:] != target.shape:
        raise ValueError(f"expected must have shape {draws.shape[1:]}, one per mean, got {target.shape}")
    if bool(np.any(np.all(draws == draws[:1], axis=0))):
        raise ValueError("samples must vary: all draws of an element are equal, which is a case for check.exact")
    with np.errstate(invalid="ignore"):  # infinity among the draws is caught below
        mean = np.asarray(draws.mean(axis=0))
        allowed = np.asarray(z * draws.std(axis=0, ddof=1) / math.sqrt(len(draws)))
    if resolution is not None and bool(np.any(allowed > resolution)):
        raise ValueError(
            f"samples must be more numerous: {z:g} standard errors are up to {np.nanmax(allowed):.3g}, "
            f"above resolution={resolution:g}"
        )
    # one standard error beside the largest number compared, to one digit: the same on every machine
    size = float(np.max(np.abs(target), initial=0))
    error = float(np.max(allowed, initial=0)) / z
    close = f" within {z:g} standard errors of " + (f"{100 * error / size:.1g}%" if size else f"{error:.1g}")
    _compare(label, "Monte Carlo", mean, target, allowed, f"{z:g} standard errors", close)


@contextmanager
def slip(description: str) -> Iterator[None]:
    """A classic mistake, made on purpose: the one check inside must fail, and the slip is reported as caught.

    Raises:
        CheckFailed: the check inside passed, so it does not notice this mistake.
    """
    try:
        yield
    except CheckFailed as failed:
        print(verdict(failed.label, failed.kind, slip=description))
    else:
        raise CheckFailed("slip", "planted", f"  no check failed inside: {description}")


def _float64(name: str, value: Any, any_float: bool = False) -> Float64[np.ndarray, "..."]:
    """`value` as a float64 array; other floating dtypes are refused unless `any_float`."""
    dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
    if hasattr(value, "detach"):  # a tensor, on any device; NumPy has no bfloat16
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()
    array = np.asarray(value)
    dtype = dtype or str(array.dtype)
    if "float" in dtype and dtype != "float64" and not any_float:
        raise ValueError(f"{name} must be float64, got {dtype}: its rounding is not the tolerance's")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be real numbers, got {type(value).__name__} of {dtype}")
    if array.size == 0:
        raise ValueError(f"{name} must not be empty, or nothing is checked, got shape {array.shape}")
    return array.astype(np.float64)


def _compare(label: str, kind: str, left: Any, right: Any, allowed: Any, unit: str, close: str) -> None:
    """Print the verdict, or raise with both sides and the worst element. Written so that NaN cannot pass."""
    with np.errstate(invalid="ignore"):  # inf - inf
        error = np.abs(left - right)
    bad = ~(np.isfinite(left) & np.isfinite(right) & (error <= allowed))
    if not bad.any():
        return print(verdict(label, kind, close))
    excess = np.where(bad, np.nan_to_num(error - allowed, nan=np.inf), -np.inf)
    worst = tuple(int(i) for i in np.unravel_index(np.argmax(excess), bad.shape))
    at = f" at {list(worst)}" if worst else ""
    report = (
        f"  lhs = {np.array2string(left, threshold=12, precision=12)}\n"
        f"  rhs = {np.array2string(right, threshold=12, precision=12)}\n"
        f"  {bad.sum()} of {bad.size} differ; worst{at}: {left[worst]:.12g} against {right[worst]:.12g}, "
        f"off by {error[worst]:.3g}, allowed {allowed[worst]:.3g} ({unit})"
    )
    raise CheckFailed(label, kind, report)


def _pairs(place: str, lhs: Any, rhs: Any) -> Iterator[tuple[str, sympy.Expr, sympy.Expr]]:
    """The pairs of scalars in two expressions, sequences or matrices, each with its place."""
    if isinstance(lhs, sympy.MatrixBase) and isinstance(rhs, sympy.MatrixBase):
        lhs, rhs = lhs.tolist(), rhs.tolist()
    sequence = (list, tuple, sympy.Tuple)
    if isinstance(lhs, sequence) and isinstance(rhs, sequence):
        if len(lhs) != len(rhs) or len(lhs) == 0:
            raise ValueError(f"lhs and rhs must have one length > 0, got {len(lhs)} and {len(rhs)}")
        for i, (left, right) in enumerate(zip(lhs, rhs, strict=True)):
            yield from _pairs(f"{place}[{i}]", left, right)
        return
    try:
        pair = sympy.sympify(lhs, strict=True), sympy.sympify(rhs, strict=True)
    except sympy.SympifyError as error:
        raise ValueError(f"lhs and rhs must be SymPy expressions, got {lhs!r} and {rhs!r}") from error
    if not all(isinstance(side, sympy.Expr) for side in pair):
        raise ValueError(f"lhs and rhs must be SymPy expressions nested alike, got {lhs!r} and {rhs!r}")
    yield place, *pair


def _is_zero(difference: sympy.Expr) -> bool:
    """Whether SymPy can show that an expression is zero: cheap ways first, each a proof if it succeeds."""
    ways = (
        lambda e: e,
        sympy.expand,
        sympy.simplify,
        lambda e: sympy.simplify(sympy.expand_log(sympy.expand(e))),
        lambda e: sympy.simplify(sympy.radsimp(sympy.together(e))),
        lambda e: sympy.simplify(e.rewrite(sympy.exp)),
    )
    return any(way(difference) == 0 for way in ways)


def _witness(left: sympy.Expr, right: sympy.Expr, difference: sympy.Expr) -> str:
    """Numbers for the symbols at which the two sides differ, to show to the reader; one choice is tried."""
    values: dict[Any, Any] = {}
    for i, symbol in enumerate(sorted(difference.free_symbols, key=str)):
        value = sympy.Integer(i + 2) if symbol.is_integer else sympy.Rational(1, 3) + sympy.Rational(i, 20)
        values[symbol] = -value if symbol.is_negative else value
    try:
        a, b = (sympy.N(side.subs(values).doit(), 30) for side in (left, right))
        apart = abs(complex(a - b)) > 1e-12 * max(abs(complex(a)), abs(complex(b)))
    except (TypeError, ValueError):  # no number: an unknown function or an open integral
        apart = False
    if not apart:
        return f"the difference did not reduce to zero: {sympy.simplify(difference)}"
    point = ", ".join(f"{symbol} = {value}" for symbol, value in values.items())
    return f"they differ{' at ' * bool(point)}{point}: {sympy.N(a, 6)} against {sympy.N(b, 6)}"
