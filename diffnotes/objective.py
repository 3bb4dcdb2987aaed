"""Chapter 3, the training objective: the variational bound, term by term, and what L_simple makes of it.

All terms are in nats, one an example, summed over coordinates. The bound on -log p_theta(x_0) is

    L_T + (L_{T-1} + .. + L_1) + L_0,    L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t)) for t = 2..T

>>> import torch
>>> from diffnotes.schedule import NoiseSchedule
>>> schedule = NoiseSchedule.linear(T=100)
>>> def model(x_t, t):  # the exact one for data that are N(0, I)
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

from diffnotes.arguments import (
    check_batch,
    check_floating,
    may_look,
    number,
    per_example,
    whole,
    whole_numbers,
)
from diffnotes.forward import prior_kl, q_sample
from diffnotes.reverse import Variance, check_fits, p_mean, q_posterior, reverse_variance
from diffnotes.schedule import Batch, NoisePredictor, NoiseSchedule, PerExample, PerStep, Time, check_T, flat

Decoder = Literal["gaussian", "discrete"]


def simple_loss(
    schedule: NoiseSchedule, model: NoisePredictor, x0: Batch, t: Time, noise: Batch
) -> PerExample:
    """L_simple (Ho et al. 2020, eq. 14): the squared error of the predicted noise, one number an example.

    It is averaged over coordinates, so it does not grow with the size of an image: a model that answers 0 has about
    1. Its mean over the batch, with t uniform on 1..T, is the training loss. Gradients flow to the model.

    Args:
        model: a noise predictor.
        x0: the data, shape (batch, ...).
        t: 1..T: an int, or int64 of shape (batch,), one an example.
        noise: epsilon, standard normal, like `x0`.

    Raises:
        ValueError: `noise` or the model's eps is not shaped like `x0`, or not floating point; t is not valid; or the
            model is made for another T.
    """
    check_T(schedule, model)
    eps = model(q_sample(schedule, x0, t, noise), per_example(t, schedule.T, x0))
    check_batch(noise=noise, eps=eps)
    return flat(noise - eps).square().mean(1)  # (obj-simple)


@dataclass(frozen=True, eq=False)
class VLBTerms:
    """The terms of the variational bound, float64, nats, one an example (Ho et al. 2020, eq. 5).

    L_T is exact; of the others, each is for one draw of x_t, so unbiased. `ts` says which t the columns of L_t
    belong to: column i holds L_{t-1} for t = ts[i].
    """

    L_T: PerExample
    L_t: Float[Tensor, "batch ts"]
    L_0: PerExample
    ts: list[int]
    T: int

    @property
    def bound(self) -> PerExample:
        """The whole bound. With a part of the ts it stands for all T - 1 by its mean: unbiased for random ones."""
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
    """The terms of the variational bound on -log p_theta(x_0), for evaluation: no gradients are kept.

    The model sees x_t in the dtype of `x0`; all else is float64.

    Args:
        model: a noise predictor, called T times at most.
        x0: the data, shape (batch, ...).
        variance: sigma_t^2 of p_theta, see `reverse_variance`. For L_0 "posterior" means beta-tilde_2, as in the
            code of Ho et al. 2020: beta-tilde_1 = 0 would make a decoder that is never right (beta_1 if T = 1).
        decoder: p_theta(x_0 | x_1): "gaussian", a density, for continuous data; "discrete", for data on `levels`
            levels from -1 to 1, see `discrete_log_prob`.
        ts: the t in 2..T of the terms L_{t-1} that are wanted, None for all.
        chunk: how many t go through the model in one call, as a batch of chunk * batch. More is faster on an
            accelerator and takes more memory; the draws do not depend on it.
        generator: for the noise of x_t; on the device of `x0`.

    Raises:
        ValueError: `x0` is not floating point; `variance`, `decoder`, `ts`, `chunk` or `generator` is off; the model
            is made for another T, or its eps is not shaped like x_t; for the discrete decoder also `x0` or `levels`,
            see `discrete_log_prob`.
    """
    check_T(schedule, model)
    check_batch(x0=x0)
    times = list(range(2, schedule.T + 1)) if ts is None else whole_numbers("ts", ts)
    if len(set(times)) < len(times) or not all(2 <= t <= schedule.T for t in times):
        raise ValueError(f"ts must be distinct and lie in 2..{schedule.T}, got {times}")
    if decoder not in get_args(Decoder):
        raise ValueError(f"decoder must be one of {get_args(Decoder)}, got {decoder!r}")
    chunk, levels = whole("chunk", chunk), whole("levels", levels, 2)
    check_fits(x0, generator=generator)
    std = _sigma_squared(schedule, variance).sqrt()

    def step_back(ts: list[int]) -> tuple[Tensor, Tensor, Tensor, Normal]:
        """x_0, x_t and t for all examples at each of `ts`, and p_theta(x_{t-1} | x_t) there."""
        t = torch.cat([per_example(t, schedule.T, x0) for t in ts])
        # in the order of the values, whatever the strides of x0
        fresh = [torch.empty_like(x0, memory_format=torch.contiguous_format) for _ in ts]
        noise = torch.cat([z.normal_(generator=generator) for z in fresh])
        again = x0.repeat(len(ts), *[1] * (x0.ndim - 1))
        x_t = q_sample(schedule, again, t, noise)
        eps = model(x_t, t)
        x, eps = x_t.double(), eps.double()
        scale = schedule.at(std, t, x).expand_as(x)
        return again.double(), x, t, Normal(p_mean(schedule, x, t, eps), scale, validate_args=False)

    truth, _, _, p = step_back([1])
    if decoder == "gaussian":
        log_prob: Tensor = p.log_prob(truth)  # type: ignore[no-untyped-call]  # (obj-decoder-gauss)
    else:
        log_prob = discrete_log_prob(truth, p.loc, p.scale, levels)
    L_0 = -flat(log_prob).sum(1)
    L_t = [L_0.new_empty(len(x0), 0)]
    for i in range(0, len(times), chunk):
        some = times[i : i + chunk]
        truth, x_t, t, p = step_back(some)
        kl = kl_divergence(q_posterior(schedule, truth, x_t, t), p)  # (obj-kl-step), one coordinate
        L_t.append(flat(kl).sum(1).reshape(len(some), len(x0)).T)
    return VLBTerms(prior_kl(schedule, x0.double()), torch.cat(L_t, 1), L_0, times, schedule.T)


def discrete_log_prob(x0: Batch, mean: Batch, std: Tensor, levels: int = 256) -> Batch:
    """log p(x_0), nats a coordinate, of data on `levels` levels from -1 to 1 (Ho et al. 2020, eq. 13).

    A level's probability is the mass that N(mean, std^2) has in its bin, of width 2 / (levels - 1) around it. The
    two outermost bins are open to infinity, so the probabilities of all levels sum to one. As a difference of two
    normal integrals near 1 the mass of a far bin would lose its digits; as one of their logarithms it keeps them.
    Bins above the mean are mirrored below it, because log Phi(z) rounds to 0 for z > 38, but is fine for any z < 0.

    Args:
        x0: shape (batch, ...), at the levels.
        mean: like `x0`.
        std: > 0, of a shape that broadcasts to `x0`.

    Raises:
        ValueError: levels < 2; `mean` is not shaped like `x0`; std <= 0, or a value of `x0` off the levels by more than
            0.001 of a bin (looked at on the CPU only: on an accelerator it would make the host wait).
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
    """Nats an example to bits per dimension: nats / (dims log 2), shape (batch,).

    Args:
        nats: a negative log-likelihood or a bound on one, or one term of it.
        dims: coordinates of an example, such as 784 for 28 x 28.
        bin_width: where `nats` comes from a density, the width of the bins that the data were rounded to, 2/255 for
            bytes scaled to [-1, 1]: a density has to be multiplied by it to be a probability. 1 for probabilities.

    Raises:
        ValueError: dims < 1, or bin_width is not in (0, inf).

    >>> bits_per_dim(torch.tensor([784 * math.log(256)]), 784)  # every byte equally likely
    tensor([8.])
    """
    dims, bin_width = whole("dims", dims), number("bin_width", bin_width, "(0, inf)")
    return nats / (dims * math.log(2)) - math.log2(bin_width)  # (obj-bits-per-dim)


def loss_weights(schedule: NoiseSchedule, variance: Variance) -> PerStep:
    """The factor that L_simple drops: L_{t-1} = w_t |eps - eps_theta|^2 + what no model can change; (T + 1,), float64.

    w_t = beta_t^2 / (2 sigma_t^2 alpha_t (1 - alpha_bar_t)), Ho et al. 2020, eq. 12. w_1 is the weight in L_0 with the
    Gaussian decoder (see `vlb_terms` for its sigma); w_0 = 0, there is no such step. Note that `simple_loss` is
    a mean over coordinates, and the square here a sum.

    For "posterior" and t >= 2 this is (SNR_{t-1} / SNR_t - 1) / 2; told by the error in x_0 instead of the error in
    eps, the weight is (SNR_{t-1} - SNR_t) / 2 (Kingma et al. 2021, section 4):

    >>> schedule = NoiseSchedule.linear(T=1000)
    >>> w, snr = loss_weights(schedule, "posterior"), schedule.snr
    >>> torch.allclose(w[2:] * snr[2:], (snr[1:-1] - snr[2:]) / 2, rtol=1e-9)
    True

    Raises:
        ValueError: `variance` is unknown.
    """
    beta, sigma2 = schedule.betas, _sigma_squared(schedule, variance)
    w = beta**2 / (2 * sigma2 * schedule.alphas * schedule.one_minus_alpha_bars)  # (obj-weight)
    return torch.where(beta > 0, w, 0.0)  # index 0 is no step


def _sigma_squared(schedule: NoiseSchedule, variance: Variance) -> PerStep:
    """`reverse_variance`, with beta-tilde_2 in the place of beta-tilde_1 = 0, which no density can have."""
    sigma2 = reverse_variance(schedule, variance)
    first = sigma2.select(0, 2) if schedule.T > 1 else schedule.betas.select(0, 1)
    return torch.where((sigma2 == 0) & (schedule.betas > 0), first, sigma2)
