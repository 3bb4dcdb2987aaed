"""Arguments, looked at before any work is done: a wrong one is a ValueError with its name and what is allowed.

>>> whole("steps", 5), number("eta", 1, "[0, 1]")
(5, 1.0)
"""

import numbers
from typing import Any

import torch
from torch import Tensor, nn


def whole(name: str, value: Any, least: int | None = 1, most: int | None = None) -> int:
    """`value`, the argument `name`, as an int: a whole number of Python or NumPy within `least` .. `most`.

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
    """`values`, the argument `name`, as ints: a sequence, an array or a tensor of whole numbers."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if not hasattr(values, "__iter__"):
        raise ValueError(f"{name} must be a sequence of whole numbers, got {values!r}")
    return [whole(name, value, least=None) for value in values]


def number(name: str, value: Any, within: str = "(-inf, inf)") -> float:
    """`value`, the argument `name`, as a float: a number of Python or NumPy in the interval `within`, never NaN.

    >>> number("noise", float("nan"), "[0, 1)")
    Traceback (most recent call last):
    ValueError: noise must lie in [0, 1), got nan
    """
    low, high = (float(end) for end in within[1:-1].split(","))
    if not isinstance(value, numbers.Real):
        raise ValueError(f"{name} must be a number in {within}, got {value!r}")
    x = float(value)
    if not (low < x < high or (x == low and within[0] == "[") or (x == high and within[-1] == "]")):
        raise ValueError(f"{name} must lie in {within}, got {x}")
    return x


def check_floating(**tensors: Any) -> None:
    """ValueError unless each of these arguments, given by name, is a floating-point tensor.

    In an integer dtype every factor of a schedule would be rounded to 0.
    """
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            hint = ": put pixels on [-1, 1]" if x.dtype == torch.uint8 else ""
            raise ValueError(f"{name} must be floating point, got {x.dtype}{hint}")


def check_batch(**tensors: Any) -> None:
    """ValueError unless these arguments, given by name, are floating-point tensors (batch, ...), shaped alike."""
    check_floating(**tensors)
    first, shape = next((name, x.shape) for name, x in tensors.items())
    if not shape:
        raise ValueError(f"{first} must have shape (batch, ...), got ()")
    for name, x in tensors.items():
        if x.shape != shape:
            raise ValueError(f"{name} must be shaped like {first}, {tuple(shape)}, got {tuple(x.shape)}")


def checked_time(t: Any, T: int, x: Tensor) -> int | Tensor:
    """`t` as an int, or as int64 of shape (batch,) where it is one per example of `x`.

    Raises:
        ValueError: t is not whole, is outside 1..T (looked at for ints and on the CPU) or has another shape.
    """
    if not isinstance(t, Tensor):
        return whole("t", t, 1, T)
    check_integers(t=t)
    if t.shape != x.shape[:1]:
        raise ValueError(
            f"t must have shape {tuple(x.shape[:1])}, one per example of x, got {tuple(t.shape)}"
        )
    if may_look(t) and len(t) and not 1 <= int(t.min()) <= int(t.max()) <= T:
        raise ValueError(f"t must lie in 1..{T}, got {int(t.min())} .. {int(t.max())}")
    return t.long()


def per_example(t: Any, T: int, x: Tensor) -> Tensor:
    """t as a model takes it, int64 of shape (batch,); errors as in `checked_time`."""
    t = checked_time(t, T, x)
    return torch.full(x.shape[:1], t, device=x.device) if isinstance(t, int) else t


def check_integers(**tensors: Any) -> None:
    """ValueError unless each of these arguments, given by name, is a tensor of whole numbers."""
    for name, values in tensors.items():
        if not isinstance(values, Tensor):
            raise ValueError(f"{name} must be a torch.Tensor of whole numbers, got {type(values).__name__}")
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise ValueError(f"{name} must hold whole numbers, got {values.dtype}")


def has_values(t: Tensor) -> bool:
    """False where there are no numbers to look at: on the meta device, in fake tensors, while torch.compile traces."""
    # a fake tensor is of a class of its own, which torch keeps to itself
    return not (torch.compiler.is_compiling() or t.is_meta) and type(t) in (Tensor, nn.Parameter)


def may_look(t: Tensor) -> bool:
    """True where a look at the numbers costs nothing: on an accelerator the host would have to wait for them."""
    return t.device.type == "cpu" and has_values(t)


def usable_device(device: torch.device | str, meta: bool = True) -> torch.device:
    """`device`, if torch can make a float64 tensor there; `meta`: even one that has shapes only.

    Raises:
        ValueError: it cannot: torch was built without it, there is none in this machine, or it has no float64.
    """
    try:
        found = torch.empty(0, dtype=torch.float64, device=device)
        if found.is_meta and not meta:
            raise TypeError("no numbers there")
        return found.device
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        raise ValueError(
            "device must be cpu or cuda, or another where torch can make a float64 tensor on this machine "
            f"(Apple's mps has no float64), got {str(device)!r}"
        ) from error
