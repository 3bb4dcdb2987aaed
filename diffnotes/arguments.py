"""Argument checks, made before any work is done: a ValueError names the argument, its value and what is allowed.

>>> whole("steps", 5), number("eta", 1, "[0, 1]")
(5, 1.0)
"""

import numbers
from typing import Any

import torch
from torch import Tensor, nn

SEEDS = -(2**63), 2**64 - 1  # the least and the greatest that a torch.Generator takes


def whole(name: str, value: Any, least: int | None = 1, most: int | None = None) -> int:
    """The argument `name` as an int: a Python or NumPy integer in `least` .. `most`.

    >>> whole("steps", 2.5)
    Traceback (most recent call last):
    ValueError: steps must be a whole number, got 2.5
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    n = int(value)
    if (least is not None and n < least) or (most is not None and n > most):
        allowed = f"be at least {least}" if most is None else f"lie in {least}..{most}"
        raise ValueError(f"{name} must {allowed}, got {n}")
    return n


def whole_numbers(name: str, values: Any) -> list[int]:
    """The argument `name` as a list of ints: a sequence, array or tensor of whole numbers."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if not hasattr(values, "__iter__"):
        raise ValueError(f"{name} must be a sequence of whole numbers, got {values!r}")
    return [whole(name, value, least=None) for value in values]


def number(name: str, value: Any, within: str = "(-inf, inf)") -> float:
    """The argument `name` as a float: a Python or NumPy number in the interval `within`, never NaN.

    >>> number("noise", float("nan"), "[0, 1)")
    Traceback (most recent call last):
    ValueError: noise must lie in [0, 1), got nan
    """
    low, high = (float(end) for end in within[1:-1].split(","))
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ValueError(f"{name} must be a number in {within}, got {value!r}")
    x = float(value)
    if not (low < x < high or (x == low and within[0] == "[") or (x == high and within[-1] == "]")):
        raise ValueError(f"{name} must lie in {within}, got {x}")
    return x


def check_floating(**tensors: Any) -> None:
    """Raise ValueError unless every argument is a floating-point tensor: integers would round each factor to 0."""
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            hint = ": scale pixels to [-1, 1]" if x.dtype == torch.uint8 else ""
            raise ValueError(f"{name} must be floating point, got {x.dtype}{hint}")


def check_batch(**tensors: Any) -> None:
    """Raise ValueError unless the arguments are floating-point tensors of one shape (batch, ...)."""
    check_floating(**tensors)
    first, shape = next((name, x.shape) for name, x in tensors.items())
    if not shape:
        raise ValueError(f"{first} must have shape (batch, ...), got ()")
    for name, x in tensors.items():
        if x.shape != shape:
            raise ValueError(f"{name} must be shaped like {first}, {tuple(shape)}, got {tuple(x.shape)}")


def checked_time(t: Any, T: int, x: Tensor) -> int | Tensor:
    """`t` as an int, or as int64 of shape (batch,) if it is a tensor with one time per example of `x`.

    Raises:
        ValueError: t is not whole, has another shape, or lies outside 1..T (checked for ints and on the CPU only).
    """
    if not isinstance(t, Tensor):
        return whole("t", t, 1, T)
    check_integers(t=t)
    if t.shape != x.shape[:1]:
        raise ValueError(f"t must have shape {tuple(x.shape[:1])}, one per example of x, got {tuple(t.shape)}")
    if may_look(t) and len(t) and not 1 <= int(t.min()) <= int(t.max()) <= T:
        raise ValueError(f"t must lie in 1..{T}, got {int(t.min())} .. {int(t.max())}")
    return t.long()


def per_example(t: Any, T: int, x: Tensor) -> Tensor:
    """`t` in the form that a model takes, int64 of shape (batch,); errors as in `checked_time`."""
    t = checked_time(t, T, x)
    return torch.full(x.shape[:1], t, device=x.device) if isinstance(t, int) else t


def check_integers(**tensors: Any) -> None:
    """Raise ValueError unless every argument is a tensor of whole numbers."""
    for name, values in tensors.items():
        if not isinstance(values, Tensor):
            raise ValueError(f"{name} must be a torch.Tensor of whole numbers, got {type(values).__name__}")
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise ValueError(f"{name} must hold whole numbers, got {values.dtype}")


def check_labels(y: Any, most: int, note: str = "") -> None:
    """Raise ValueError unless y has one class per example, in 0..most (on the CPU only); `note` explains the range."""
    check_integers(y=y)
    if y.ndim != 1:
        raise ValueError(f"y must have shape (batch,), got {tuple(y.shape)}")
    if may_look(y) and len(y) and not 0 <= int(y.min()) <= int(y.max()) <= most:
        raise ValueError(f"y must lie in 0..{most}{note}, got {int(y.min())} .. {int(y.max())}")


def has_values(t: Tensor) -> bool:
    """False if `t` has no values to inspect: on the meta device, in a fake tensor, or while torch.compile traces."""
    # torch keeps the class of its fake tensors private, hence the exact test of the type
    return not (torch.compiler.is_compiling() or t.is_meta) and type(t) in (Tensor, nn.Parameter)


def may_look(t: Tensor) -> bool:
    """True if inspecting the values is free; on an accelerator the host would have to wait for them."""
    return t.device.type == "cpu" and has_values(t)


def in_float64(name: str, values: Any) -> Tensor:
    """The argument `name`, a tensor, array or list of numbers, as a float64 tensor; a tensor keeps its device.

    Raises:
        ValueError: it does not consist of numbers, or its device lacks float64.
    """
    try:
        return torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(values, Tensor):
            usable_device(values.device, name=f"the device of {name}")
            raise
        raise ValueError(f"{name} must be a tensor, array or list of numbers, got {values!r}") from error


def usable_device(device: torch.device | str, meta: bool = True, name: str = "device") -> torch.device:
    """`device`, if torch can make a float64 tensor on it; `meta` says whether the meta device will do.

    Raises:
        ValueError: this torch or this machine lacks the device, or the device lacks float64.
    """
    try:
        found = torch.empty(0, dtype=torch.float64, device=device)
        if found.is_meta and not meta:
            raise TypeError("the meta device holds no values")
        return found.device
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        raise ValueError(
            f"{name} must be cpu or cuda, or another on which torch can make a float64 tensor on this machine "
            f"(Apple's mps has no float64), got {str(device)!r}"
        ) from error
