"""The exact oracle: data for which every quantity of diffusion has a closed form.

A diffused Gaussian mixture is still a Gaussian mixture. So the marginals, the score, E[x_0 | x_t], the best possible
noise predictor and the true reverse step q(x_{t-1} | x_t) are all known, and samplers and trained networks can be
measured against them. `DataMixture` is the same oracle for a finite data set: N points, each a component of zero width.

One idea does the work. Noise of equal strength in every direction does not turn the axes of a Gaussian: if
C = U diag(lam) U^T, the covariance at t is U diag(alpha_bar_t lam + 1 - alpha_bar_t) U^T. So each C is decomposed once,
and from then on a Gaussian is d one-dimensional ones side by side, whatever t each example has.

All work is done in float64, with weights as logarithms; answers have the dtype of the `x` that was given.

>>> schedule = NoiseSchedule.linear(T=1000)
>>> data = GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]]), torch.full((2, 1, 1), 0.04))
>>> x_t = torch.tensor([[-0.5], [0.0], [0.5]])
>>> data.denoise(schedule, x_t, t=500)
tensor([[-0.1560],
        [ 0.0000],
        [ 0.1560]])
>>> model = data.eps(schedule)  # it can take the place of any trained network
>>> model(x_t, torch.tensor([500, 500, 500])).shape
torch.Size([3, 1])
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily
from torch.distributions.constraints import Constraint
from torch.nn.functional import one_hot

from diffnotes.arguments import check_floating, has_values, in_float64, may_look, usable_device, whole
from diffnotes.reverse import predict_eps
from diffnotes.schedule import Batch, NoiseSchedule, PerExample, Time

AnOracle = TypeVar("AnOracle", bound="Oracle")
Points = Float[Tensor, "*points dim"]
Query = tuple[Tensor, Tensor, Tensor]  # per row: x, the factor of x_0 in it, the variance of its noise
_TABLE = 2**24  # size of the largest table that DataMixture makes: 128 MiB in float64


class Oracle(ABC):
    """What both exact models share."""

    @abstractmethod
    def denoise(self, schedule: NoiseSchedule, x_t: Batch, t: Time) -> Batch:
        """E[x_0 | x_t]."""

    def eps(self, schedule: NoiseSchedule) -> Callable[[Tensor, Time], Tensor]:
        """The best noise predictor, `model(x_t, t)` = E[eps | x_t], in the shape and dtype of `x_t`; t may be an int.

        It minimises the simple loss.
        """

        def model(x_t: Batch, t: Time) -> Batch:
            check_floating(x_t=x_t)
            x = in_float64("x_t", x_t)
            # x_t = signal x_0 + noise eps also holds in expectation, given x_t
            return predict_eps(schedule, x, t, self.denoise(schedule, x, t)).to(x_t.dtype)

        model.T = schedule.T  # type: ignore[attr-defined]  # see `NoiseSchedule.check_T`
        return model

    def to(self: AnOracle, device: torch.device | str) -> AnOracle:
        """The same oracle on `device`, which must have float64 (Apple's mps does not)."""
        device, moved = usable_device(device), copy.copy(self)
        for name, tensor in vars(self).items():
            setattr(moved, name, tensor.to(device))
        return moved


class GaussianMixture(Oracle):
    """x_0 ~ sum_k w_k N(mu_k, C_k), and what diffusion makes of it.

    Args:
        weights: w, shape (K,), non-negative, summing to 1.
        means: mu, shape (K, d).
        covariances: C, shape (K, d, d), symmetric, positive semidefinite. If C_k = 0, component k is the point mu_k,
            without a density at t = 0 and with one at every t >= 1.

    Raises:
        ValueError: a dtype is not floating point, shapes or devices do not match, a number is not finite, or a
            condition above fails by more than the rounding of the given dtype.

    In the methods, `x` has shape (..., d), `x_t` has shape (batch, d), and t is as in `NoiseSchedule.at`; anything
    else, and a tensor that is not floating point or is on another device, is a ValueError. All devices need float64.
    """

    def __init__(
        self, weights: Float[Tensor, " K"], means: Float[Tensor, "K dim"], covariances: Float[Tensor, "K dim dim"]
    ) -> None:
        _check_mixture(weights, means, covariances)
        weights, self.means, self.covariances = (v.detach().to(torch.float64) for v in (weights, means, covariances))
        self.weights = weights / weights.sum()
        self._log_weights = self.weights.log()
        lam, self._axes = torch.linalg.eigh(self.covariances)
        least = _rounding(lam) * lam.amax(1, keepdim=True)  # eigh cannot tell less from zero
        self._lam = torch.where(lam > least, lam, 0.0)
        self._all_axes: Tensor = self._axes.mT.flatten(0, 1)  # (K d, d), one axis per row
        self._centres = torch.einsum("kd,kde->ke", self.means, self._axes)

    # ---- the data itself ----------------------------------------------------------------------------------

    @property
    def _law(self) -> "SeededMixture":
        return SeededMixture(self._log_weights, self.means, self._axes, self._lam)

    @property
    def mean(self) -> Float[Tensor, " dim"]:
        """E[x_0]."""
        return self._law.mean

    @property
    def covariance(self) -> Float[Tensor, "dim dim"]:
        """Cov[x_0]."""
        return self._law.covariance_matrix

    def sample(self, n: int, generator: Generator | None = None) -> Float[Tensor, "n dim"]:
        """n independent draws, float64, on the mixture's device, which must also be the generator's."""
        return self._law.sample(torch.Size([whole("n", n)]), generator)

    def log_prob(self, x: Points) -> Float[Tensor, "*points"]:
        """log q(x) in nats; ValueError if a covariance is singular, as there is no density then."""
        _need_density(self._lam)
        return self._joint(self._points(x), 1.0, 0.0)[0].logsumexp(-1).to(x.dtype)

    def score(self, x: Points) -> Points:
        """grad_x log q(x); ValueError if a covariance is singular, as there is no density then."""
        _need_density(self._lam)
        log_joint, residual, variances = self._joint(self._points(x), 1.0, 0.0)
        pull = _softmax(log_joint).unsqueeze(-1) * residual / variances
        return -(pull.flatten(-2) @ self._all_axes).to(x.dtype)

    # ---- at time t ----------------------------------------------------------------------------------------

    def diffuse(self, schedule: NoiseSchedule, t: int) -> "GaussianMixture":
        """q(x_t), the marginal at t: sum_k w_k N(sqrt(alpha_bar_t) mu_k, alpha_bar_t C_k + (1 - alpha_bar_t) I)."""
        signal, noise = _level(schedule, self.means, whole("t", t, 1, schedule.T))
        identity = torch.eye(self.means.shape[1], dtype=torch.float64, device=self.means.device)
        return GaussianMixture(self.weights, signal * self.means, signal**2 * self.covariances + noise * identity)

    def responsibilities(self, schedule: NoiseSchedule, x_t: Batch, t: Time) -> Float[Tensor, "batch K"]:
        """q(k | x_t), the probability that x_0 came from component k."""
        x = self._points(x_t)
        return _softmax(self._joint(x, *_level(schedule, x.unsqueeze(-1), t))[0]).to(x_t.dtype)

    def denoise(self, schedule: NoiseSchedule, x_t: Batch, t: Time) -> Batch:
        """E[x_0 | x_t]: the mean given each component, averaged with the probability of the component."""
        x = self._points(x_t)
        signal, noise = _level(schedule, x.unsqueeze(-1), t)
        log_joint, residual, variances = self._joint(x, signal, noise)
        r = _softmax(log_joint)
        # the mean offset of x_0 from mu_k along each axis
        shift = r.unsqueeze(-1) * residual * (signal * self._lam / variances)
        return (r @ self.means + shift.flatten(-2) @ self._all_axes).to(x_t.dtype)

    def denoise_posterior(self, schedule: NoiseSchedule, x_t: Batch, t: Time) -> "SeededMixture":
        """q(x_0 | x_t) as a distribution, like `reverse_posterior`; `denoise` is its mean."""
        x = self._points(x_t)
        return self._earlier(x, 1.0, 0.0, *_level(schedule, x.unsqueeze(-1), t), x_t.dtype)

    def denoise_covariance(self, schedule: NoiseSchedule, x_t: Batch, t: Time) -> Float[Tensor, "batch dim dim"]:
        """Cov[x_0 | x_t]."""
        return self.denoise_posterior(schedule, self._points(x_t), t).covariance_matrix.to(x_t.dtype)

    def denoise_variance(self, schedule: NoiseSchedule, x_t: Batch, t: Time) -> PerExample:
        """E[||x_0 - E[x_0 | x_t]||^2 | x_t], the trace of `denoise_covariance`.

        Times the SNR it is E[||eps - E[eps | x_t]||^2 | x_t], the part of the simple loss that no network can remove.
        """
        return self.denoise_posterior(schedule, self._points(x_t), t).variance.sum(1).to(x_t.dtype)

    def reverse_posterior(self, schedule: NoiseSchedule, x_t: Batch, t: Time) -> "SeededMixture":
        """The true reverse step q(x_{t-1} | x_t), which every sampler replaces by a single Gaussian.

        Returns:
            A `MixtureSameFamily` of batch shape (batch,) and event shape (d,), in the dtype of `x_t`, whose `sample`
            also takes a generator. At t = 1 it is q(x_0 | x_1), whose `log_prob` raises ValueError if a covariance is
            singular.
        """
        x = self._points(x_t)
        before, step = _level(schedule, x.unsqueeze(-1), t, back=1), _kernel(schedule, x.unsqueeze(-1), t)
        return self._earlier(x, *before, *step, x_t.dtype)

    # ---- the two computations behind all of this ----------------------------------------------------------

    def _joint(self, x: Tensor, signal: Tensor | float, noise: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """For x = signal x_0 + sqrt(noise) eps: log q(x, k), and the residual and variance along each axis of k."""
        turned = (x @ self._all_axes.T).reshape(*x.shape[:-1], *self.means.shape)
        residual = turned - signal * self._centres
        variances = signal**2 * self._lam + noise
        return self._log_weights + _log_normal(residual, variances), residual, variances

    def _earlier(
        self, x: Tensor, signal: Tensor | float, noise: Tensor | float, keep: Tensor, add: Tensor, dtype: torch.dtype
    ) -> "SeededMixture":
        """q(x_s | x_t = x), where x_s = signal * x_0 + sqrt(noise) * eps and x_t = keep * x_s + sqrt(add) * z."""
        log_joint, residual, _ = self._joint(x, keep * signal, keep**2 * noise + add)
        prior = signal**2 * self._lam + noise
        gain, share = _bayes(prior, keep, add)
        loc = signal * self.means + torch.einsum("...ke,kde->...kd", gain * residual, self._axes)
        log_r = log_joint - log_joint.logsumexp(1, keepdim=True)
        return SeededMixture(*(v.to(dtype) for v in (log_r, loc, self._axes, share * prior)))

    def _points(self, x: Tensor) -> Tensor:
        """`x` in float64, checked."""
        check_floating(x=x)
        if x.shape[-1:] != self.means.shape[1:]:
            raise ValueError(f"x must have shape (..., {self.means.shape[1]}), got {tuple(x.shape)}")
        exact = in_float64("x", x)
        _same_device(x, self.means)
        return exact


class DataMixture(Oracle):
    """The oracle for a finite data set: x_0 is one of N given examples, each with probability 1/N.

    q(x_t) is then a mixture of N equal round Gaussians, and the best denoiser averages the examples with the weights
    softmax(-distance^2 / 2 (1 - alpha_bar_t)). That is softmax attention, with x_t as the query and the data as keys
    and values. As t falls to 1 the largest weight takes all, and the answer is the nearest example.

    Args:
        x0: the data, shape (N, ...), N >= 1, floating point, finite (or ValueError). A float64 copy is kept beside it.

    In the methods, `x_t` is a batch of examples shaped as in `x0`, and t is as in `NoiseSchedule.at`; else ValueError.
    The batch is worked through in slices, so that a table of distances has at most 2^24 entries (128 MiB; a few exist
    at a time), or one row of N.

    >>> images = torch.rand(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    >>> data = DataMixture(images)
    >>> schedule = NoiseSchedule.linear(T=1000)
    >>> torch.allclose(data.denoise(schedule, images[:3], t=1), images[:3])  # at t = 1 it knows them all
    True
    """

    def __init__(self, x0: Batch) -> None:
        check_floating(x0=x0)
        if x0.ndim < 2 or len(x0) == 0:
            raise ValueError(f"x0 must be floating, of shape (N, ...) with N >= 1, got {x0.dtype} {tuple(x0.shape)}")
        self.x0 = x0.detach()
        points = in_float64("x0", self.x0).flatten(1)
        if has_values(x0) and not bool(x0.isfinite().all()):
            raise ValueError("x0 must be finite, got inf or nan")
        self._centre = points.mean(0)
        self._rows = points - self._centre
        self._half_norms = torch.einsum("nd,nd->n", self._rows, self._rows) / 2

    def sample(self, n: int, generator: Generator | None = None) -> Batch:
        """n examples drawn with replacement, in the dtype of `x0`; the generator must be on its device."""
        i = torch.randint(len(self.x0), (whole("n", n),), generator=generator, device=self.x0.device)
        return self.x0.index_select(0, i)

    def log_prob(self, schedule: NoiseSchedule, x_t: Batch, t: Time) -> PerExample:
        """log q(x_t) in nats."""
        log_sum = self._by_rows(lambda log_p: log_p.logsumexp(1), self._query(schedule, x_t, t))
        return (log_sum - math.log(len(self.x0))).to(x_t.dtype)

    def score(self, schedule: NoiseSchedule, x_t: Batch, t: Time) -> Batch:
        """grad log q(x_t)."""
        check_floating(x_t=x_t)
        x = in_float64("x_t", x_t)
        noise = schedule.at(schedule.sqrt_one_minus_alpha_bars, t, x)
        return (-self.eps(schedule)(x, t) / noise).to(x_t.dtype)

    def responsibilities(self, schedule: NoiseSchedule, x_t: Batch, t: Time) -> Float[Tensor, "batch N"]:
        """q(i | x_t), the probability that x_t was made from example i."""
        return self._by_rows(lambda log_p: log_p.softmax(1), self._query(schedule, x_t, t)).to(x_t.dtype)

    def denoise(self, schedule: NoiseSchedule, x_t: Batch, t: Time) -> Batch:
        """E[x_0 | x_t]: the average of the examples, each weighted by its probability."""
        mean = self._by_rows(lambda log_p: log_p.softmax(1) @ self._rows, self._query(schedule, x_t, t))
        return (mean + self._centre).reshape(x_t.shape).to(x_t.dtype)

    def denoise_variance(self, schedule: NoiseSchedule, x_t: Batch, t: Time) -> PerExample:
        """E[||x_0 - E[x_0 | x_t]||^2 | x_t], as in `GaussianMixture`."""

        def variance(log_p: Tensor) -> Tensor:
            r = log_p.softmax(1)
            return 2 * (r @ self._half_norms) - (r @ self._rows).square().sum(1)

        # rounding may leave this difference of similar numbers just below zero
        return self._by_rows(variance, self._query(schedule, x_t, t)).clamp(min=0).to(x_t.dtype)

    def reverse_posterior(self, schedule: NoiseSchedule, x_t: Batch, t: Time) -> "DataPosterior":
        """The true reverse step q(x_{t-1} | x_t), with `sample(generator)`, `log_prob(x)` and `mean`."""
        return DataPosterior(self, schedule, x_t, t)

    def _query(self, schedule: NoiseSchedule, x_t: Tensor, t: Time) -> Query:
        """`x_t` as float64 rows, with sqrt(alpha_bar) and 1 - alpha_bar for each row."""
        x = self._as_rows(x_t)
        signal, noise = _level(schedule, x, t)
        return x, signal.expand(len(x), 1), noise.expand(len(x), 1)

    def _as_rows(self, x: Tensor) -> Tensor:
        check_floating(x=x)
        if x.shape[1:] != self.x0.shape[1:]:
            raise ValueError(f"x must be a batch of shape {tuple(self.x0.shape[1:])}, got {tuple(x.shape)}")
        exact = in_float64("x", x)
        _same_device(x, self.x0)
        return exact.flatten(1)

    def _by_rows(self, reduce: Callable[..., Tensor], *queries: Query) -> Tensor:
        """`reduce` of the (batch, N) tables of `_log_normal`, one per query, a bounded slice of the batch at a time."""
        size = max(1, _TABLE // len(self.x0))
        tables = (map(self._log_normal, *(torch.split(v, size) for v in query)) for query in queries)
        return torch.cat(list(map(reduce, *tables)))

    def _log_normal(self, x: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
        """log N(x; signal * x_i, noise I) for every row of x and every example i.

        ||x - signal x_i||^2 is multiplied out, so that one matrix product does the work. In float64 that is accurate:
        a product of length D is off by at most D 2^-53 |x| |x_i|, which for D = 784 numbers of order 1 and a noise of
        1e-4 is 7e-7 nats at worst (in float32 it would be 400). Both are measured from the centre of the data, so an
        offset common to all examples costs nothing.
        """
        x = x - signal * self._centre
        cross = (x * (signal / noise)) @ self._rows.T - signal**2 / noise * self._half_norms
        alone = x.square().sum(1, keepdim=True) / noise + x.shape[1] * (2 * math.pi * noise).log()
        return cross - alone / 2


class DataPosterior:
    """q(x_{t-1} | x_t) of a `DataMixture`: example i with probability q(i | x_t), then q(x_{t-1} | x_t, x_0 = x_i).

    A `MixtureSameFamily` would have to hold batch x N means, each the size of an example.
    """

    def __init__(self, data: DataMixture, schedule: NoiseSchedule, x_t: Batch, t: Time) -> None:
        self._data, self._like = data, x_t
        self._query = x, _, _ = data._query(schedule, x_t, t)
        signal, noise = _level(schedule, x, t, back=1)
        gain, share = _bayes(noise, *_kernel(schedule, x, t))
        # from example i: N(shift + scale x_i, variance I)
        self._shift = gain * x
        self._scale, self._variance = (v.expand(len(x), 1) for v in (share * signal, share * noise))

    @property
    def mean(self) -> Batch:
        """E[x_{t-1} | x_t], shaped like `x_t`."""
        data = self._data
        x0 = data._by_rows(lambda log_p: log_p.softmax(1) @ data._rows, self._query) + data._centre
        return self._shaped(self._shift + self._scale * x0)

    def sample(self, generator: Generator | None = None) -> Batch:
        """One draw per example, shaped like `x_t`; the generator must be on its device."""
        data = self._data
        i = data._by_rows(lambda log_p: log_p.softmax(1).multinomial(1, generator=generator), self._query).squeeze(1)
        x0 = data._rows.index_select(0, i) + data._centre
        z = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        return self._shaped(self._shift + self._scale * x0 + self._variance.sqrt() * z)

    def log_prob(self, x: Batch) -> PerExample:
        """log q(x_{t-1} = x | x_t) in nats per example.

        Raises:
            ValueError: `x` is not shaped like `x_t`, or some t is 1, where q consists of points and has no density.
        """
        if x.shape != self._like.shape:
            raise ValueError(f"x must be shaped like x_t, {tuple(self._like.shape)}, got {tuple(x.shape)}")
        _need_density(self._variance)
        here = self._data._as_rows(x) - self._shift, self._scale, self._variance
        log_q = self._data._by_rows(lambda p_t, p: (p_t.log_softmax(1) + p).logsumexp(1), self._query, here)
        return log_q.to(x.dtype)

    def _shaped(self, rows: Tensor) -> Tensor:
        return rows.reshape(self._like.shape).to(self._like.dtype)


class Gaussians(Distribution):
    """Gaussians N(loc, U diag(axis_variances) U^T), where the columns of `axes` U are orthonormal.

    `loc` is (..., K, d), `axes` (K, d, d), `axis_variances` (..., K, d) or (K, d); a variance may be zero.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, loc: Tensor, axes: Tensor, axis_variances: Tensor) -> None:
        self.loc, self.axes, self.axis_variances = loc, axes, axis_variances
        super().__init__(loc.shape[:-1], loc.shape[-1:])

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return torch.einsum("...ke,kde->...kd", self.axis_variances, self.axes**2).expand_as(self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        _need_density(self.axis_variances)
        residual = torch.einsum("...kd,kde->...ke", value - self.loc, self.axes)
        return _log_normal(residual, self.axis_variances)


class SeededMixture(MixtureSameFamily):
    """A `torch.distributions.MixtureSameFamily` of `Gaussians` whose `sample` takes a generator."""

    component_distribution: Gaussians
    mixture_distribution: Categorical

    def __init__(self, log_weights: Tensor, loc: Tensor, axes: Tensor, axis_variances: Tensor) -> None:
        weights = Categorical(logits=log_weights, validate_args=False)
        super().__init__(weights, Gaussians(loc, axes, axis_variances), validate_args=False)

    def sample(self, sample_shape: Sequence[int] = torch.Size(), generator: Generator | None = None) -> Tensor:
        """Draws of shape sample_shape + batch_shape + event_shape: first a component, then a point of it."""
        part, weights = self.component_distribution, self.mixture_distribution.probs
        shape = self._extended_shape(torch.Size(sample_shape))
        n, K = torch.Size(sample_shape).numel(), weights.shape[-1]
        k = torch.multinomial(weights.reshape(-1, K), n, replacement=True, generator=generator)
        chosen = one_hot(k.T.reshape(shape[:-1]), K).to(part.loc.dtype)
        z = torch.randn(shape, generator=generator, dtype=part.loc.dtype, device=part.loc.device)
        along_axes = chosen.unsqueeze(-1) * part.axis_variances.sqrt() * z.unsqueeze(-2)
        mean = torch.einsum("...k,...kd->...d", chosen, part.loc)
        return mean + torch.einsum("...ke,kde->...d", along_axes, part.axes)

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance, (..., d, d): the mean covariance of the components plus the covariance of their means."""
        part, r = self.component_distribution, self.mixture_distribution.probs
        apart = part.loc - self.mean.unsqueeze(-2)
        within = torch.einsum("...k,...ke,kde,kfe->...df", r, part.axis_variances, part.axes, part.axes)
        return within + torch.einsum("...k,...kd,...kf->...df", r, apart, apart)


def _level(schedule: NoiseSchedule, x: Tensor, t: Time, back: int = 0) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar) and 1 - alpha_bar at t - back, shaped to multiply x: x_t = first * x_0 + sqrt(second) * eps."""
    signal, noise = schedule.sqrt_alpha_bars.roll(back), schedule.one_minus_alpha_bars.roll(back)
    return schedule.at(signal, t, x), schedule.at(noise, t, x)


def _kernel(schedule: NoiseSchedule, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_t) and beta_t, shaped to multiply x: x_t = first * x_{t-1} + sqrt(second) * z_t."""
    return schedule.at(schedule.alphas.sqrt(), t, x), schedule.at(schedule.betas, t, x)


def _bayes(prior: Tensor, keep: Tensor, add: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and share of x_s given x_t, in one dimension, if x_s ~ N(m, prior) and x_t = keep * x_s + sqrt(add) * z.

    x_s given x_t is N(m + gain * (x_t - keep * m), share * prior), or N(share * m + gain * x_t, share * prior).
    """
    total = keep**2 * prior + add
    return keep * prior / total, add / total  # gain, share


def _log_normal(residual: Tensor, variances: Tensor) -> Tensor:
    """The log-density of independent coordinates, summed over the last dimension."""
    terms = residual**2 / variances + (2 * math.pi * variances).log()
    return terms @ terms.new_full(terms.shape[-1:], -0.5)  # for few coordinates far faster than a sum


def _softmax(log_weights: Tensor) -> Tensor:
    """softmax over the last dimension; for few components several times faster than torch's."""
    return (log_weights - log_weights.logsumexp(-1, keepdim=True)).exp()


def _rounding(x: Tensor) -> float:
    """The relative rounding error of sums over the last dimension, in the dtype of x."""
    return x.shape[-1] * torch.finfo(x.dtype).eps


def _check_mixture(weights: Tensor, means: Tensor, covariances: Tensor) -> None:
    check_floating(weights=weights, means=means, covariances=covariances)
    shapes = [tuple(v.shape) for v in (weights, means, covariances)]
    if means.ndim != 2 or 0 in means.shape or shapes != [shapes[1][:1], shapes[1], shapes[1] + shapes[1][1:]]:
        raise ValueError(f"weights, means, covariances must have shapes (K,), (K, d), (K, d, d), got {shapes}")
    _same_device(means, weights, covariances)
    usable_device(means.device, name="the device of means")
    if not has_values(weights):
        return
    for name, v in (("weights", weights), ("means", means), ("covariances", covariances)):
        if not bool(v.isfinite().all()):
            raise ValueError(f"{name} must be finite, got {v}")
    if bool((weights < 0).any()) or abs(float(weights.sum()) - 1) > _rounding(weights):
        raise ValueError(f"weights must not be negative and must sum to 1, got {weights}")
    scale = covariances.abs().amax((1, 2))
    if bool(((covariances - covariances.mT).abs().amax((1, 2)) > _rounding(covariances) * scale).any()):
        raise ValueError(f"covariances must be symmetric, got {covariances}")
    least = torch.linalg.eigvalsh(covariances.to(torch.float64))[:, 0]
    if bool((least < -_rounding(covariances) * scale).any()):
        raise ValueError(f"covariances must be positive semidefinite, got an eigenvalue {least.min():.3g}")


def _same_device(x: Tensor, *others: Tensor) -> None:
    if any(v.device != x.device for v in others):
        raise ValueError(f"all tensors must share a device, got {[str(v.device) for v in (x, *others)]}")


def _need_density(variances: Tensor) -> None:
    """Raise ValueError if a variance is 0; checked on the CPU only, since on an accelerator the host would wait."""
    if may_look(variances) and bool((variances <= 0).any()):
        raise ValueError("there is no density where a variance is 0: diffuse to a t >= 1 first")
