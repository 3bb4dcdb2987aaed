"""Chapter 1, the forward process: from data to noise, one step at a time or in one jump.

The noise is an argument, so every function here is deterministic.

>>> schedule = NoiseSchedule.linear(T=1000)
>>> x0 = torch.ones(1, 3)
>>> q_sample(schedule, x0, t=500, noise=torch.zeros(1, 3))
tensor([[0.2803, 0.2803, 0.2803]])
>>> prior_kl(schedule, x0.double())
tensor([6.0539e-05], dtype=torch.float64)
"""

import torch
from torch.distributions import Normal

from diffnotes.arguments import check_batch, in_float64
from diffnotes.schedule import Batch, NoiseSchedule, PerExample, Time, flat


def q_step(schedule: NoiseSchedule, x_prev: Batch, t: Time, noise: Batch) -> Batch:
    """One Markov step: x_t drawn from q(x_t | x_{t-1}) with the standard normal `noise` (Ho et al. 2020, eq. 2).

    Args:
        x_prev: x_{t-1}, shape (batch, ...), floating point.
        t: the index of the step, in 1..T: an int, or int64 of shape (batch,).
        noise: z_t, shaped like `x_prev`.

    Raises:
        ValueError: a shape or dtype is wrong, or t is invalid (see `NoiseSchedule.at`).
    """
    check_batch(x_prev=x_prev, noise=noise)
    keep, add = schedule.at(schedule.alphas.sqrt(), t, x_prev), schedule.at(schedule.betas.sqrt(), t, x_prev)
    return keep * x_prev + add * noise  # (fwd-step)


def q_sample(schedule: NoiseSchedule, x0: Batch, t: Time, noise: Batch) -> Batch:
    """All t steps in one jump: x_t drawn from q(x_t | x_0) with the standard normal `noise` (Ho et al. 2020, eq. 4).

    Shapes and errors are those of `q_step`, with the data `x0` in place of `x_prev` and epsilon in place of z_t.
    """
    check_batch(x0=x0, noise=noise)
    signal = schedule.at(schedule.sqrt_alpha_bars, t, x0)
    return signal * x0 + schedule.at(schedule.sqrt_one_minus_alpha_bars, t, x0) * noise  # (fwd-jump)


def q_marginal(schedule: NoiseSchedule, x0: Batch, t: Time) -> Normal:
    """q(x_t | x_0), independent in each coordinate, shaped like `x0` (Ho et al. 2020, eq. 4); errors as in `q_step`."""
    check_batch(x0=x0)
    scale = schedule.at(schedule.sqrt_one_minus_alpha_bars, t, x0)
    mean = schedule.at(schedule.sqrt_alpha_bars, t, x0) * x0
    # (fwd-closed-form); validation would make a GPU wait
    return Normal(mean, scale.expand_as(x0), validate_args=False)


def prior_kl(schedule: NoiseSchedule, x0: Batch) -> PerExample:
    """KL(q(x_T | x_0) || N(0, I)) in nats per example, summed over coordinates: L_T of Ho et al. 2020, eq. 5.

    Computed in float64 whatever the dtype of `x0`, because it is a small difference of numbers near 1. An `x0` that is
    not floating point, or on a device without float64, is a ValueError.
    """
    check_batch(x0=x0)
    x = in_float64("x0", x0)
    a = schedule.at(schedule.alpha_bars, schedule.T, x)
    kl = (a * (x**2 - 1) - torch.log1p(-a)) / 2  # (fwd-prior-kl), one coordinate
    return flat(kl).sum(1).to(x0.dtype)
