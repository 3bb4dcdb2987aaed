"""The noise schedule: how much noise each step adds, and what follows from it.

Every table has length T + 1, with the data at index 0: `betas[0] = 0`, `alpha_bars[0] = 1`. So `alpha_bars[t]` in code
is alpha-bar_t on the page, and t = 1 needs no special case.

>>> schedule = NoiseSchedule.linear(T=1000)
>>> schedule
NoiseSchedule(T=1000, betas 0.0001 .. 0.02, alpha_bar_T 4.036e-05)
>>> [float(a) for a in schedule.alpha_bars[:2]]
[1.0, 0.9999]
>>> timesteps(T=1000, steps=4)
[250, 500, 750, 1000]
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from numbers import Integral
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from diffnotes.arguments import (
    check_floating,
    checked_time,
    has_values,
    in_float64,
    number,
    usable_device,
    whole,
    whole_numbers,
)

Spacing = Literal["trailing", "leading", "linspace", "quadratic"]
Batch = Float[Tensor, "batch *event"]
PerExample = Float[Tensor, " batch"]
Time = int | Int[Tensor, " batch"]  # one t for the whole batch, or one per example
Steps = int | Sequence[int] | None  # how many, or the times themselves in rising order, or all T
Labels = Integer[Tensor, " batch"]  # one class per example, in any integer dtype
NoisePredictor = Callable[[Tensor, Tensor], Tensor]  # eps = model(x_t, t), t of shape (batch,)
PerStep = Float[Tensor, " steps"]  # length T + 1: index t belongs to step t, index 0 to the data
PRIOR_BITS = 1e-3  # per dimension, see `NoiseSchedule.warn_unless_prior`


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A schedule beta_1 .. beta_T, and the tables that follow from it alone.

    Args:
        betas: a tensor, array or list of shape (T,), each in (0, 1): the variance that step t adds. It is stored in
            float64 with `betas[0] = 0` prepended, shape (T + 1,); all other tables are computed at once.

    Raises:
        ValueError: `betas` is not of shape (T,) with T >= 1, is on a device without float64 (Apple's mps), or a beta is
            outside (0, 1).

    Source: Ho, Jain, Abbeel 2020, section 2.
    """

    betas: Tensor

    @torch.inference_mode(False)  # so autograd takes the tables of a schedule made in inference mode
    def __post_init__(self) -> None:
        betas = in_float64("betas", self.betas).detach().clone()
        if betas.ndim != 1 or len(betas) == 0:
            raise ValueError(f"betas must have shape (T,) with T >= 1, got {tuple(betas.shape)}")
        if has_values(betas) and not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError(f"betas must lie in (0, 1), got {betas.min():.4g} .. {betas.max():.4g}")
        object.__setattr__(self, "betas", torch.cat([betas.new_zeros(1), betas]))
        # compute all tables now: torch.compile may stop at a cached_property that is still empty
        for name, table in vars(NoiseSchedule).items():
            if isinstance(table, cached_property):
                getattr(self, name)

    # ---- constructors -------------------------------------------------------------------------------------

    @classmethod
    def linear(cls, T: int = 1000, start: float = 1e-4, end: float = 0.02) -> "NoiseSchedule":
        """beta_t on a straight line from `start` to `end` (Ho et al. 2020, section 4), times 1000 / T.

        The factor keeps the total noise about the same for every T. A T so small that it takes a beta to 1 is a
        ValueError, as is T < 1 or any other beta outside (0, 1).
        """
        T, start, end = whole("T", T), number("start", start), number("end", end)
        betas = torch.linspace(start, end, T, dtype=torch.float64) * (1000 / T)
        if not 0 < float(betas.min()) <= float(betas.max()) < 1:
            raise ValueError(
                f"T={T} puts betas at {betas.min():.4g} .. {betas.max():.4g} after rescaling by 1000/T, "
                "but each must lie in (0, 1): take a larger T, or start and end within it"
            )
        return cls(betas)

    @classmethod
    def cosine(cls, T: int = 1000, s: float = 0.008) -> "NoiseSchedule":
        """alpha_bar_t as a squared cosine, with beta_t at most 0.999 (Nichol, Dhariwal 2021, section 3.2)."""
        T, s = whole("T", T), number("s", s, "[0, inf)")
        u = torch.arange(T + 1, dtype=torch.float64) / T
        f = torch.cos((u + s) / (1 + s) * (math.pi / 2)) ** 2
        return cls((1 - f[1:] / f[:-1]).clamp(max=0.999))

    @classmethod
    def constant(cls, T: int, beta: float) -> "NoiseSchedule":
        """The same beta at every step, so that alpha_bar_t = (1 - beta)^t."""
        T, beta = whole("T", T), number("beta", beta, "(0, 1)")
        return cls(torch.full((T,), beta, dtype=torch.float64))

    @classmethod
    def from_alpha_bars(cls, alpha_bars: Tensor) -> "NoiseSchedule":
        """The schedule with the given alpha_bar_1 .. alpha_bar_T, which fall strictly and lie in (0, 1).

        Its betas are beta' = 1 - alpha_bar_t / alpha_bar_s for neighbours s < t: any sub-sequence makes a schedule.

        Raises:
            ValueError: `alpha_bars` is not of shape (T,) with T >= 1, leaves (0, 1) or does not fall at every step.

        >>> full = NoiseSchedule.linear(T=1000)
        >>> NoiseSchedule.from_alpha_bars(full.alpha_bars[timesteps(1000, 10)]).T
        10
        """
        bars = in_float64("alpha_bars", alpha_bars).detach()
        if bars.ndim != 1 or len(bars) == 0:
            raise ValueError(f"alpha_bars must have shape (T,) with T >= 1, got {tuple(bars.shape)}")
        log = torch.log(bars)
        try:
            return cls(-torch.expm1(torch.diff(log, prepend=log.new_zeros(1))))
        except ValueError as error:
            raise ValueError(f"alpha_bars must fall strictly and lie in (0, 1), got {alpha_bars}") from error

    def to(self, device: torch.device | str) -> "NoiseSchedule":
        """The same schedule on `device`, which must have float64 (Apple's mps does not)."""
        return type(self)(self.betas[1:].to(usable_device(device)))

    # ---- tables -------------------------------------------------------------------------------------------

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.betas) - 1

    @cached_property
    def alphas(self) -> PerStep:
        """alpha_t = 1 - beta_t."""
        return 1 - self.betas

    @cached_property
    def log_alpha_bars(self) -> PerStep:
        """log alpha_bar_t, the sum of log(1 - beta_i) over i <= t: the accurate form that the others come from."""
        return torch.log1p(-self.betas).cumsum(0)

    @cached_property
    def alpha_bars(self) -> PerStep:
        """alpha_bar_t, the product of alpha_i over i <= t: the share of the data's variance that is left at t."""
        return self.log_alpha_bars.exp()

    @cached_property
    def one_minus_alpha_bars(self) -> PerStep:
        """1 - alpha_bar_t, the variance of the noise at t, by expm1: no digits are lost where alpha_bar is near 1."""
        # abs, not minus: minus would give -0 at index 0, and an SNR of -infinity
        return torch.expm1(self.log_alpha_bars).abs()

    @cached_property
    def sqrt_alpha_bars(self) -> PerStep:
        """sqrt(alpha_bar_t), the factor of x_0 in x_t."""
        return (self.log_alpha_bars / 2).exp()

    @cached_property
    def sqrt_one_minus_alpha_bars(self) -> PerStep:
        """sqrt(1 - alpha_bar_t), the factor of the noise in x_t."""
        return self.one_minus_alpha_bars.sqrt()

    @cached_property
    def posterior_variances(self) -> PerStep:
        """beta-tilde_t = beta_t (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t), the variance of q(x_{t-1} | x_t, x_0).

        Zero at t = 1, where x_0 is already known. Source: Ho et al. 2020, eq. 7.
        """
        noise = self.one_minus_alpha_bars
        before = torch.cat([noise.new_zeros(1), noise.narrow(0, 0, self.T)])  # 1 - alpha_bar_{t-1} at index t
        return torch.where(self.betas > 0, self.betas * before / noise, 0.0)  # (rev-posterior-variance)

    @cached_property
    def log_snr(self) -> PerStep:
        """log(alpha_bar_t / (1 - alpha_bar_t)), which falls in t and is infinite at index 0, the data."""
        return self.log_alpha_bars - self.one_minus_alpha_bars.log()

    @cached_property
    def snr(self) -> PerStep:
        """alpha_bar_t / (1 - alpha_bar_t), signal power over noise power (Kingma et al. 2021, section 3.1)."""
        return self.alpha_bars / self.one_minus_alpha_bars

    # ---- use ----------------------------------------------------------------------------------------------

    def at(self, values: PerStep, t: Time, x: Tensor) -> Tensor:
        """`values[t]` in the dtype of `x`, shaped to multiply it: () for an int t, (batch, 1, ..) for a tensor t.

        Raises:
            ValueError: t is not whole, has a shape other than (batch,), is on another device than `x` or the schedule,
                or lies outside 1..T (checked for ints and on the CPU only: on an accelerator the host would wait, and
                torch.compile would break the graph); or `x` is not floating point.
        """
        check_floating(x=x)
        t = checked_time(t, self.T, x)
        if isinstance(t, int):
            if values.device.type != "cpu" and values.device != x.device:
                raise ValueError(f"schedule and x must share a device, got {values.device} and {x.device}")
            return values.select(0, t).to(x.dtype)
        if not t.device == x.device == values.device:
            raise ValueError(
                f"schedule, x and t must share a device, got {values.device}, {x.device} and {t.device}: "
                "move the schedule once with schedule.to(device), or all three to the CPU if the device has no float64"
            )
        return values.index_select(0, t).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))

    def pairs(self, steps: Steps, spacing: Spacing = "trailing") -> list[tuple[int, int]]:
        """The jumps (t, s) of a sampler: t falls, each s is the next t, and the last s is 0, the data.

        `steps` says how many (spread by `timesteps`), or lists the times themselves, which must rise within 1..T (or
        ValueError); None means all T.

        >>> NoiseSchedule.linear(T=1000).pairs(3)
        [(1000, 667), (667, 333), (333, 0)]
        """
        if not hasattr(steps, "__iter__"):
            steps = timesteps(self.T, self.T if steps is None else steps, spacing)
        times = whole_numbers("steps", steps)
        pairs = [(t, s) for s, t in pairwise([0, *times])]
        if not pairs or pairs[-1][0] > self.T or any(s >= t for t, s in pairs):
            raise ValueError(f"steps must be a number, or times that rise within 1..{self.T}, got {times}")
        return pairs[::-1]

    def check_T(self, model: Any) -> None:
        """Raise ValueError if `model` has a `T`, as a `Network` does, that differs from the schedule's.

        It is looked for inside DataParallel and the like, and inside functools.partial, too.
        """
        while (T := getattr(model, "T", None)) is None and model is not None:
            model = getattr(model, "module", getattr(model, "func", None))
        if isinstance(T, Integral) and T != self.T:
            raise ValueError(f"model must be made for the schedule's T = {self.T}, got one for T = {T}")

    def warn_unless_prior(self, t: int) -> None:
        """Warn if a sampler starts from N(0, I) at a time t at which q(x_t) is still far from it.

        The measure is KL(q(x_t | x_0) || N(0, I)) for data of unit power, -log(1 - alpha_bar_t) / 2 nats per dimension.
        The limit, `PRIOR_BITS` = 0.001 bits per dimension, is a tenth of the last digit that papers print. It means
        alpha_bar_t = 0.00139: the linear and cosine schedules pass at T = 1000 (4e-5 and 2e-9); schedules that end at
        alpha_bar_T = 0.0047 (Lin et al. 2023, table 1) do not.
        """
        alpha_bar = self.alpha_bars.tolist()[t]
        bits = -math.log1p(-alpha_bar) / (2 * math.log(2))
        if bits > PRIOR_BITS:
            # stacklevel 4 names the line that called the sampler, past its `no_grad`
            warnings.warn(
                f"sampling starts at t = {t}, where alpha_bar = {alpha_bar:.3g}: N(0, I) is not reached yet, and the "
                f"KL to it is {bits:.2g} bits per dimension (for data of unit power). Draw x_T from q(x_t).",
                UserWarning,
                stacklevel=4,
            )

    def __repr__(self) -> str:
        if not has_values(self.betas):
            return f"NoiseSchedule(T={self.T}, on {self.betas.device})"
        first, last, left = self.betas[1], self.betas[-1], self.alpha_bars[-1]
        return f"NoiseSchedule(T={self.T}, betas {first:.4g} .. {last:.4g}, alpha_bar_T {left:.4g})"


def timesteps(T: int, steps: int, spacing: Spacing = "trailing") -> list[int]:
    """`steps` distinct, increasing integers in 1..T, for every 1 <= steps <= T.

    "trailing", "linspace" and "quadratic" end at T, where the noise is; "leading" starts at 1 and may end well short
    of T (Lin et al. 2023, section 3.3). "quadratic" is dense near the data (DDIM, appendix D.2). Other steps, or an
    unknown spacing, are a ValueError.

    >>> [timesteps(10, 4, spacing) for spacing in ("trailing", "leading", "linspace", "quadratic")]
    [[3, 5, 8, 10], [1, 3, 5, 7], [1, 4, 7, 10], [1, 2, 5, 10]]
    """
    T, steps = whole("T", T), whole("steps", steps, least=None)
    if not 1 <= steps <= T:
        raise ValueError(f"steps must lie in 1..T = 1..{T}, got {steps}")
    if spacing not in get_args(Spacing):
        raise ValueError(f"spacing must be one of {get_args(Spacing)}, got {spacing!r}")
    if spacing == "leading":
        return [1 + i * (T // steps) for i in range(steps)]
    if spacing == "trailing":
        return [_round(i * T, steps) for i in range(1, steps + 1)]
    if steps == 1:
        return [T]
    if spacing == "linspace":
        return [1 + _round(i * (T - 1), steps - 1) for i in range(steps)]
    ts = [1 + _round(i * i * (T - 1), (steps - 1) ** 2) for i in range(steps)]
    # near the data the squares lie less than 1 apart: push them up; by convexity the end stays at T
    for i in range(1, steps):
        ts[i] = max(ts[i], ts[i - 1] + 1)
    return ts


def _round(numerator: int, denominator: int) -> int:
    """numerator / denominator rounded to the nearest integer, halves up, in exact arithmetic."""
    return (2 * numerator + denominator) // (2 * denominator)


def flat(x: Batch) -> Float[Tensor, "batch coordinates"]:
    """(batch, ...) as (batch, coordinates); (batch,) becomes (batch, 1)."""
    return x.unsqueeze(-1).flatten(1)
