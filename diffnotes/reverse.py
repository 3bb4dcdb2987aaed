"""Chapter 2, the reverse process: what one step back is, what a network must say for it, and the ancestral sampler.

A *noise predictor* is any callable `eps = model(x_t, t)` with t an int64 tensor of shape (batch,) and `eps` like
`x_t`: a network, or the exact `GaussianMixture.eps`. Here is the exact one of data that are N(0, I) already, and the
sampler with it:

>>> import torch
>>> from diffnotes.schedule import NoiseSchedule
>>> schedule = NoiseSchedule.linear(T=1000)
>>> def model(x_t, t):
...     return schedule.at(schedule.sqrt_one_minus_alpha_bars, t, x_t) * x_t
>>> generator = torch.Generator().manual_seed(0)
>>> x_T = torch.randn(4000, 1, generator=generator)
>>> x_0 = ddpm_sample(schedule, model, x_T, steps=50, variance="beta", generator=generator)
>>> round(float(x_0.std()), 1)
1.0
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal
from tqdm.auto import tqdm

from diffnotes.forward import _same_shape
from diffnotes.schedule import (
    Batch,
    NoisePredictor,
    NoiseSchedule,
    PerStep,
    Spacing,
    Time,
    check_batch,
    check_T,
    per_example,
    timesteps,
    whole_numbers,
)

Predicts = Literal["eps", "x0", "v"]
Variance = Literal["posterior", "beta"]
Steps = int | Sequence[int] | None  # how many, or the times themselves, rising, or all T

# ---- four ways to say one thing: eps, x0, v, the score --------------------------------------------------


def predict_x0(schedule: NoiseSchedule, x_t: Batch, t: Time, eps: Batch) -> Batch:
    """The x_0 that `eps` stands for: the closed form (Ho et al. 2020, eq. 4) solved for x_0.

    For eps = E[eps | x_t] it is E[x_0 | x_t], the denoised data.

    Args:
        x_t: shape (batch, ...).
        t: 1..T: an int, or int64 of shape (batch,), one an example.
        eps: like `x_t`.

    Raises:
        ValueError: `eps` is not shaped like `x_t`, one of them is not floating point, or t is not valid (see
            `NoiseSchedule.at`).
    """
    signal, noise = _levels_at(schedule, t, x_t=x_t, eps=eps)
    return (x_t - noise * eps) / signal  # (rev-x0-from-eps)


def predict_eps(schedule: NoiseSchedule, x_t: Batch, t: Time, x0: Batch) -> Batch:
    """The noise that `x0` stands for: the closed form solved for eps. Arguments and errors as in `predict_x0`."""
    signal, noise = _levels_at(schedule, t, x_t=x_t, x0=x0)
    return (x_t - signal * x0) / noise  # (rev-eps-from-x0)


def score(schedule: NoiseSchedule, t: Time, eps: Batch) -> Batch:
    """The score, the gradient of log q(x_t) in x_t, from eps = E[eps | x_t]; shape like `eps`.

    Raises:
        ValueError: `eps` is not floating point, or t is not valid (see `NoiseSchedule.at`).

    Source: Vincent 2011 (denoising score matching); Ho et al. 2020, section 3.2, for the link to eps.
    """
    check_batch(eps=eps)
    return -eps / schedule.at(schedule.sqrt_one_minus_alpha_bars, t, eps)  # (rev-score-eps)


def v_from(schedule: NoiseSchedule, x0: Batch, eps: Batch, t: Time) -> Batch:
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans, Ho 2022), a target of unit size at every t.

    Raises:
        ValueError: `eps` is not shaped like `x0`, one of them is not floating point, or t is not valid (see
            `NoiseSchedule.at`).
    """
    signal, noise = _levels_at(schedule, t, x0=x0, eps=eps)
    return signal * eps - noise * x0  # (rev-v)


def predict_x0_from_v(schedule: NoiseSchedule, x_t: Batch, t: Time, v: Batch) -> Batch:
    """The x_0 that `v` stands for. Arguments and errors as in `predict_x0`."""
    signal, noise = _levels_at(schedule, t, x_t=x_t, v=v)
    return signal * x_t - noise * v  # (rev-x0-from-v)


def predict_eps_from_v(schedule: NoiseSchedule, x_t: Batch, t: Time, v: Batch) -> Batch:
    """The noise that `v` stands for. Arguments and errors as in `predict_x0`."""
    signal, noise = _levels_at(schedule, t, x_t=x_t, v=v)
    return noise * x_t + signal * v  # (rev-eps-from-v)


def as_noise_predictor(schedule: NoiseSchedule, model: NoisePredictor, predicts: Predicts) -> NoisePredictor:
    """A noise predictor made of a network that predicts x_0 or v (or eps: then it is the network itself).

    Args:
        model: called like a noise predictor; what it returns is read as `predicts` says.

    Raises:
        ValueError: `predicts` is not one of "eps", "x0", "v", or the model is made for another T.
    """
    check_T(schedule, model)
    if predicts not in get_args(Predicts):
        raise ValueError(f"predicts must be one of {get_args(Predicts)}, got {predicts!r}")
    if predicts == "eps":
        return model
    to_eps = predict_eps if predicts == "x0" else predict_eps_from_v

    def predictor(x_t: Tensor, t: Tensor) -> Tensor:
        return to_eps(schedule, x_t, t, model(x_t, t))

    predictor.T = schedule.T  # type: ignore[attr-defined]  # see `check_T`
    return predictor


# ---- one step back --------------------------------------------------------------------------------------


def q_posterior(schedule: NoiseSchedule, x0: Batch, x_t: Batch, t: Time) -> Normal:
    """q(x_{t-1} | x_t, x_0): the step back of one who knows x_0 (Ho et al. 2020, eq. 6 and 7).

    A Normal with mean mu-tilde_t and standard deviation sqrt(beta-tilde_t), each coordinate on its own, batch shape
    like `x_t`. At t = 1 it is the point x_0: the deviation is 0, and there is no density to ask for.

    Raises:
        ValueError: `x0` is not shaped like `x_t`, one of them is not floating point, or t is not valid (see
            `NoiseSchedule.at`).
    """
    check_batch(x_t=x_t, x0=x0)
    root, beta, tilde = schedule.alphas.sqrt(), schedule.betas, schedule.posterior_variances
    signal_before = schedule.sqrt_alpha_bars / root  # sqrt(alpha_bar_{t-1})
    of_x0, of_xt = signal_before * beta / schedule.one_minus_alpha_bars, root * tilde / beta
    mean = schedule.at(of_x0, t, x_t) * x0 + schedule.at(of_xt, t, x_t) * x_t  # (rev-posterior-mean)
    scale = schedule.at(tilde.sqrt(), t, x_t).expand_as(x_t)  # (rev-posterior-variance)
    return Normal(mean, scale, validate_args=False)  # validating would make an accelerator wait


def p_mean(schedule: NoiseSchedule, x_t: Batch, t: Time, eps: Batch) -> Batch:
    """mu_theta(x_t, t), the mean of the model's step back (Ho et al. 2020, eq. 11): mu-tilde at the predicted x_0.

    Raises:
        ValueError: `eps` is not shaped like `x_t`, one of them is not floating point, or t is not valid (see
            `NoiseSchedule.at`).
    """
    check_batch(x_t=x_t, eps=eps)
    of_eps = schedule.at(schedule.betas / schedule.sqrt_one_minus_alpha_bars, t, x_t)
    return (x_t - of_eps * eps) / schedule.at(schedule.alphas.sqrt(), t, x_t)  # (rev-p-mean)


def reverse_variance(schedule: NoiseSchedule, variance: Variance) -> PerStep:
    """sigma_t^2 of the model's step back, shape (T + 1,), float64 (Ho et al. 2020, section 3.2).

    "posterior" is beta-tilde_t, exact for data that are one point, and 0 at t = 1. "beta" is beta_t, exact for data
    that are N(0, I). For data of at most unit variance in every coordinate, the true reverse variance of a
    coordinate, averaged over x_t, lies between the two.

    Raises:
        ValueError: `variance` is neither.
    """
    _known_variance(variance)
    return schedule.betas if variance == "beta" else schedule.posterior_variances


def drift(schedule: NoiseSchedule, model: NoisePredictor, x_t: Batch, t: Time) -> Batch:
    """mu_theta(x_t, t) - x_t: where one step back moves the point before its noise is added; shape like `x_t`.

    For small beta it is beta (x_t / 2 + score). It is a small difference of nearly equal numbers, so it is not
    computed as one: 1 / sqrt(alpha) - 1 comes from expm1.

    Raises:
        ValueError: the model is made for another T, its eps is not shaped like `x_t`, one of them is not floating
            point, or t is not valid (see `NoiseSchedule.at`).
    """
    check_T(schedule, model)
    check_batch(x_t=x_t)
    eps = model(x_t, per_example(t, schedule.T, x_t))
    check_batch(x_t=x_t, eps=eps)
    stretch = torch.expm1(-torch.log1p(-schedule.betas) / 2)  # 1 / sqrt(alpha) - 1
    pull = schedule.betas / (schedule.alphas.sqrt() * schedule.sqrt_one_minus_alpha_bars)
    return schedule.at(stretch, t, x_t) * x_t - schedule.at(pull, t, x_t) * eps  # (rev-drift)


# ---- the loop that every sampler here shares ------------------------------------------------------------


class Jump(NamedTuple):
    """One jump of a sampler, t -> s, in plain numbers on the host.

    Where the sampler stands, x_t = source[0] * x_0 + source[1] * eps. The model is asked for eps at (x_t, t), and

        x_s = target[0] * x_0 + target[1] * eps + spread * z,    z a fresh standard normal, none if spread is 0.
    """

    t: int
    source: tuple[float, float]
    target: tuple[float, float]
    spread: float = 0.0


def on_host(schedule: NoiseSchedule) -> NoiseSchedule:
    """The schedule where its numbers can be read without a wait: itself on the CPU, else a copy, one transfer."""
    return schedule if schedule.betas.device.type == "cpu" else schedule.to("cpu")


def host_levels(schedule: NoiseSchedule) -> list[tuple[float, float]]:
    """(sqrt(alpha_bar_t), sqrt(1 - alpha_bar_t)) for t = 0..T, in float64, as plain numbers."""
    return [(math.exp(log / 2), math.sqrt(abs(math.expm1(log)))) for log in schedule.log_alpha_bars.tolist()]


def jump_pairs(schedule: NoiseSchedule, steps: Steps, spacing: Spacing = "trailing") -> list[tuple[int, int]]:
    """The pairs (t, s) that a sampler walks, t falling, with s = 0 last.

    Args:
        steps: how many (spread by `timesteps`), or the times themselves, rising in 1..T, or None for all T.

    Raises:
        ValueError: the times do not rise, are none, or leave 1..T; or see `timesteps`.

    >>> jump_pairs(NoiseSchedule.linear(T=1000), 3)
    [(1000, 667), (667, 333), (333, 0)]
    """
    T = schedule.T
    if not hasattr(steps, "__iter__"):
        steps = timesteps(T, T if steps is None else steps, spacing)
    times = whole_numbers("steps", steps)
    pairs = [(t, s) for s, t in pairwise([0, *times])]
    if not pairs or pairs[-1][0] > T or any(s >= t for t, s in pairs):
        raise ValueError(f"steps must be a number, or times that rise within 1..{T}, got {times}")
    return pairs[::-1]


PRIOR_BITS = 1e-3  # a dimension


def warn_unless_prior(schedule: NoiseSchedule, t: int) -> None:
    """Warn where a sampler starts from N(0, I) at a time t that has not reached it.

    Measured by KL(q(x_t | x_0) || N(0, I)) for data of unit power, which is -log(1 - alpha_bar_t) / 2 a dimension.
    Above `PRIOR_BITS` = 0.001 bits a dimension it warns: papers print bits per dimension to 0.01, so what stays
    below a tenth of that cannot be seen in them. In alpha_bar the limit is 0.00139: the linear and cosine schedules
    of T = 1000 pass (4e-5 and 2e-9), those with alpha_bar_T = 0.0047 of Lin et al. 2023, table 1, do not.
    """
    log = schedule.log_alpha_bars.tolist()[t]
    bits = -math.log(-math.expm1(log)) / (2 * math.log(2))
    if bits > PRIOR_BITS:
        warnings.warn(
            f"sampling starts at t = {t}, where alpha_bar = {math.exp(log):.3g}: N(0, I) is not reached there, the "
            f"KL to it is {bits:.2g} bits a dimension (for data of unit power). x_T should come from q(x_t).",
            UserWarning,
            stacklevel=3,
        )


@torch.no_grad()
def walk(
    model: NoisePredictor,
    x: Batch,
    jumps: Iterable[Jump],
    *,
    generator: torch.Generator | None = None,
    clip: float | None = None,
    progress: bool = False,
    return_path: bool = False,
) -> Float[Tensor, "..."]:
    """Run a sampler: from `x`, which is left as it is, over all `jumps`, one model call each.

    A jump costs two or three passes over the data and no wait for the device. One with noise draws it into an idle
    buffer, and builds the new x on top of it; one without turns x into the new one in place. What the model returns is
    only read. What it is given, x and `t`, is overwritten after the call: a model that keeps them must copy them.

    Returns:
        The last x, shaped like `x`; with `return_path` all of them, shape (jumps + 1, batch, ...), `x` first.

    Raises:
        ValueError: x is not floating point, clip <= 0, the generator lives on another device than `x`, or the
            model's eps is not shaped like `x`.
    """
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be > 0, got {clip}")
    _same_device(x, generator)
    jumps = list(jumps)
    path = x.new_empty(len(jumps) + 1, *x.shape) if return_path else None
    x, idle = x.clone(), torch.empty_like(x) if any(jump.spread for jump in jumps) else x
    t = torch.empty(len(x), dtype=torch.int64, device=x.device)
    if path is not None:
        path[0] = x
    for i, jump in enumerate(tqdm(jumps, desc="sampling") if progress else jumps):
        eps = model(x, t.fill_(jump.t))
        if eps.shape != x.shape:
            _same_shape(x, eps=eps)
        (signal, noise), (keep, turn) = jump.source, jump.target
        if clip is None:  # x_0 = (x - noise * eps) / signal, put in
            of_x, other, of_other = keep / signal, eps, turn - keep / signal * noise
        else:  # clamp x_0, and eps = (x - signal * x_0) / noise again from it, put in
            x0 = torch.sub(x, eps, alpha=noise).div_(signal).clamp_(-clip, clip)  # (rev-x0-from-eps)
            of_x, other, of_other = turn / noise, x0, keep - turn / noise * signal
        if jump.spread:
            x, idle = idle.normal_(0, jump.spread, generator=generator).add_(x, alpha=of_x), x
        elif torch._C._is_alias_of(x, other):  # type: ignore[attr-defined]  # a model may return what it was given
            x = x * of_x
        else:
            x.mul_(of_x)
        x.add_(other, alpha=of_other)
        if path is not None:
            path[i + 1] = x
    return x if path is None else path


# ---- ancestral sampling ---------------------------------------------------------------------------------


def ddpm_sample(
    schedule: NoiseSchedule,
    model: NoisePredictor,
    x_T: Batch,
    *,
    steps: Steps = None,
    spacing: Spacing = "trailing",
    variance: Variance = "posterior",
    generator: torch.Generator | None = None,
    clip: float | None = None,
    progress: bool = False,
    return_path: bool = False,
) -> Float[Tensor, "..."]:
    """Ancestral sampling (Ho et al. 2020, algorithm 2): from x_T ~ N(0, I) back to x_0, one Gaussian a step.

    On a sub-sequence of times it is the same sampler, for the schedule that the sub-sequence is: a step from t to s
    has beta' = 1 - alpha_bar_t / alpha_bar_s. The last step, to s = 0, adds no noise.

    Args:
        schedule: on any device; it is read once, before the first step.
        model: a noise predictor.
        x_T: shape (batch, ...), any floating type, from N(0, I). It is not changed.
        steps: how many (spread over 1..T by `spacing`), or the times themselves, rising; None takes all T.
        variance: sigma_t^2, see `reverse_variance`.
        generator: for the noise; on the device of `x_T`.
        clip: clamp the predicted x_0 to [-clip, clip], and derive eps again from it.
        progress: show a tqdm bar.
        return_path: return every x from x_T to x_0, shape (steps + 1, batch, ...), instead of x_0 alone.

    Raises:
        ValueError: `steps`, `spacing`, `variance`, `generator`, `clip` or the shape of the model's eps is off.

    Warns:
        UserWarning: alpha_bar at the first time is too large for N(0, I), see `warn_unless_prior`.
    """
    schedule, pairs = on_host(schedule), jump_pairs(schedule, steps, spacing)
    warn_unless_prior(schedule, pairs[0][0])
    jumps = _ancestral_jumps(schedule, pairs, variance)
    return walk(model, x_T, jumps, generator=generator, clip=clip, progress=progress, return_path=return_path)


def _ancestral_jumps(schedule: NoiseSchedule, pairs: list[tuple[int, int]], variance: Variance) -> list[Jump]:
    """Each pair's Jump: x_t = signal x_0 + noise eps put into mu-tilde leaves sqrt(alpha_bar_s) x_0 and one eps."""
    _known_variance(variance)
    log, level = schedule.log_alpha_bars.tolist(), host_levels(schedule)
    jumps = []
    for t, s in pairs:
        beta = -math.expm1(log[t] - log[s])  # (rev-sub-beta)
        (_, noise_t), (signal_s, noise_s) = level[t], level[s]
        turn = math.sqrt(1 - beta) * noise_s**2 / noise_t  # (rev-posterior-parts)
        sigma = math.sqrt(beta) * (noise_s / noise_t if variance == "posterior" else float(s > 0))
        jumps.append(Jump(t, level[t], (signal_s, turn), sigma))
    return jumps


# ---- what the functions above share ---------------------------------------------------------------------


def _levels_at(schedule: NoiseSchedule, t: Time, **tensors: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t) for these tensors, which must be shaped alike."""
    check_batch(**tensors)
    x = next(iter(tensors.values()))
    return schedule.at(schedule.sqrt_alpha_bars, t, x), schedule.at(schedule.sqrt_one_minus_alpha_bars, t, x)


def _known_variance(variance: str) -> None:
    if variance not in get_args(Variance):
        raise ValueError(f"variance must be one of {get_args(Variance)}, got {variance!r}")


def _same_device(x: Tensor, generator: torch.Generator | None) -> None:
    if generator is not None and generator.device.type != x.device.type:
        raise ValueError(f"generator must live on the device of x, {x.device}, got {generator.device}")
