"""mixture.py against independent truths: integrals on grids, autograd, Bayes' rule on densities, draws.

Tolerances are float64 rounding, EPS = 2^-53, carried through the formulas by the three functions below, or standard
errors of a mean with z = 5 (a seed is fixed, so such a test passes or fails for good).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.functional import jacobian
from torch.distributions import MixtureSameFamily, MultivariateNormal
from torch.testing import assert_close

from diffnotes import mixture
from diffnotes.forward import q_sample, q_step
from diffnotes.mixture import DataMixture, GaussianMixture, Oracle
from diffnotes.objective import simple_loss
from diffnotes.schedule import NoiseSchedule

EPS = 2.0**-53
SCHEDULE = NoiseSchedule.linear(1000)
f64 = torch.float64
busy = settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no reason to fail


def log_tol(variance: float, reach: float = 12.0) -> float:
    """What a log-density may be off by at any point: residuals are up to `reach`, no variance below the given one.

    A residual is off by a few EPS reach, hence residual^2 / variance by as many EPS reach^2 / variance.
    """
    return 32 * EPS * max(10.0, reach**2 / variance)


def mass_tol(std: float, reach: float) -> float:
    """The same where the mass is, within ten standard deviations: residual^2 / std^2 < 100, residual / std < 10."""
    return 32 * EPS * (100 + 10 * reach / std)


def table_tol(noise: float, d: int, reach: float = 12.0) -> float:
    """The same for DataMixture, which multiplies squares out: a product of length d is off by d EPS |x| |x_i|."""
    return 8 * (d + 4) * EPS * reach**2 / noise


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=f64)


def random_mixture(seed: int, K: int, d: int, rank: int | None = None) -> GaussianMixture:
    """Means within 2 of 0 in each coordinate; no variance below 0.05, or singular covariances of the given rank."""
    g = seeded(seed)
    weights = torch.rand(K, generator=g, dtype=f64) + 0.1
    means = 4 * torch.rand(K, d, generator=g, dtype=f64) - 2
    A = 0.7 * torch.randn(K, d, d if rank is None else rank, generator=g, dtype=f64).clamp(-3, 3)
    floor = 0.05 if rank is None else 0.0
    return GaussianMixture(weights / weights.sum(), means, A @ A.mT + floor * torch.eye(d, dtype=f64))


def point_masses(x0: Tensor) -> GaussianMixture:
    N, d = x0.shape
    return GaussianMixture(torch.full((N,), 1 / N, dtype=f64), x0, torch.zeros(N, d, d, dtype=f64))


seeds, some, times = st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 1000)
regular = st.builds(random_mixture, seeds, some, st.integers(1, 3))
flat = st.builds(random_mixture, seeds, some, st.integers(1, 2))
mixtures = regular | st.builds(random_mixture, seeds, some, st.integers(1, 3), st.integers(0, 2))


def points(data: GaussianMixture | DataMixture, t: int | Tensor, seed: int, n: int = 16) -> Tensor:
    """n points: the first half drawn from q(x_t), the others anywhere within 4 of 0 in each coordinate."""
    g = seeded(seed)
    x0 = data.sample(n, g).to(f64)
    x_t = q_sample(SCHEDULE, x0, t, torch.randn(x0.shape, generator=g, dtype=f64))
    anywhere = 8 * torch.rand(x0.shape, generator=g, dtype=f64) - 4
    return torch.cat([x_t[: n // 2], anywhere[n // 2 :]])


def noise_at(t: int) -> float:
    return float(SCHEDULE.one_minus_alpha_bars[t])


def log_normal(x: Tensor, mean: Tensor, variance: Tensor | float) -> Tensor:
    """log N(x; mean, variance I), written out once more."""
    v = torch.as_tensor(variance, dtype=f64)
    return -(((x - mean) ** 2) / v + torch.log(2 * math.pi * v)).sum(-1) / 2


def grid(edge: float, step: float, d: int) -> Tensor:
    axis = torch.arange(-edge, edge + step, step, dtype=f64)
    return torch.cartesian_prod(*[axis] * d).reshape(-1, d)


# An equally spaced sum over a Gaussian of standard deviation s, at spacing s / 1.5, misses its integral by
# 2 exp(-2 pi^2 1.5^2) = 1e-19, and ten standard deviations leave out 1e-23: on such a grid rounding is all there is.


# ---- the density ----------------------------------------------------------------------------------------------


@busy
@given(st.builds(random_mixture, seeds, some, st.integers(1, 2), st.integers(0, 2)), seeds)
def test_diffused_density_integrates_to_one(data: GaussianMixture, seed: int) -> None:
    d = data.means.shape[1]
    q = data.diffuse(SCHEDULE, seed % 1000 + 1 if d == 1 else 150 + seed % 851)
    stds = torch.linalg.eigvalsh(q.covariances).sqrt()
    edge = float(q.means.abs().max() + 10 * stds.max())
    step = float(stds.min()) / 1.5
    total = (q.log_prob(grid(edge, step, d)).exp() * step**d).sum()
    assert abs(float(total) - 1) < mass_tol(float(stds.min()), edge)


@busy
@given(regular, seeds)
def test_log_prob_is_that_of_torch(data: GaussianMixture, seed: int) -> None:
    x = points(data, 1, seed)
    parts = [MultivariateNormal(m, C).log_prob(x) for m, C in zip(data.means, data.covariances, strict=True)]
    expected = (data.weights.log()[:, None] + torch.stack(parts)).logsumexp(0)
    # torch goes through a Cholesky factor: its error grows with the condition number, below 20 / 0.05
    assert_close(data.log_prob(x), expected, rtol=0, atol=400 * log_tol(0.05))


@busy
@given(mixtures, times, seeds)
def test_score_is_the_gradient_of_log_prob(data: GaussianMixture, t: int, seed: int) -> None:
    q = data.diffuse(SCHEDULE, t)
    x = points(data, t, seed).requires_grad_()
    (gradient,) = torch.autograd.grad(q.log_prob(x).sum(), x)
    # responsibilities are off by log_tol, times component scores of at most reach / variance
    variance = noise_at(t)
    assert_close(q.score(x), gradient, rtol=0, atol=log_tol(variance) * 12 / variance)


def test_any_leading_dimensions() -> None:
    data = random_mixture(0, 3, 2)
    x = randn(4, 5, 2, seed=0)
    assert_close(data.log_prob(x).flatten(), data.log_prob(x.flatten(0, 1)))
    assert_close(data.score(x).flatten(0, 1), data.score(x.flatten(0, 1)))
    assert data.log_prob(x[0, 0]).shape == ()


def test_a_component_of_weight_zero_changes_nothing() -> None:
    one = random_mixture(0, 1, 2)
    far = torch.full((1, 2), 50.0, dtype=f64)
    two = GaussianMixture(
        torch.tensor([1.0, 0.0], dtype=f64), torch.cat([one.means, far]), one.covariances.repeat(2, 1, 1)
    )
    x, t = randn(8, 2, seed=0), 300
    assert_close(two.log_prob(x), one.log_prob(x))
    assert_close(two.denoise(SCHEDULE, x, t), one.denoise(SCHEDULE, x, t))


# ---- given x_t ------------------------------------------------------------------------------------------------


@busy
@given(flat, times, seeds)
def test_posterior_of_x0_is_the_brute_force_integral(data: GaussianMixture, t: int, seed: int) -> None:
    """q(x_0) q(x_t | x_0) summed over a grid of x_0: its total is q(x_t), its moments are those of x_0 given x_t."""
    d = data.means.shape[1]
    t = t if d == 1 else max(t, 200)
    ab, noise = float(SCHEDULE.alpha_bars[t]), noise_at(t)
    lam = torch.linalg.eigvalsh(data.covariances)
    narrowest = math.sqrt(1 / (1 / float(lam.min()) + ab / noise))  # precisions add up
    edge, step = 3.0 + 10 * float(lam.max().sqrt()), narrowest / 1.5
    x_t, x0 = points(data, t, seed, n=6), grid(edge, step, d)
    log_parts = torch.stack(
        [
            w.log() + MultivariateNormal(m, C).log_prob(x0)
            for w, m, C in zip(data.weights, data.means, data.covariances, strict=True)
        ]
    )
    log_likelihood = log_normal(x_t[:, None], math.sqrt(ab) * x0, noise)  # (6, grid)
    log_joint = log_parts.logsumexp(0) + log_likelihood
    log_evidence = log_joint.logsumexp(1) + d * math.log(step)
    w = log_joint.softmax(1)
    mean = w @ x0
    apart = x0 - mean[:, None]
    covariance = torch.einsum("bn,bnd,bne->bde", w, apart, apart)
    r = w @ log_parts.softmax(0).T

    tol = mass_tol(narrowest, edge) + 400 * log_tol(0.05)  # the second for the Cholesky factors of log_parts
    assert_close(data.diffuse(SCHEDULE, t).log_prob(x_t), log_evidence, rtol=0, atol=tol)
    assert_close(data.denoise(SCHEDULE, x_t, t), mean, rtol=0, atol=tol * edge)
    assert_close(data.denoise_covariance(SCHEDULE, x_t, t), covariance, rtol=0, atol=tol * edge**2)
    variance = covariance.diagonal(dim1=1, dim2=2).sum(1)
    assert_close(data.denoise_variance(SCHEDULE, x_t, t), variance, rtol=0, atol=tol * d * edge**2)
    assert_close(data.responsibilities(SCHEDULE, x_t, t), r, rtol=0, atol=tol)


@busy
@given(mixtures, times, seeds)
def test_eps_is_the_score_rescaled(data: GaussianMixture, t: int, seed: int) -> None:
    x, noise = points(data, t, seed), noise_at(t)
    expected = -math.sqrt(noise) * data.diffuse(SCHEDULE, t).score(x)
    # on both sides weights are off by log_tol, and the average is over residuals / sqrt(noise)
    got = data.eps(SCHEDULE)(x, torch.full((len(x),), t))
    assert_close(got, expected, rtol=0, atol=log_tol(noise) * 12 / math.sqrt(noise))


@busy
@given(mixtures, times, seeds)
def test_whole_posterior_has_the_moments_of_denoise(data: GaussianMixture, t: int, seed: int) -> None:
    x = points(data, t, seed)
    q = data.denoise_posterior(SCHEDULE, x, t)
    tol = 12 * log_tol(noise_at(t))
    assert_close(q.mean, data.denoise(SCHEDULE, x, t), rtol=0, atol=tol)
    diagonal = data.denoise_covariance(SCHEDULE, x, t).diagonal(dim1=1, dim2=2)
    assert_close(q.variance, diagonal, rtol=0, atol=12 * tol)
    # a third way: the derivative of the denoiser is the covariance, times sqrt(alpha_bar) / (1 - alpha_bar)
    J = jacobian(lambda v: data.denoise(SCHEDULE, v, t).sum(0), x).permute(1, 0, 2)
    signal, noise = float(SCHEDULE.sqrt_alpha_bars[t]), noise_at(t)
    assert_close(J * noise / signal, data.denoise_covariance(SCHEDULE, x, t), rtol=0, atol=24 * tol / signal)


# ---- the reverse step -----------------------------------------------------------------------------------------


@busy
@given(mixtures, times, seeds)
def test_reverse_posterior_times_evidence_is_the_joint(data: GaussianMixture, t: int, seed: int) -> None:
    singular = float(torch.linalg.eigvalsh(data.covariances).min()) < 0.04
    t = max(t, 2) if singular else t
    x_t = points(data, t, seed)
    alpha, beta = float(SCHEDULE.alphas[t]), float(SCHEDULE.betas[t])
    near = x_t / math.sqrt(alpha) + math.sqrt(beta) * randn(*x_t.shape, seed=seed)
    for x in (near, points(data, t, seed + 1)):
        before = data if t == 1 else data.diffuse(SCHEDULE, t - 1)
        joint = before.log_prob(x) + log_normal(x_t, math.sqrt(alpha) * x, beta)
        got = data.reverse_posterior(SCHEDULE, x_t, t).log_prob(x) + data.diffuse(SCHEDULE, t).log_prob(x_t)
        variance = beta * (0.05 if t == 1 else noise_at(t - 1)) / (noise_at(t) + 0.05)  # of the narrowest direction
        assert_close(got, joint, rtol=0, atol=log_tol(variance))


@busy
@given(mixtures, times, seeds)
def test_reverse_moments_are_tweedies(data: GaussianMixture, t: int, seed: int) -> None:
    """One step of noise is x_t = sqrt(alpha) x_{t-1} + sqrt(beta) z: score and its derivative give the moments."""
    x = points(data, t, seed)
    alpha, beta = float(SCHEDULE.alphas[t]), float(SCHEDULE.betas[t])
    q, score = data.reverse_posterior(SCHEDULE, x, t), data.diffuse(SCHEDULE, t).score
    noise = noise_at(t)
    tol = log_tol(noise) * 12 / noise  # of a score
    assert_close(q.mean, (x + beta * score(x)) / math.sqrt(alpha), rtol=0, atol=beta * tol + 12 * log_tol(noise))
    H = jacobian(lambda v: score(v).sum(0), x).permute(1, 0, 2)
    covariance = beta / alpha * (torch.eye(x.shape[1], dtype=f64) + beta * H)
    assert_close(q.covariance_matrix, covariance, rtol=0, atol=beta**2 * tol * 12 / noise + 144 * log_tol(noise))
    assert_close(q.variance, q.covariance_matrix.diagonal(dim1=1, dim2=2), rtol=0, atol=144 * log_tol(noise))


def test_reverse_posterior_is_a_torch_mixture() -> None:
    data, t = random_mixture(0, 3, 2), torch.tensor([1, 2, 500, 1000])
    q = data.reverse_posterior(SCHEDULE, points(data, t, seed=0, n=4), t)
    assert isinstance(q, MixtureSameFamily)
    assert (q.batch_shape, q.event_shape) == ((4,), (2,))
    assert q.sample().shape == (4, 2)
    assert q.sample((5, 6), seeded(0)).shape == (5, 6, 4, 2)
    assert q.log_prob(q.sample((7,))).shape == (7, 4)
    assert "Gaussians" in repr(q)


def test_the_first_step_back_to_point_masses() -> None:
    """At t = 1, q(x_0 | x_1) sits on the points: it has draws and moments, no density."""
    x0 = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=f64)
    x_1 = torch.tensor([[0.5, 3.0], [0.9, 0.1]], dtype=f64)
    masses, data = point_masses(x0), DataMixture(x0)
    for q in (masses.reverse_posterior(SCHEDULE, x_1, 1), data.reverse_posterior(SCHEDULE, x_1, torch.tensor([1, 1]))):
        draws = torch.stack([q.sample(generator=seeded(i)) for i in range(200)])
        on_a_point = (draws[..., None, :] - x0).abs().amax(-1).amin(-1)
        assert float(on_a_point.max()) <= 2 * EPS
        # x_1[0] is as far from both points but for the shrinking by sqrt(alpha_bar): log-odds 0.5 (sqrt(ab) - ab)/1e-4
        ab = float(SCHEDULE.alpha_bars[1])
        odds = math.exp((math.sqrt(ab) * 0.5 - ab * 0.5) / (1 - ab))
        assert_close(q.mean[0], x0[1] * odds / (1 + odds), rtol=1e-9, atol=0)
        with pytest.raises(ValueError, match="no density where a variance is 0"):
            q.log_prob(x0)


# ---- the data set ---------------------------------------------------------------------------------------------

SAME = ["denoise", "denoise_variance", "responsibilities"]


@busy
@given(seeds, st.integers(1, 6), st.integers(1, 5), times)
def test_data_mixture_is_the_mixture_of_zero_covariance(seed: int, N: int, d: int, t: int) -> None:
    x0 = 2 * randn(N, d, seed=seed).clamp(-2, 2)
    data, masses = DataMixture(x0), point_masses(x0)
    x, noise = points(data, t, seed + 1), noise_at(t)
    tol = table_tol(noise, d, reach=math.sqrt(d) * 8)
    at_t = masses.diffuse(SCHEDULE, t)
    assert_close(data.log_prob(SCHEDULE, x, t), at_t.log_prob(x), rtol=0, atol=tol)
    assert_close(data.score(SCHEDULE, x, t), at_t.score(x), rtol=0, atol=20 * tol / noise)
    assert_close(data.eps(SCHEDULE)(x, t), masses.eps(SCHEDULE)(x, t), rtol=0, atol=20 * tol / math.sqrt(noise))
    for name in SAME:
        got, expected = (getattr(oracle, name)(SCHEDULE, x, t) for oracle in (data, masses))
        assert_close(got, expected, rtol=0, atol=400 * tol)
    q, p = data.reverse_posterior(SCHEDULE, x, t), masses.reverse_posterior(SCHEDULE, x, t)
    assert_close(q.mean, p.mean, rtol=0, atol=20 * tol)
    if t > 1:
        near = p.mean + 0.1 * math.sqrt(noise) * randn(*x.shape, seed=seed)
        tol = table_tol(float(SCHEDULE.posterior_variances[t]), d, reach=math.sqrt(d) * 8)
        assert_close(q.log_prob(near), p.log_prob(near), rtol=0, atol=2 * tol)


def test_data_mixture_is_the_limit_of_narrow_components() -> None:
    """With C = h^2 I the denoiser differs by order h^2: a tenth of h, a hundredth of the difference."""
    x0, t = randn(5, 2, seed=0), torch.full((40,), 100)
    data = DataMixture(x0)
    x = q_sample(SCHEDULE, x0.repeat(8, 1), t, randn(40, 2, seed=1))

    def difference(h: float) -> float:
        narrow = GaussianMixture(torch.full((5,), 0.2, dtype=f64), x0, (h**2 * torch.eye(2, dtype=f64)).repeat(5, 1, 1))
        return float((narrow.denoise(SCHEDULE, x, t) - data.denoise(SCHEDULE, x, t)).abs().max())

    for h in (1e-2, 1e-3):
        # the next term is smaller by h^2 over the noise, 0.1 at this t
        assert difference(h) / difference(h / 10) == pytest.approx(100, rel=5 * h**2 / 0.1 + 1e-4)


def test_near_t_1_the_denoiser_returns_the_nearest_example() -> None:
    x0 = randn(50, 3, 4, seed=0)
    data = DataMixture(x0)
    i = torch.arange(50)
    x_1 = q_sample(SCHEDULE, x0, 1, randn(50, 3, 4, seed=1))
    nearest = torch.cdist(x_1.flatten(1), float(SCHEDULE.sqrt_alpha_bars[1]) * x0.flatten(1)).argmin(1)
    assert torch.equal(nearest, i)  # noise of 0.01 against distances of a few: no mistaking
    # the next example is farther by more than 1 in squared distance: weight below exp(-1 / 2e-4)
    assert_close(data.denoise(SCHEDULE, x_1, 1), x0[nearest], rtol=0, atol=16 * EPS)
    assert_close(data.responsibilities(SCHEDULE, x_1, 1), torch.eye(50, dtype=f64), rtol=0, atol=16 * EPS)
    assert float(data.denoise_variance(SCHEDULE, x_1, 1).max()) < 64 * EPS * 50  # 2 |x|^2 / 2 - |x|^2, |x|^2 < 50


@pytest.mark.parametrize("beta", [1e-4, 1e-10])
@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_no_overflow_at_t_1_in_784_dimensions(dtype: torch.dtype, beta: float) -> None:
    schedule = NoiseSchedule.constant(2, beta)
    x0 = torch.rand(30, 1, 28, 28, generator=seeded(0)).to(dtype)
    data = DataMixture(x0)
    noise = torch.randn(30, 1, 28, 28, generator=seeded(1)).to(dtype)
    for x in (q_sample(schedule, x0, 1, noise), 100 * noise, torch.zeros_like(noise)):
        for got in (
            data.log_prob(schedule, x, 1),
            data.score(schedule, x, 1),
            data.eps(schedule)(x, torch.ones(30, dtype=torch.int64)),
            data.denoise(schedule, x, 1),
            data.denoise_variance(schedule, x, 1),
            data.reverse_posterior(schedule, x, 1).sample(seeded(0)),
            data.reverse_posterior(schedule, x, 2).log_prob(x),
        ):
            assert got.dtype == dtype
            assert bool(got.isfinite().all())
    x = q_sample(schedule, x0, 1, noise)
    exact = log_normal(x.to(f64).flatten(1)[:, None], math.sqrt(1 - beta) * x0.to(f64).flatten(1), beta)
    exact = exact.logsumexp(1) - math.log(30)
    # 784 squares of order 1 multiplied out: reach^2 = 784; and for float32 the rounding of the answer
    tol = table_tol(beta, 784, reach=28.0)
    assert_close(
        data.log_prob(schedule, x, 1), exact.to(dtype), rtol=2.0**-23 if dtype == torch.float32 else 0, atol=tol
    )


def test_gaussian_mixture_in_784_dimensions() -> None:
    data = point_masses(torch.rand(3, 784, generator=seeded(0), dtype=f64))
    x = q_sample(SCHEDULE, data.means, 1, randn(3, 784, seed=1))
    for x_1 in (x, 100 * x):
        assert bool(data.diffuse(SCHEDULE, 1).log_prob(x_1).isfinite().all())
        assert bool(data.eps(SCHEDULE)(x_1, torch.ones(3, dtype=torch.int64)).isfinite().all())
    assert_close(data.denoise(SCHEDULE, x, 1), data.means, rtol=0, atol=784 * EPS)


@pytest.mark.parametrize("t", [10, 500])  # where one example has all the weight, and where many share it
def test_an_offset_common_to_all_examples_costs_nothing(t: int) -> None:
    x0, size = randn(20, 6, seed=0), 1e6
    far = size * torch.tensor([1.0, -1.0, 0.5, -0.5, 0.0, 1.0], dtype=f64)  # in each coordinate another
    x = q_sample(SCHEDULE, x0, t, randn(20, 6, seed=1))
    moved = x + SCHEDULE.sqrt_alpha_bars[t] * far
    got = DataMixture(x0 + far).denoise(SCHEDULE, moved, t) - far
    # what cannot be had back is the rounding of the numbers near 1e6 themselves, seen through responsibilities whose
    # exponents are residual * rounding / noise
    tol = 16 * EPS * size * (1 + 12 * 12 / noise_at(t))
    assert_close(got, DataMixture(x0).denoise(SCHEDULE, x, t), rtol=0, atol=tol)


def test_batches_are_taken_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    data, t = DataMixture(randn(7, 2, 3, seed=0)), torch.tensor([1, 5, 10, 300, 1000])
    x = points(data, t, seed=1, n=5)
    calls: list[Callable[[], Tensor]] = [
        lambda: data.log_prob(SCHEDULE, x, t),
        lambda: data.denoise(SCHEDULE, x, t),
        lambda: data.denoise_variance(SCHEDULE, x, t),
        lambda: data.responsibilities(SCHEDULE, x, t),
        lambda: data.reverse_posterior(SCHEDULE, x[1:], t[1:]).log_prob(x[1:]),
        lambda: data.reverse_posterior(SCHEDULE, x, t).mean,
    ]
    whole = [call() for call in calls]
    sizes = []
    log_normal_of = DataMixture._log_normal
    monkeypatch.setattr(
        DataMixture, "_log_normal", lambda *a: sizes.append(log_normal_of(*a).numel()) or log_normal_of(*a)
    )
    for table, largest in ((15, 14), (3, 7)):  # two rows of seven, and never less than one
        monkeypatch.setattr(mixture, "_TABLE", table)
        sizes.clear()
        for call, expected in zip(calls, whole, strict=True):
            assert_close(call(), expected, rtol=1e-12, atol=1e-12)  # matrix products of other shapes round otherwise
        assert max(sizes) == largest


def test_a_table_has_at_most_2_to_the_24_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million examples, on the meta device, where a table takes no memory: sixteen rows of the batch at a time."""
    data, x = (DataMixture(torch.zeros(2**20, 3, device="meta")), torch.zeros(40, 3, device="meta"))
    sizes = []
    log_normal_of = DataMixture._log_normal
    monkeypatch.setattr(
        DataMixture, "_log_normal", lambda *a: sizes.append(log_normal_of(*a).numel()) or log_normal_of(*a)
    )
    assert data.denoise(SCHEDULE.to("meta"), x, 5).shape == x.shape
    assert sizes == [2**24, 2**24, 2**23]


# ---- one t an example, dtypes, devices ------------------------------------------------------------------------

ORACLES = [random_mixture(0, 3, 2), random_mixture(1, 2, 2, rank=1), DataMixture(randn(6, 2, seed=2))]
CALLS: dict[str, Callable[..., Tensor]] = {
    "eps": lambda o, x, t: o.eps(SCHEDULE)(x, t),
    "denoise": lambda o, x, t: o.denoise(SCHEDULE, x, t),
    "denoise_variance": lambda o, x, t: o.denoise_variance(SCHEDULE, x, t),
    "responsibilities": lambda o, x, t: o.responsibilities(SCHEDULE, x, t),
    "reverse mean": lambda o, x, t: o.reverse_posterior(SCHEDULE, x, t).mean,
    "reverse log_prob": lambda o, x, t: o.reverse_posterior(SCHEDULE, x, t).log_prob(x),
}
GAUSSIAN_CALLS: dict[str, Callable[..., Tensor]] = {
    "denoise_covariance": lambda o, x, t: o.denoise_covariance(SCHEDULE, x, t),
    "posterior mean": lambda o, x, t: o.denoise_posterior(SCHEDULE, x, t).mean,
    "reverse variance": lambda o, x, t: o.reverse_posterior(SCHEDULE, x, t).variance,
}
DATA_CALLS: dict[str, Callable[..., Tensor]] = {
    "log_prob": lambda o, x, t: o.log_prob(SCHEDULE, x, t),
    "score": lambda o, x, t: o.score(SCHEDULE, x, t),
}


def calls_of(oracle: GaussianMixture | DataMixture) -> dict[str, Callable[..., Tensor]]:
    return CALLS | (GAUSSIAN_CALLS if isinstance(oracle, GaussianMixture) else DATA_CALLS)


@pytest.mark.parametrize("oracle", ORACLES, ids=["regular", "singular", "data"])
def test_one_t_an_example_equals_a_loop(oracle: GaussianMixture | DataMixture) -> None:
    t = torch.tensor([2, 1000, 7, 7, 400])
    x = points(oracle, t, seed=3, n=5)
    for name, call in calls_of(oracle).items():
        each = torch.cat([call(oracle, x[i : i + 1], int(t[i])) for i in range(5)])
        # the same operations; products of other shapes may add up in another order (log_prob reaches 1e5 here)
        assert_close(call(oracle, x, t), each, rtol=1e-11, atol=1e-11, msg=name)
        as_int = call(oracle, x, 7)
        assert_close(as_int, call(oracle, x, torch.full((5,), 7)), rtol=1e-11, atol=1e-11, msg=name)


@pytest.mark.parametrize("oracle", ORACLES, ids=["regular", "singular", "data"])
def test_float32_in_is_the_float64_answer_rounded(oracle: GaussianMixture | DataMixture) -> None:
    t = torch.tensor([2, 1000, 7, 7, 400])
    x = points(oracle, t, seed=3, n=5).float()
    for name, call in calls_of(oracle).items():
        got, expected = call(oracle, x, t), call(oracle, x.double(), t).float()
        assert got.dtype == torch.float32
        if isinstance(oracle, GaussianMixture) and ("reverse" in name or "posterior" in name):
            # a distribution's parameters are rounded, and torch computes in float32 from there; the reverse variance
            # is 5e-5 at t = 2, so log_prob has residual^2 / variance of 16 / 5e-5
            scale = 16 / 5e-5 if name == "reverse log_prob" else 1.0
            assert_close(got, expected, rtol=0, atol=32 * 2.0**-24 * scale, msg=name)
        else:
            assert torch.equal(got, expected), name
    assert oracle.sample(3).dtype == f64
    assert oracle.sample(1).shape == (1, 2)


def test_float32_weights_are_sharp_far_from_the_data() -> None:
    """Log-densities near -80,000 that differ by 0.2: float32 has steps of 0.008 there, and 6e-8 after subtraction."""
    means = torch.tensor([[-0.001, 0.0], [0.001, 0.0]], dtype=f64)
    data = GaussianMixture(torch.full((2,), 0.5, dtype=f64), means, 0.01 * torch.eye(2, dtype=f64).repeat(2, 1, 1))
    x = torch.tensor([[1.0, 40.0]])
    rough, exact = (data.reverse_posterior(SCHEDULE, v, 2).mixture_distribution.probs for v in (x, x.double()))
    assert 0.52 < float(exact[0, 1]) < 0.58
    assert_close(rough, exact.float(), rtol=4 * 2.0**-24, atol=0)  # a logit below 1, its exponential and a sum


def test_mixture_of_float32_parameters() -> None:
    """Thirds add up to 1 only as float32 knows it; the mixture makes them thirds of float64."""
    data = GaussianMixture(torch.full((3,), 1 / 3), torch.zeros(3, 2), torch.eye(2).repeat(3, 1, 1))
    assert data.weights.dtype == data.means.dtype == data.covariances.dtype == f64
    assert abs(float(data.weights.sum()) - 1) <= 2 * EPS
    x = torch.zeros(1, 2)
    assert data.log_prob(x).dtype == data.score(x).dtype == torch.float32
    assert float(data.log_prob(x.double())) == pytest.approx(-math.log(2 * math.pi), rel=1e-15)


def test_mixture_of_bfloat16_parameters() -> None:
    """torch takes no bfloat16 matrix apart: it is done in float64."""
    parts = torch.full((2,), 0.5), torch.zeros(2, 3), torch.eye(3).repeat(2, 1, 1)
    data = GaussianMixture(*(v.to(torch.bfloat16) for v in parts))
    assert float(data.log_prob(torch.zeros(3, dtype=f64))) == pytest.approx(-1.5 * math.log(2 * math.pi), rel=1e-15)


def test_float64_draws_have_the_digits_of_float64() -> None:
    x = random_mixture(0, 2, 3).sample(10, seeded(0))
    standard = GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.eye(3)[None]).sample(10, seeded(0))
    for draws in (x, standard):
        assert bool((draws != draws.float().double()).all())
    # one example, at the centre: the step back is its deviation times the draw
    q = DataMixture(torch.zeros(1, 3, dtype=f64)).reverse_posterior(SCHEDULE, torch.zeros(1, 3, dtype=f64), 500)
    z = q.sample(seeded(0)) / SCHEDULE.posterior_variances[500].sqrt()
    assert float((z - z.float()).abs().max()) > 1e-10  # a float32 draw would come back to 2^-52


def on_every_method(device: str) -> None:
    s = NoiseSchedule(torch.full((10,), 0.1, dtype=f64, device=device))
    t = torch.ones(5, dtype=torch.int64, device=device)
    gauss = GaussianMixture(
        torch.ones(3, device=device) / 3, torch.zeros(3, 2, device=device), torch.ones(3, 2, 2, device=device)
    )
    data = DataMixture(torch.zeros(20, 1, 4, 4, device=device))
    for oracle, K, x in (
        (gauss, 3, torch.zeros(5, 2, device=device)),
        (data, 20, torch.zeros(5, 1, 4, 4, device=device)),
    ):
        for when in (t, 3):
            q = oracle.reverse_posterior(s, x, when)
            like_x = [oracle.eps(s)(x, when), oracle.denoise(s, x, when), q.mean, q.sample()]
            per_example = [oracle.denoise_variance(s, x, when), q.log_prob(x)]
            assert all(y.shape == x.shape for y in like_x)
            assert all(y.shape == (5,) for y in per_example)
            assert oracle.responsibilities(s, x, when).shape == (5, K)
            assert all(y.device.type == device and y.dtype == x.dtype for y in like_x + per_example)
        assert oracle.sample(7).shape == (7, *x.shape[1:])
        assert oracle.sample(7).device.type == device
    x = torch.zeros(5, 2, device=device)
    assert gauss.diffuse(s, 3).log_prob(x).shape == (5,)
    assert gauss.diffuse(s, 3).score(x).shape == x.shape
    assert gauss.denoise_covariance(s, x, t).shape == (5, 2, 2)
    assert gauss.denoise_posterior(s, x, t).variance.shape == x.shape
    assert (gauss.mean.shape, gauss.covariance.shape) == ((2,), (2, 2))
    assert data.log_prob(s, torch.zeros(5, 1, 4, 4, device=device), t).shape == (5,)
    assert data.score(s, torch.zeros(5, 1, 4, 4, device=device), t).shape == (5, 1, 4, 4)


def test_on_the_meta_device() -> None:
    on_every_method("meta")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_on_a_fake_device(device: str) -> None:
    """A tensor left on the CPU raises here, and so does any look at a value, which on a GPU makes the host wait."""
    with FakeTensorMode():
        on_every_method(device)


@pytest.mark.gpu
@pytest.mark.parametrize("oracle", ORACLES, ids=["regular", "singular", "data"])
def test_on_a_gpu(oracle: GaussianMixture | DataMixture) -> None:
    s, there = SCHEDULE.to("cuda"), oracle.to("cuda")
    t = torch.tensor([2, 1000, 7, 7, 400])
    x = points(oracle, t, seed=3, n=5)
    on_gpu = there.eps(s)(x.cuda(), t.cuda())
    assert on_gpu.device.type == "cuda"
    assert_close(on_gpu.cpu(), oracle.eps(SCHEDULE)(x, t), rtol=1e-11, atol=1e-11)
    q, p = there.reverse_posterior(s, x.cuda(), t.cuda()), oracle.reverse_posterior(SCHEDULE, x, t)
    assert_close(q.mean.cpu(), p.mean, rtol=1e-11, atol=1e-11)
    assert_close(q.log_prob(x.cuda()).cpu(), p.log_prob(x), rtol=1e-11, atol=1e-11)
    assert q.sample(generator=torch.Generator("cuda").manual_seed(0)).device.type == "cuda"


@pytest.mark.parametrize("oracle", ORACLES, ids=["regular", "singular", "data"])
def test_to_moves_a_copy(oracle: GaussianMixture | DataMixture) -> None:
    there = oracle.to("meta")
    assert type(there) is type(oracle)
    assert {v.device.type for v in vars(there).values() if isinstance(v, Tensor)} == {"meta"}
    assert {v.device.type for v in vars(oracle).values() if isinstance(v, Tensor)} == {"cpu"}


# ---- draws ----------------------------------------------------------------------------------------------------


def assert_mean(samples: Tensor, expected: Tensor | float) -> None:
    """The mean over dim 0 is the expected one, within z = 5 of its standard errors."""
    error = samples.std(0) / math.sqrt(len(samples))
    assert bool(((samples.mean(0) - expected).abs() <= 5 * error + 16 * EPS).all())


def assert_law(samples: Tensor, law: GaussianMixture) -> None:
    """Mean, covariance and characteristic function E exp(i w.x) at ten w, each within z = 5 standard errors.

    The characteristic function of a mixture, sum_k w_k exp(i w.mu_k - w.C_k.w / 2), uses no code under test.
    """
    apart = samples - law.mean
    assert_mean(samples, law.mean)
    assert_mean(apart[:, :, None] * apart[:, None, :], law.covariance)
    w = 1.5 * randn(10, samples.shape[1], seed=99)
    phase, shrink = w @ law.means.T, torch.einsum("nd,kde,ne->nk", w, law.covariances, w)
    damped = (-shrink / 2).exp()
    assert_mean((samples @ w.T).cos(), (damped * phase.cos()) @ law.weights)
    assert_mean((samples @ w.T).sin(), (damped * phase.sin()) @ law.weights)


LAWS = [
    (random_mixture(3, 3, 2), "regular"),
    (random_mixture(4, 3, 2, rank=1), "lines"),
    (random_mixture(5, 4, 1, 0), "points"),
]
each_law = pytest.mark.parametrize("data", [m for m, _ in LAWS], ids=[name for _, name in LAWS])


@each_law
def test_samples_follow_the_mixture(data: GaussianMixture) -> None:
    assert_law(data.sample(100_000, seeded(0)), data)


@busy
@given(mixtures)
def test_mean_and_covariance(data: GaussianMixture) -> None:
    """E x and E x x^T - E x E x^T, with E x x^T = sum_k w_k (C_k + mu_k mu_k^T)."""
    mean = (data.weights[:, None] * data.means).sum(0)
    second = (data.weights[:, None, None] * (data.covariances + data.means[:, :, None] * data.means[:, None])).sum(0)
    assert_close(data.mean, mean, rtol=0, atol=32 * EPS)
    assert_close(data.covariance, second - torch.outer(mean, mean), rtol=0, atol=64 * EPS * 16)


@each_law
@pytest.mark.parametrize("t", [1, 300, 1000])
def test_noised_samples_follow_the_diffused_mixture(data: GaussianMixture, t: int) -> None:
    x0 = data.sample(100_000, seeded(1))
    assert_law(q_sample(SCHEDULE, x0, t, randn(*x0.shape, seed=2)), data.diffuse(SCHEDULE, t))


def assert_step_back(schedule: NoiseSchedule, t: int, x_t: Tensor, back: Tensor, before: GaussianMixture) -> None:
    """A pair drawn backwards has the law of one drawn forwards, x_t = sqrt(alpha) x_{t-1} + sqrt(beta) z."""
    assert_law(back, before)
    alpha, beta = float(schedule.alphas[t]), float(schedule.betas[t])
    z = (x_t - math.sqrt(alpha) * back) / math.sqrt(beta)  # the noise of the step: N(0, I), independent of x_{t-1}
    assert_mean(z, 0.0)
    assert_mean(z[:, :, None] * z[:, None, :], torch.eye(z.shape[1], dtype=f64))
    assert_mean(z[:, :, None] * back[:, None, :].sin(), 0.0)


@each_law
@pytest.mark.parametrize("t", [1, 2, 50, 500])
@pytest.mark.parametrize("large_steps", [False, True])
def test_a_true_step_back_undoes_a_step_forward(data: GaussianMixture, t: int, large_steps: bool) -> None:
    """x_t ~ q(x_t), then x_{t-1} ~ q(x_{t-1} | x_t): the pair is as after a step forward, of any size."""
    schedule = NoiseSchedule.constant(500, 0.3) if large_steps else SCHEDULE
    n = 40_000
    x_t = q_sample(schedule, data.sample(n, seeded(1)), t, randn(n, data.means.shape[1], seed=2))
    back = data.reverse_posterior(schedule, x_t, torch.full((n,), t)).sample(generator=seeded(3))
    assert_step_back(schedule, t, x_t, back, data if t == 1 else data.diffuse(schedule, t - 1))


@pytest.mark.parametrize("t", [1, 2, 50, 500])
@pytest.mark.parametrize("large_steps", [False, True])
def test_a_true_step_back_to_the_data_set(t: int, large_steps: bool) -> None:
    schedule = NoiseSchedule.constant(500, 0.3) if large_steps else SCHEDULE
    x0, n = randn(5, 2, seed=0), 40_000
    data, masses = DataMixture(x0), point_masses(x0)
    x_t = q_sample(schedule, data.sample(n, seeded(1)), t, randn(n, 2, seed=2))
    back = data.reverse_posterior(schedule, x_t, torch.full((n,), t)).sample(seeded(3))
    assert_step_back(schedule, t, x_t, back, masses if t == 1 else masses.diffuse(schedule, t - 1))


def test_steps_forward_and_the_jump_have_one_law() -> None:
    data, s = random_mixture(6, 2, 2), NoiseSchedule.constant(5, 0.2)
    x = data.sample(100_000, seeded(0))
    for t in range(1, 6):
        x = q_step(s, x, t, randn(*x.shape, seed=t))
    assert_law(x, data.diffuse(s, 5))


def test_the_exact_predictor_leaves_the_least_loss() -> None:
    """The loss of eps is alpha_bar / (1 - alpha_bar) E tr Cov[x_0 | x_t]; what is left is orthogonal to any f(x_t)."""
    data, t, n = random_mixture(3, 3, 2), 200, 100_000
    eps, x0 = randn(n, 2, seed=0), data.sample(n, seeded(1))
    x_t = q_sample(SCHEDULE, x0, t, eps)
    left = eps - data.eps(SCHEDULE)(x_t, torch.full((n,), t))
    floor = float(SCHEDULE.snr[t]) * data.denoise_variance(SCHEDULE, x_t, t)
    assert_mean(left.square().sum(1) - floor, 0.0)
    assert_mean(left * x_t.sin(), 0.0)


@pytest.mark.parametrize("oracle", ORACLES, ids=["regular", "singular", "data"])
def test_a_generator_is_all_the_randomness(oracle: GaussianMixture | DataMixture) -> None:
    x = points(oracle, 5, seed=0, n=4)
    before = torch.get_rng_state()
    assert torch.equal(oracle.sample(50, seeded(1)), oracle.sample(50, seeded(1)))
    assert not torch.equal(oracle.sample(50, seeded(1)), oracle.sample(50, seeded(2)))
    q = oracle.reverse_posterior(SCHEDULE, x, 5)
    assert torch.equal(q.sample(generator=seeded(1)), q.sample(generator=seeded(1)))
    assert not torch.equal(q.sample(generator=seeded(1)), q.sample(generator=seeded(2)))
    assert torch.equal(torch.get_rng_state(), before)


# ---- what is refused ------------------------------------------------------------------------------------------

W, M, C = (torch.tensor([0.5, 0.5], dtype=f64), torch.zeros(2, 3, dtype=f64), torch.eye(3, dtype=f64).repeat(2, 1, 1))
LOPSIDED, INDEFINITE = C.clone(), C.clone()
LOPSIDED[0, 0, 1] = 1e-6
INDEFINITE[1, 2, 2] = -1e-6


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
    ("weights", "means", "covariances", "said"),
    [
        (torch.ones(3) / 3, M, C, r"shapes \(K,\), \(K, d\), \(K, d, d\), got \[\(3,\), \(2, 3\), \(2, 3, 3\)\]"),
        (W, M[0], C, r"shapes \(K,\)"),
        (W, M, C[0], r"shapes \(K,\)"),
        (W, M, C[:, :2], r"shapes \(K,\)"),
        (W[None], M, C, r"shapes \(K,\)"),
        (W[:0], M[:0], C[:0], r"shapes \(K,\)"),
        (W, M[:, :0], C[:, :0, :0], r"shapes \(K,\)"),
        (W, M.to("meta"), C, r"share a device, got \['meta', 'cpu', 'cpu'\]"),
        (W * (1 + 1e-12), M, C, "weights must not be negative and must sum to 1"),
        (torch.tensor([1.5, -0.5]), M, C, "weights must not be negative"),
        (W * math.nan, M, C, "weights must be finite"),
        (W, M + math.inf, C, "means must be finite"),
        (W, M, C * math.nan, "covariances must be finite"),
        (W, M, LOPSIDED, "covariances must be symmetric"),
        (W, M, INDEFINITE, "covariances must be positive semidefinite, got an eigenvalue -1e-06"),
        # what rounding explains is measured against the size of the covariance
        (W, M, 1e-6 * LOPSIDED, "covariances must be symmetric"),
        (W, M, 1e-6 * INDEFINITE, "covariances must be positive semidefinite, got an eigenvalue -1e-12"),
    ],
)
def test_a_bad_mixture_is_refused(weights: Tensor, means: Tensor, covariances: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GaussianMixture(weights, means, covariances)


def test_weights_may_be_off_by_their_rounding_and_no_more() -> None:
    """Two float64 weights: a sum that is off by two ulps of 1."""
    ulp = 2.0**-52
    GaussianMixture(torch.tensor([0.5, 0.5 + 2 * ulp], dtype=f64), M, C)
    with pytest.raises(ValueError, match="must sum to 1"):
        GaussianMixture(torch.tensor([0.5, 0.5 + 3 * ulp], dtype=f64), M, C)


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_rounding_grows_with_the_covariance(size: float) -> None:
    """An entry off by one ulp of itself is rounding, whatever the unit, and whatever the other components' size."""
    nearly = C.clone()
    nearly[0] *= size
    nearly[0, 0, 1], nearly[0, 1, 0] = 0.1 * size, 0.1 * size * (1 + 2.0**-52)
    assert not torch.equal(nearly, nearly.mT)
    GaussianMixture(W, M, nearly)


def test_a_small_component_is_measured_by_itself() -> None:
    """A wide one beside it neither makes it singular nor hides that it is lopsided."""
    wide_and_narrow = torch.stack([1e12 * C[0], 1e-6 * C[1]])
    assert bool(GaussianMixture(W, M, wide_and_narrow).log_prob(M[:1]).isfinite())
    wide_and_narrow[1, 0, 1] = 1e-10
    with pytest.raises(ValueError, match="covariances must be symmetric"):
        GaussianMixture(W, M, wide_and_narrow)


def test_an_oracle_must_say_how_it_denoises() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Oracle()  # type: ignore[abstract]


def test_rounding_is_not_refused() -> None:
    tenths = torch.full((10,), 0.1, dtype=f64)
    assert float(tenths.cumsum(0)[-1]) != 1
    A = randn(10, 4, 2, seed=0)
    data = GaussianMixture(tenths, torch.zeros(10, 4, dtype=f64), A @ A.mT)  # rank 2: eigenvalues like -1e-17
    with pytest.raises(ValueError, match="no density"):
        data.log_prob(torch.zeros(1, 4, dtype=f64))
    with pytest.raises(ValueError, match="no density"):
        data.score(torch.zeros(1, 4, dtype=f64))
    # and what eigh cannot tell from zero is zero: draws stay in the plane
    x = GaussianMixture(tenths[:1] * 10, torch.zeros(1, 4, dtype=f64), (A @ A.mT)[:1]).sample(100, seeded(0))
    assert int(torch.linalg.matrix_rank(x)) == 2


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
    ("x0", "said"),
    [
        (torch.zeros(4), r"x0 must be floating, of shape \(N, \.\.\.\) with N >= 1, got torch.float32 \(4,\)"),
        (torch.zeros(0, 3), r"with N >= 1, got torch.float32 \(0, 3\)"),
        (torch.zeros(4, 3, dtype=torch.uint8), "x0 must be floating"),
        (torch.full((4, 3), math.nan), "x0 must be finite"),
    ],
)
def test_a_bad_data_set_is_refused(x0: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DataMixture(x0)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("oracle", ORACLES, ids=["regular", "singular", "data"])
def test_bad_arguments_are_refused(oracle: GaussianMixture | DataMixture) -> None:
    x = torch.zeros(3, 2, dtype=f64)
    for call in calls_of(oracle).values():
        for t in (0, 1001, torch.tensor([1, 0, 1]), torch.tensor([1, 1001, 1])):
            with pytest.raises(ValueError, match=r"t must lie in 1\.\.1000, got"):
                call(oracle, x, t)
        with pytest.raises(ValueError, match=r"t must have shape \(3,\)"):
            call(oracle, x, torch.tensor([5, 5]))
        with pytest.raises(ValueError, match=r"x must .*got \(3, 4\)"):
            call(oracle, torch.zeros(3, 4, dtype=f64), 5)
        with pytest.raises(ValueError, match="share a device"):
            call(oracle.to("meta"), x, 5)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        oracle.sample(0)


@pytest.mark.usefixtures("no_shape_checks")
def test_bad_points_are_refused() -> None:
    regular, data = ORACLES[0], ORACLES[2]
    for f in (regular.log_prob, regular.score):
        with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 2\), got \(4,\)"):
            f(torch.zeros(4))
    for t in (0, 1001):
        with pytest.raises(ValueError, match=r"t must lie in 1\.\.1000"):
            regular.diffuse(SCHEDULE, t)
    with pytest.raises(ValueError, match=r"x must be shaped like x_t, \(3, 2\), got \(4, 2\)"):
        data.reverse_posterior(SCHEDULE, torch.zeros(3, 2), 5).log_prob(torch.zeros(4, 2))


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("oracle", ORACLES, ids=["regular", "singular", "data"])
def test_integers_and_arrays_are_refused(oracle: GaussianMixture | DataMixture) -> None:
    x: Any = torch.zeros(3, 2)
    for call in calls_of(oracle).values():
        for wrong in (x.byte(), x.long(), x.numpy()):
            with pytest.raises(ValueError, match=r"^x(_t)? must be (floating point|a torch.Tensor), got"):
                call(oracle, wrong, 5)
        for t in (5.0, math.nan, True, x[:, 0]):
            with pytest.raises(ValueError, match=r"^t must"):
                call(oracle, x, t)
    for n in (2.0, math.nan, True):
        with pytest.raises(ValueError, match="n must be a whole number"):
            oracle.sample(n)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"model must be made for the schedule's T = \d+, got one for T = 7"):
        simple_loss(SCHEDULE, oracle.eps(NoiseSchedule.constant(7, 0.1)), x, 5, x)


@pytest.mark.usefixtures("no_shape_checks")
def test_integers_have_no_density() -> None:
    data = DataMixture(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"x must be floating point, got torch\.int64"):
        data.reverse_posterior(SCHEDULE, torch.zeros(3, 2), 5).log_prob(torch.zeros(3, 2, dtype=torch.long))


@pytest.mark.usefixtures("no_shape_checks")
def test_parameters_that_are_not_floating_are_refused() -> None:
    for i, name in enumerate(("weights", "means", "covariances")):
        for convert in (torch.Tensor.long, torch.Tensor.numpy):
            parts: list[Any] = [torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None]]
            parts[i] = convert(parts[i])
            with pytest.raises(ValueError, match=f"{name} must be"):
                GaussianMixture(*parts)
    with pytest.raises(ValueError, match=r"x0 must be a torch.Tensor, got ndarray"):
        DataMixture(np.zeros((3, 2)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="t must be a whole number"):  # not a t for each component
        ORACLES[0].diffuse(SCHEDULE, torch.tensor([1, 2, 3]))  # type: ignore[arg-type]


@pytest.mark.parametrize("oracle", ORACLES, ids=["regular", "singular", "data"])
def test_no_points_have_no_answers(oracle: GaussianMixture | DataMixture) -> None:
    for name, call in calls_of(oracle).items():
        for t in (5, torch.zeros(0, dtype=torch.int64)):
            out = call(oracle, torch.zeros(0, 2, dtype=f64), t)
            assert len(out if isinstance(out, Tensor) else out.mean) == 0, name
