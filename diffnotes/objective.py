"""Chapter 3, the training objective: the variational bound, term by term, and what L_simple makes of it.

All terms are in nats per example, summed over coordinates. The bound on -log p_theta(x_0) is

    L_T + (L_{T-1} + .. + L_1) + L_0,    L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t)) for t = 2..T

>>> schedule = NoiseSchedule.linear(T=100)
>>> def model(x_t, t):  # the exact one for N(0, I) data
...     return schedule.at(schedule.sqrt_one_minus_alpha_bars, t, x_t) * x_t
>>> generator = torch.Generator().manual_seed(0)
>>> x0 = torch.randn(2000, 1, generator=generator, dtype=torch.float64)
>>> terms = vlb_terms(schedule, model, x0, variance="beta", generator=generator)
>>> terms.L_T.shape, terms.L_t.shape, terms.L_0.shape
(torch.Size([2000]), torch.Size([2000, 99]), torch.Size([2000]))
>>> round(float(terms.bound.mean()), 1)  # the entropy of N(0, 1) is log(2 pi e) / 2 = 1.419 nats
1.4
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.special import log_ndtr

from diffnotes.arguments import check_batch, check_floating, may_look, number, per_example, whole, whole_numbers
from diffnotes.forward import prior_kl, q_sample
from diffnotes.reverse import Variance, check_fits, p_mean, q_posterior, reverse_variance
from diffnotes.schedule import Batch, NoisePredictor, NoiseSchedule, PerExample, PerStep, Time, flat

Decoder = Literal["gaussian", "discrete"]


def simple_loss(schedule: NoiseSchedule, model: NoisePredictor, x0: Batch, t: Time, noise: Batch) -> PerExample:
    """L_simple (Ho et al. 2020, eq. 14): the squared error of the predicted noise, one number per example.

    It is averaged over coordinates, so it does not grow with the size of an image: for a model that answers 0 it is
    about 1. Its mean over a batch, with t uniform on 1..T, is the training loss. Gradients flow to the model.

    Args:
        model: a noise predictor.
        x0: the data, shape (batch, ...), floating point.
        t: in 1..T: an int, or int64 of shape (batch,).
        noise: epsilon, standard normal, shaped like `x0`.

    Raises:
        ValueError: a shape or dtype is wrong, also of the model's eps; t is invalid; or the model is for another T.
    """
    schedule.check_T(model)
    eps = model(q_sample(schedule, x0, t, noise), per_example(t, schedule.T, x0))
    check_batch(noise=noise, eps=eps)
    return flat(noise - eps).square().mean(1)  # (obj-simple)


@dataclass(frozen=True, eq=False)
class VLBTerms:
    """The terms of the variational bound, float64, in nats per example (Ho et al. 2020, eq. 5).

    L_T is exact; each of the others is an unbiased estimate from one draw of x_t. Column i of L_t holds L_{t-1} for
    t = ts[i].
    """

    L_T: PerExample
    L_t: Float[Tensor, "batch ts"]
    L_0: PerExample
    ts: list[int]
    T: int

    @property
    def bound(self) -> PerExample:
        """The whole bound. If `ts` is a part of 2..T, its mean stands for all: unbiased if it was drawn at random."""
        steps = self.L_t.mean(1) * (self.T - 1) if self.ts else 0
        return self.L_T + steps + self.L_0  # (obj-vlb)


@torch.no_grad()
def vlb_terms(
    schedule: NoiseSchedule,
    model: NoisePredictor,
    x0: Batch,
    *,
    variance: Variance = "posterior",
    decoder: Decoder = "gaussian",
    levels: int = 256,
    ts: Sequence[int] | None = None,
    chunk: int = 1,
    generator: torch.Generator | None = None,
) -> VLBTerms:
    """The terms of the variational bound on -log p_theta(x_0), without gradients, for evaluation.

    The model sees x_t in the dtype of `x0`; everything else is float64.

    Args:
        model: a noise predictor, called at most T times.
        x0: the data, shape (batch, ...), floating point.
        variance: sigma_t^2 of p_theta, see `reverse_variance`. In L_0 "posterior" means beta-tilde_2 (beta_1 if T = 1),
            as in the code of Ho et al. 2020: with beta-tilde_1 = 0 the decoder would never be right.
        decoder: p_theta(x_0 | x_1): "gaussian", a density, or "discrete", for data on `levels` (`discrete_log_prob`).
        ts: the t in 2..T whose L_{t-1} are wanted; None means all.
        chunk: how many t share one model call, as a batch of chunk * batch. More is faster on an accelerator and takes
            more memory; the draws stay the same.
        generator: for the noise in x_t, on the device of `x0`.

    Raises:
        ValueError: an argument is not as above, the model is for another T, or its eps is not floating point and shaped
            like x_t; with the discrete decoder also what `discrete_log_prob` raises.
    """
    schedule.check_T(model)
    check_batch(x0=x0)
    times = list(range(2, schedule.T + 1)) if ts is None else whole_numbers("ts", ts)
    if len(set(times)) < len(times) or not all(2 <= t <= schedule.T for t in times):
        raise ValueError(f"ts must be distinct and lie in 2..{schedule.T}, got {times}")
    if decoder not in get_args(Decoder):
        raise ValueError(f"decoder must be one of {get_args(Decoder)}, got {decoder!r}")
    chunk, levels = whole("chunk", chunk), whole("levels", levels, 2)
    check_fits(x0, generator=generator)
    std = _sigma_squared(schedule, variance).sqrt()

    def step_back(ts: list[int]) -> tuple[Normal, Normal]:
        """q(x_{t-1} | x_t, x_0) and p_theta(x_{t-1} | x_t), from one draw of x_t per example at each of `ts`."""
        t = torch.cat([per_example(t, schedule.T, x0) for t in ts])
        noise = torch.cat([torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device) for _ in ts])
        again = torch.cat([x0] * len(ts))
        x_t = q_sample(schedule, again, t, noise)
        eps = model(x_t, t)
        check_floating(eps=eps)  # its shape is looked at by p_mean
        x, eps = x_t.double(), eps.double()
        scale = schedule.at(std, t, x).expand_as(x)
        p = Normal(p_mean(schedule, x, t, eps), scale, validate_args=False)
        return q_posterior(schedule, again.double(), x, t), p

    _, p = step_back([1])
    if decoder == "gaussian":
        log_prob: Tensor = p.log_prob(x0.double())  # type: ignore[no-untyped-call]  # (obj-decoder-gauss)
    else:
        log_prob = discrete_log_prob(x0.double(), p.loc, p.scale, levels)
    L_0 = -flat(log_prob).sum(1)
    L_t = [L_0.new_empty(len(x0), 0)]
    for i in range(0, len(times), chunk):
        some = times[i : i + chunk]
        kl = kl_divergence(*step_back(some))  # (obj-kl-step), one coordinate
        L_t.append(flat(kl).sum(1).reshape(len(some), len(x0)).T)
    return VLBTerms(prior_kl(schedule, x0.double()), torch.cat(L_t, 1), L_0, times, schedule.T)


def discrete_log_prob(x0: Batch, mean: Batch, std: Tensor, levels: int = 256) -> Batch:
    """log p(x_0), in nats per coordinate, for data on `levels` levels from -1 to 1 (Ho et al. 2020, eq. 13).

    The probability of a level is the mass of N(mean, std^2) in the bin of width 2 / (levels - 1) around it. The two
    outermost bins extend to infinity, so the probabilities sum to one. A difference of normal integrals near 1 would
    lose the digits of a far bin; the difference of their logarithms keeps them. Bins above the mean are mirrored below
    it, because log Phi(z) rounds to 0 for z > 38 but is accurate for every z < 0.

    Args:
        x0: shape (batch, ...), on the levels.
        mean: shaped like `x0`.
        std: > 0, of a shape that broadcasts to `x0`.

    Raises:
        ValueError: levels < 2; shapes differ; std <= 0, or a value of `x0` is off the levels by more than 0.001 of a
            bin (both checked on the CPU only, since on an accelerator the host would wait).
    """
    levels = whole("levels", levels, 2)
    check_batch(x0=x0, mean=mean)
    check_floating(std=std)
    if may_look(std) and not bool((std > 0).all()):
        raise ValueError(f"std must be > 0, got {float(std.min())}")
    half = 1 / (levels - 1)
    index = (x0 + 1) / (2 * half)
    off = (index - index.round().clamp(0, levels - 1)).abs() > 1e-3
    if may_look(x0) and bool(off.any()):
        raise ValueError(f"x0 must lie on the {levels} levels from -1 to 1, got {float(x0[off][0])}")
    lower = torch.where(index < 0.5, -math.inf, (x0 - half - mean) / std)  # the outermost bins are open
    upper = torch.where(index > levels - 1.5, math.inf, (x0 + half - mean) / std)
    mirror = x0 > mean
    lower, upper = torch.where(mirror, -upper, lower), torch.where(mirror, -lower, upper)
    high: Tensor = log_ndtr(upper)
    return high + torch.log(-torch.expm1(log_ndtr(lower) - high))  # (obj-decoder-discrete)


def bits_per_dim(nats: PerExample, dims: int, bin_width: float = 1.0) -> PerExample:
    """Nats per example converted to bits per dimension: nats / (dims log 2), shape (batch,).

    Args:
        nats: a negative log-likelihood, a bound on one, or one of its terms.
        dims: the number of coordinates of an example, such as 784 for 28 x 28; at least 1, or ValueError.
        bin_width: 1 if `nats` comes from a probability. If it comes from a density, the width in (0, inf) of the bins
            that the data were rounded to, 2/255 for bytes scaled to [-1, 1]: density times width is probability.

    >>> bits_per_dim(torch.tensor([784 * math.log(256)]), 784)  # every byte equally likely
    tensor([8.])
    """
    dims, bin_width = whole("dims", dims), number("bin_width", bin_width, "(0, inf)")
    return nats / (dims * math.log(2)) - math.log2(bin_width)  # (obj-bits-per-dim)


def loss_weights(schedule: NoiseSchedule, variance: Variance) -> PerStep:
    """The factor w_t that L_simple drops: L_{t-1} = w_t |eps - eps_theta|^2 + a constant; shape (T + 1,), float64.

    w_t = beta_t^2 / (2 sigma_t^2 alpha_t (1 - alpha_bar_t)), Ho et al. 2020, eq. 12. w_1 is the weight in L_0 with the
    Gaussian decoder (see `vlb_terms` for its sigma), and w_0 = 0, as there is no such step. Note that `simple_loss` is
    a mean over coordinates and this square a sum. An unknown `variance` is a ValueError.

    For "posterior" and t >= 2 this is (SNR_{t-1} / SNR_t - 1) / 2; for the error in x_0 instead of eps, the weight is
    (SNR_{t-1} - SNR_t) / 2 (Kingma et al. 2021, section 4):

    >>> schedule = NoiseSchedule.linear(T=1000)
    >>> w, snr = loss_weights(schedule, "posterior"), schedule.snr
    >>> torch.allclose(w[2:] * snr[2:], (snr[1:-1] - snr[2:]) / 2, rtol=1e-9)
    True
    """
    beta, sigma2 = schedule.betas, _sigma_squared(schedule, variance)
    w = beta**2 / (2 * sigma2 * schedule.alphas * schedule.one_minus_alpha_bars)  # (obj-weight)
    return torch.where(beta > 0, w, 0.0)  # index 0 is no step


def _sigma_squared(schedule: NoiseSchedule, variance: Variance) -> PerStep:
    """`reverse_variance`, with beta-tilde_2 in place of beta-tilde_1 = 0, which no density can have."""
    sigma2 = reverse_variance(schedule, variance)
    first = sigma2.select(0, 2) if schedule.T > 1 else schedule.betas.select(0, 1)
    return torch.where(sigma2 == 0, first, sigma2)
