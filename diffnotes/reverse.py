"""Chapter 2, the reverse process: what one step back is, what a network must know for it, and the ancestral sampler.

A *noise predictor* is any callable `eps = model(x_t, t)` with t an int64 tensor of shape (batch,) and `eps` shaped like
`x_t`: a network, or the exact `GaussianMixture.eps`. Here is the exact one for data that are already N(0, I):

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
from numbers import Real
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal
from tqdm.auto import tqdm

from diffnotes.arguments import check_batch, check_floating, per_example
from diffnotes.schedule import Batch, NoisePredictor, NoiseSchedule, PerStep, Spacing, Steps, Time

Predicts = Literal["eps", "x0", "v"]
Variance = Literal["posterior", "beta"]

# ---- four ways to say one thing: eps, x0, v, the score --------------------------------------------------


def predict_x0(schedule: NoiseSchedule, x_t: Batch, t: Time, eps: Batch) -> Batch:
    """The x_0 that `eps` implies: the closed form (Ho et al. 2020, eq. 4) solved for x_0.

    If eps = E[eps | x_t], it is E[x_0 | x_t], the denoised data.

    Args:
        x_t: shape (batch, ...), floating point.
        t: in 1..T: an int, or int64 of shape (batch,).
        eps: shaped like `x_t`.

    Raises:
        ValueError: a shape or dtype is wrong, or t is invalid (see `NoiseSchedule.at`).
    """
    signal, noise = _levels_at(schedule, t, x_t=x_t, eps=eps)
    return (x_t - noise * eps) / signal  # (rev-x0-from-eps)


def predict_eps(schedule: NoiseSchedule, x_t: Batch, t: Time, x0: Batch) -> Batch:
    """The noise that `x0` implies: the closed form solved for eps. Arguments and errors as in `predict_x0`."""
    signal, noise = _levels_at(schedule, t, x_t=x_t, x0=x0)
    return (x_t - signal * x0) / noise  # (rev-eps-from-x0)


def score(schedule: NoiseSchedule, t: Time, eps: Batch) -> Batch:
    """The score, grad log q(x_t) with respect to x_t, from eps = E[eps | x_t]; errors as in `predict_x0`.

    Source: Vincent 2011 (denoising score matching); Ho et al. 2020, section 3.2, for the link to eps.
    """
    check_batch(eps=eps)
    return -eps / schedule.at(schedule.sqrt_one_minus_alpha_bars, t, eps)  # (rev-score-eps)


def v_from(schedule: NoiseSchedule, x0: Batch, eps: Batch, t: Time) -> Batch:
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans, Ho 2022), of unit size at every t.

    Errors as in `predict_x0`.
    """
    signal, noise = _levels_at(schedule, t, x0=x0, eps=eps)
    return signal * eps - noise * x0  # (rev-v)


def predict_x0_from_v(schedule: NoiseSchedule, x_t: Batch, t: Time, v: Batch) -> Batch:
    """The x_0 that `v` implies. Arguments and errors as in `predict_x0`."""
    signal, noise = _levels_at(schedule, t, x_t=x_t, v=v)
    return signal * x_t - noise * v  # (rev-x0-from-v)


def predict_eps_from_v(schedule: NoiseSchedule, x_t: Batch, t: Time, v: Batch) -> Batch:
    """The noise that `v` implies. Arguments and errors as in `predict_x0`."""
    signal, noise = _levels_at(schedule, t, x_t=x_t, v=v)
    return noise * x_t + signal * v  # (rev-eps-from-v)


def as_noise_predictor(schedule: NoiseSchedule, model: NoisePredictor, predicts: Predicts) -> NoisePredictor:
    """A noise predictor from `model`, which is called like one but returns "eps", "x0" or "v", as `predicts` says.

    Any other `predicts`, or a model made for another T, is a ValueError.
    """
    schedule.check_T(model)
    if predicts not in get_args(Predicts):
        raise ValueError(f"predicts must be one of {get_args(Predicts)}, got {predicts!r}")
    if predicts == "eps":
        return model
    to_eps = predict_eps if predicts == "x0" else predict_eps_from_v

    def predictor(x_t: Tensor, t: Tensor) -> Tensor:
        return to_eps(schedule, x_t, t, model(x_t, t))

    predictor.T = schedule.T  # type: ignore[attr-defined]  # see `NoiseSchedule.check_T`
    return predictor


# ---- one step back --------------------------------------------------------------------------------------


def q_posterior(schedule: NoiseSchedule, x0: Batch, x_t: Batch, t: Time) -> Normal:
    """q(x_{t-1} | x_t, x_0), the step back if x_0 is known (Ho et al. 2020, eq. 6 and 7).

    A Normal with mean mu-tilde_t and standard deviation sqrt(beta-tilde_t), independent in each coordinate, with batch
    shape like `x_t`. At t = 1 the deviation is 0: all mass is at x_0, without a density. Errors as in `predict_x0`.
    """
    check_batch(x_t=x_t, x0=x0)
    root, beta, tilde = schedule.alphas.sqrt(), schedule.betas, schedule.posterior_variances
    signal_before = schedule.sqrt_alpha_bars / root  # sqrt(alpha_bar_{t-1})
    of_x0, of_xt = signal_before * beta / schedule.one_minus_alpha_bars, root * tilde / beta
    mean = schedule.at(of_x0, t, x_t) * x0 + schedule.at(of_xt, t, x_t) * x_t  # (rev-posterior-mean)
    scale = schedule.at(tilde.sqrt(), t, x_t).expand_as(x_t)  # (rev-posterior-variance)
    return Normal(mean, scale, validate_args=False)  # validation would make an accelerator wait


def p_mean(schedule: NoiseSchedule, x_t: Batch, t: Time, eps: Batch) -> Batch:
    """mu_theta(x_t, t), the mean of the model's step back (Ho et al. 2020, eq. 11): mu-tilde at the predicted x_0.

    Arguments and errors as in `predict_x0`.
    """
    check_batch(x_t=x_t, eps=eps)
    of_eps = schedule.at(schedule.betas / schedule.sqrt_one_minus_alpha_bars, t, x_t)
    return (x_t - of_eps * eps) / schedule.at(schedule.alphas.sqrt(), t, x_t)  # (rev-p-mean)


def reverse_variance(schedule: NoiseSchedule, variance: Variance) -> PerStep:
    """sigma_t^2 of the model's step back, shape (T + 1,), float64 (Ho et al. 2020, section 3.2).

    "posterior" is beta-tilde_t, exact if the data are a single point, and 0 at t = 1. "beta" is beta_t, exact if the
    data are N(0, I). If no coordinate of the data has a variance above 1, the true reverse variance of a coordinate,
    averaged over x_t, lies between the two. Any other `variance` is a ValueError.
    """
    if variance not in get_args(Variance):
        raise ValueError(f"variance must be one of {get_args(Variance)}, got {variance!r}")
    return schedule.betas if variance == "beta" else schedule.posterior_variances


def drift(schedule: NoiseSchedule, model: NoisePredictor, x_t: Batch, t: Time) -> Batch:
    """mu_theta(x_t, t) - x_t: how far one step back moves the point before noise is added; shaped like `x_t`.

    For small beta it is beta (x_t / 2 + score). Subtracting nearly equal numbers would lose digits, so expm1 computes
    1 / sqrt(alpha) - 1. A model made for another T is a ValueError; other errors as in `predict_x0`.
    """
    schedule.check_T(model)
    check_batch(x_t=x_t)
    eps = model(x_t, per_example(t, schedule.T, x_t))
    check_batch(x_t=x_t, eps=eps)
    stretch = torch.expm1(-torch.log1p(-schedule.betas) / 2)  # 1 / sqrt(alpha) - 1
    pull = schedule.betas / (schedule.alphas.sqrt() * schedule.sqrt_one_minus_alpha_bars)
    return schedule.at(stretch, t, x_t) * x_t - schedule.at(pull, t, x_t) * eps  # (rev-drift)


# ---- ancestral sampling ---------------------------------------------------------------------------------


@torch.no_grad()
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
    """Ancestral sampling (Ho et al. 2020, algorithm 2): from x_T ~ N(0, I) back to x_0, one Gaussian per step.

    A sub-sequence of times is a schedule of its own: the step from t to s has beta' = 1 - alpha_bar_t / alpha_bar_s.
    The last step, to s = 0, adds no noise.

    Args:
        schedule: on any device; it is read before the first step, so that no step waits for an accelerator.
        model: a noise predictor.
        x_T: shape (batch, ...), any floating dtype, from N(0, I). It is not modified.
        steps: how many (spread over 1..T by `spacing`), or the times themselves in rising order; None means all T.
        variance: sigma_t^2, see `reverse_variance`.
        generator: for the noise, on the device of `x_T`.
        clip: clamp the predicted x_0 to [-clip, clip]; the mean of the step is then mu-tilde at the clamped value.
        progress: show a tqdm bar.
        return_path: return every x from x_T to x_0, shape (steps + 1, batch, ...), instead of x_0 alone.

    Raises:
        ValueError: `steps`, `spacing`, `variance`, `generator`, `clip` or the shape of the model's eps is invalid.

    Warns:
        UserWarning: x_T ~ N(0, I) is a poor start, see `NoiseSchedule.warn_unless_prior`.
    """
    reverse_variance(schedule, variance)  # raises if it is unknown
    check_fits(x_T, clip=clip, generator=generator)
    schedule.check_T(model)
    pairs = schedule.pairs(steps, spacing)
    schedule.warn_unless_prior(pairs[0][0])
    log = schedule.log_alpha_bars.tolist()  # plain numbers from here on
    x, path = x_T.clone(), [x_T]
    for t, s in tqdm(pairs, desc="sampling") if progress else pairs:
        noise_t, noise_s = -math.expm1(log[t]), -math.expm1(log[s])  # 1 - alpha_bar
        alpha, beta = math.exp(log[t] - log[s]), -math.expm1(log[t] - log[s])  # (rev-sub-beta)
        eps = ask(model, x, t)
        if clip is None:
            x = (x / math.sqrt(alpha)).sub_(eps, alpha=beta / math.sqrt(alpha * noise_t))  # (rev-p-mean)
        else:
            x0 = torch.sub(x, eps, alpha=math.sqrt(noise_t)) / math.exp(log[t] / 2)  # (rev-x0-from-eps)
            x0 = x0.clamp(-clip, clip).to(x.dtype)
            of_x0, of_xt = math.exp(log[s] / 2) * beta / noise_t, math.sqrt(alpha) * noise_s / noise_t
            x = (of_x0 * x0).add_(x, alpha=of_xt)  # (rev-posterior-mean)
        if s > 0:
            sigma = math.sqrt(beta * noise_s / noise_t if variance == "posterior" else beta)
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            x.add_(z, alpha=sigma)  # no one else holds this x yet
        if return_path:
            path.append(x)
    return torch.stack(path) if return_path else x


def _levels_at(schedule: NoiseSchedule, t: Time, **tensors: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t) for these tensors, which must have one shape."""
    check_batch(**tensors)
    x = next(iter(tensors.values()))
    return schedule.at(schedule.sqrt_alpha_bars, t, x), schedule.at(schedule.sqrt_one_minus_alpha_bars, t, x)


def ask(model: NoisePredictor, x: Batch, t: int) -> Tensor:
    """The model's eps for a batch that stands at t, once it is known to be floating point and shaped like x."""
    eps = model(x, torch.full(x.shape[:1], t, device=x.device))
    check_floating(eps=eps)
    if eps.shape != x.shape:
        raise ValueError(f"eps must be shaped like x, {tuple(x.shape)}, got {tuple(eps.shape)}")
    return eps


def check_fits(x: Tensor, *, clip: float | None = None, generator: torch.Generator | None = None) -> None:
    """Raise ValueError unless x is a floating-point batch and whatever else is given suits it."""
    check_floating(x=x)
    if not x.ndim:
        raise ValueError("x must have shape (batch, ...), got ()")
    if clip is not None and not (isinstance(clip, Real) and 0 < clip < math.inf):
        raise ValueError(f"clip must be > 0 and finite, got {clip!r}")
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(f"generator must be a torch.Generator, got {generator!r}")
    if generator is not None and generator.device != x.device:
        raise ValueError(f"generator must live on the device of x, {x.device}, got {generator.device}")
