"""objective.py: the bound's terms against integrals by brute force, the weights, a decoder that sums to one."""

import math
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quadrature import forward_moments, log_normal, moments, posterior_on_a_grid
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from diffnotes.guidance import guided
from diffnotes.mixture import GaussianMixture
from diffnotes.objective import VLBTerms, bits_per_dim, discrete_log_prob, loss_weights, simple_loss, vlb_terms
from diffnotes.schedule import NoisePredictor, NoiseSchedule
from diffnotes.training.networks import MLP

F64 = torch.float64
steady = settings(deadline=None)  # a busy machine must not fail a test
EPS = 2.0**-53
LINEAR = NoiseSchedule.linear(1000)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_humps() -> GaussianMixture:
    weights, means = torch.tensor([0.7, 0.3], dtype=F64), torch.tensor([[-0.6], [1.4]], dtype=F64)
    return GaussianMixture(weights, means, torch.tensor([0.09, 0.04], dtype=F64).reshape(2, 1, 1))


class Recorder:
    """A model that remembers what it was asked and what it said, so that a test can work it out again."""

    def __init__(self, model: NoisePredictor) -> None:
        self.model, self.asked = model, dict[int, tuple[Tensor, Tensor]]()

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        eps = self.model(x_t, t)
        for one in t.unique().tolist():
            self.asked[one] = x_t[t == one].clone(), eps[t == one].clone()
        return eps


# ---- the terms, against integrals -----------------------------------------------------------------------


def sigma_squared(b: list[float], t: int, variance: str) -> float:
    """beta_t, or the posterior's variance by quadrature (it is the same for every x_0 and x_t)."""
    if variance == "beta" or len(b) == 1:
        return b[t - 1]
    return moments(*posterior_on_a_grid(b, 0.0, 0.0, max(t, 2)))[1] ** 2


def kl_by_quadrature(x: Any, p: Any, mean: float, variance: float) -> float:
    """KL of the grid's probabilities p to N(mean, variance), turned into a density by the spacing."""
    kept = p > 0
    return float((p * (np.log(np.where(kept, p, 1) / (x[1] - x[0])) - log_normal(x, mean, variance)))[kept].sum())


@steady
@given(st.lists(st.floats(1e-3, 0.9), min_size=1, max_size=6), st.floats(-2, 2), st.sampled_from(["posterior", "beta"]))
def test_terms_are_the_integrals_that_they_name(b: list[float], x0: float, variance: Any) -> None:
    schedule = NoiseSchedule(torch.tensor(b, dtype=F64))
    model = Recorder(lambda x, t: 0.3 * x + 0.1)
    x = torch.full((1, 1), x0, dtype=F64)
    terms = vlb_terms(schedule, model, x, variance=variance, generator=seeded())
    assert terms.ts == list(range(2, schedule.T + 1))
    for i, t in enumerate(terms.ts):
        x_t, eps = (float(a) for a in model.asked[t])
        signal, noise_variance = forward_moments(b, t)
        x0_said = (x_t - math.sqrt(noise_variance) * eps) / signal
        grid, p = posterior_on_a_grid(b, x0, x_t, t)
        mu, _ = moments(*posterior_on_a_grid(b, x0_said, x_t, t))
        kl = kl_by_quadrature(grid, p, mu, sigma_squared(b, t, variance))
        # both sides are sums of numbers up to the KL and to 1, exact to rounding; a far-off mean makes the KL large
        assert float(terms.L_t[0, i]) == pytest.approx(kl, rel=1e-10, abs=1e-10)

    signal, noise_variance = forward_moments(b, schedule.T)
    grid = signal * x0 + math.sqrt(noise_variance) * np.arange(-17, 17, 0.25)
    p = np.exp(log_normal(grid, signal * x0, noise_variance))
    assert float(terms.L_T) == pytest.approx(kl_by_quadrature(grid, p / p.sum(), 0.0, 1.0), rel=1e-10, abs=1e-10)

    x_1, eps = (float(a) for a in model.asked[1])
    x0_said = (x_1 - math.sqrt(b[0]) * eps) / math.sqrt(1 - b[0])
    nats = -float(log_normal(x0, x0_said, sigma_squared(b, 1, variance)))
    assert float(terms.L_0) == pytest.approx(nats, rel=1e-10, abs=1e-10)
    total = float(terms.L_T) + float(terms.L_t.sum()) + float(terms.L_0)
    assert float(terms.bound) == pytest.approx(total, rel=1e-12)


def test_the_bound_is_the_integral_over_all_paths() -> None:
    """T = 2, one dimension: E_q[log q(x_1, x_2 | x_0) - log p(x_0, x_1, x_2)] on a grid over both latents.

    It is also at least -log p(x_0), the gap being KL(q(x_1, x_2 | x_0) || p(x_1, x_2 | x_0)), both on the same grid.
    """
    b, x0, n = [0.3, 0.6], 0.8, 80_000
    schedule, data = NoiseSchedule(torch.tensor(b, dtype=F64)), two_humps()
    model = data.eps(schedule)
    x = np.linspace(-9, 9, 1201)
    cell = (x[1] - x[0]) ** 2

    def mean_back(t: int) -> Any:  # mu_theta(x_t, t) on the grid, from E[x_0 | x_t] and the two one-step densities
        points = torch.from_numpy(x)[:, None]
        x0_said = data.denoise(schedule, points, t)[:, 0].numpy()
        if t == 1:
            return x0_said
        precision = 1 / b[0] + (1 - b[1]) / b[1]  # of x_1, from x_0 and from x_2
        return (math.sqrt(1 - b[0]) * x0_said / b[0] + math.sqrt(1 - b[1]) * x / b[1]) / precision

    x1, x2 = x[:, None], x[None, :]
    log_q = log_normal(x1, math.sqrt(1 - b[0]) * x0, b[0]) + log_normal(x2, math.sqrt(1 - b[1]) * x1, b[1])
    log_p = log_normal(x2, 0.0, 1.0) + log_normal(x1, mean_back(2)[None, :], b[1])
    log_p = log_p + log_normal(x0, mean_back(1)[:, None], b[0])
    q = np.exp(log_q)
    assert cell * q.sum() == pytest.approx(1, rel=1e-10)
    bound = cell * float((q * (log_q - log_p)).sum())
    nll = -math.log(cell * np.exp(log_p).sum())
    gap = cell * float((q * (log_q - log_p - nll)).sum())  # log p(x_1, x_2 | x_0) = log p + nll
    assert bound == pytest.approx(nll + gap, rel=1e-10)
    assert gap > 0

    x_0 = torch.full((n, 1), x0, dtype=F64)
    draws = vlb_terms(schedule, model, x_0, variance="beta", generator=seeded()).bound
    assert abs(float(draws.mean()) - bound) < 4 * float(draws.std()) / math.sqrt(n)
    assert 4 * float(draws.std()) / math.sqrt(n) < gap / 5  # fine enough to tell the bound from the likelihood


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_exact_nll_is_below_the_bound(variance: Any) -> None:
    """With the exact model, on the average over the data; and more steps bring the bound down to it."""
    data, n = two_humps(), 20_000
    x0 = data.sample(n, seeded())
    nll = -data.log_prob(x0)
    gaps = []
    for T in (30, 100):
        schedule = NoiseSchedule.linear(T)
        gap = vlb_terms(schedule, data.eps(schedule), x0, variance=variance, generator=seeded(1)).bound - nll
        gaps.append((float(gap.mean()), float(gap.std()) / math.sqrt(n)))
    assert all(mean > 3 * stderr for mean, stderr in gaps)
    (coarse, e1), (fine, e2) = gaps
    assert fine < coarse - 4 * math.hypot(e1, e2)


def test_weights_are_what_stands_before_the_squared_error() -> None:
    """The KL of two models that differ in eps alone: its difference is w_t times that of the squared errors."""
    b = [0.02, 0.1, 0.3, 0.5]
    schedule, x0 = NoiseSchedule(torch.tensor(b, dtype=F64)), torch.tensor([[0.4], [-1.1]], dtype=F64)
    for variance in ("posterior", "beta"):
        weights = loss_weights(schedule, variance)  # type: ignore[arg-type]
        assert weights.shape == (5,)
        assert float(weights[0]) == 0
        terms, errors = [], []
        for model in (Recorder(lambda x, t: 0.2 * x), Recorder(lambda x, t: 0.9 * x)):
            out = vlb_terms(schedule, model, x0, variance=variance, generator=seeded())  # type: ignore[arg-type]
            terms.append(torch.cat([out.L_0[:, None], out.L_t], 1))
            wrong = []
            for t in range(1, 5):
                (x_t, eps), (signal, v) = model.asked[t], forward_moments(b, t)
                wrong.append((eps - (x_t - signal * x0) / math.sqrt(v)) ** 2)
            errors.append(torch.cat(wrong, 1))
        torch.testing.assert_close(terms[0] - terms[1], weights[1:] * (errors[0] - errors[1]), rtol=1e-10, atol=1e-10)


@steady
@given(st.lists(st.floats(1e-5, 0.99), min_size=2, max_size=30))
def test_weights_in_their_signal_to_noise_form(b: list[float]) -> None:
    schedule = NoiseSchedule(torch.tensor(b, dtype=F64))
    moments_at = [forward_moments(b, t) for t in range(len(b) + 1)]
    snr = [s**2 / v if v else math.inf for s, v in moments_at]
    w, wide = loss_weights(schedule, "posterior"), loss_weights(schedule, "beta")
    for t in range(2, len(b) + 1):
        # SNR_{t-1} / SNR_t - 1 can be as small as beta: the test's own side loses 2**-53 / 1e-5 = 1e-11 of its digits
        assert float(w[t]) == pytest.approx((snr[t - 1] / snr[t] - 1) / 2, rel=1e-9)
        assert float(wide[t] / w[t]) == pytest.approx(moments_at[t - 1][1] / moments_at[t][1], rel=1e-10)
    assert float(wide[1]) == pytest.approx(1 / (2 * (1 - b[0])), rel=1e-12)


def test_one_step_schedule_has_a_bound() -> None:
    schedule, x0 = NoiseSchedule.constant(1, 0.999), torch.randn(7, 3, dtype=F64, generator=seeded())
    for variance in ("posterior", "beta"):
        terms = vlb_terms(schedule, lambda x, t: x, x0, variance=variance, generator=seeded())  # type: ignore[arg-type]
        assert terms.L_t.shape == (7, 0)
        assert bool(terms.bound.isfinite().all())
        assert bool(loss_weights(schedule, variance).isfinite().all())  # type: ignore[arg-type]


# ---- how the terms are drawn ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [2, 5, 100])
def test_chunks_change_nothing_but_memory(chunk: int) -> None:
    schedule, x0 = NoiseSchedule.cosine(12), two_humps().sample(33, seeded())
    sizes: list[int] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        sizes.append(len(x))
        return x * t[:, None] / 20

    one = vlb_terms(schedule, model, x0, generator=seeded(1))
    assert sizes == [33] * 12
    sizes.clear()
    many = vlb_terms(schedule, model, x0, generator=seeded(1), chunk=chunk)
    assert max(sizes) == 33 * min(chunk, 11)
    for a, b in ((one.L_0, many.L_0), (one.L_T, many.L_T), (one.L_t, many.L_t)):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0.0)


def test_a_part_of_the_times() -> None:
    schedule, x0 = NoiseSchedule.cosine(12), two_humps().sample(5, seeded())
    terms = vlb_terms(schedule, lambda x, t: 0.5 * x, x0, ts=[9, 3, 12], generator=seeded(1))
    assert terms.ts == [9, 3, 12]
    assert terms.L_t.shape == (5, 3)
    torch.testing.assert_close(terms.bound, terms.L_T + 11 * terms.L_t.mean(1) + terms.L_0)
    ones = torch.ones(2)
    assert torch.equal(VLBTerms(ones, torch.full((2, 3), 2.0), ones, [2, 3, 4], T=11).bound, torch.full((2,), 22.0))
    # the columns are in the order asked for: each alone, with the same draw, is the same number
    alone = vlb_terms(schedule, lambda x, t: 0.5 * x, x0, ts=[9], generator=seeded(1))
    torch.testing.assert_close(alone.L_t[:, 0], terms.L_t[:, 0])


def test_terms_add_up_over_coordinates_and_float32_data_keep_float64_terms() -> None:
    schedule, x0 = NoiseSchedule.cosine(6), torch.randn(4, 2, 3, generator=seeded())
    model = Recorder(lambda x, t: 0.5 * x)
    terms = vlb_terms(schedule, model, x0, generator=seeded(1))
    assert terms.L_T.dtype == terms.L_t.dtype == terms.L_0.dtype == F64
    for i, t in enumerate(terms.ts):
        (x_t, eps_said), (signal, v) = model.asked[t], forward_moments(schedule.betas.tolist()[1:], t)
        assert x_t.dtype == torch.float32
        eps = (x_t.double() - signal * x0.double()) / math.sqrt(v)  # of the x_t that the model saw, rounded as it is
        want = loss_weights(schedule, "posterior")[t] * (eps - eps_said.double()).square().sum((1, 2))
        torch.testing.assert_close(terms.L_t[:, i], want, rtol=1e-10, atol=0.0)


# ---- the simple loss ------------------------------------------------------------------------------------


def test_simple_loss_is_a_mean_over_coordinates_with_a_gradient() -> None:
    schedule, g = NoiseSchedule.cosine(10), seeded()
    x0, noise = torch.randn(2, 4, 2, 3, generator=g, dtype=F64)
    t = torch.tensor([1, 10, 3, 3])
    weight = torch.tensor(0.3, dtype=F64, requires_grad=True)
    loss = simple_loss(schedule, lambda x, t: weight * x, x0, t, noise)
    assert loss.shape == (4,)
    (slope,) = torch.autograd.grad(loss.mean(), weight)
    want, d_want = [], []
    for i in range(4):
        signal, v = forward_moments(schedule.betas[1:].tolist(), int(t[i]))
        x_t = signal * x0[i] + math.sqrt(v) * noise[i]
        want.append(((noise[i] - 0.3 * x_t) ** 2).sum() / 6)
        d_want.append((-2 * x_t * (noise[i] - 0.3 * x_t)).sum() / 6)
    torch.testing.assert_close(loss.detach(), torch.stack(want), rtol=1e-10, atol=0.0)
    torch.testing.assert_close(slope, torch.stack(d_want).mean(), rtol=1e-10, atol=0.0)
    same = simple_loss(schedule, lambda x, t: weight * x * t[:, None, None], x0, 3, noise)
    also = simple_loss(schedule, lambda x, t: weight * x * 3, x0, torch.full((4,), 3), noise)
    assert torch.equal(same, also)
    assert simple_loss(schedule, lambda x, t: 0 * x, x0[:, 0, 0], t, noise[:, 0, 0]).shape == (4,)


@pytest.mark.parametrize("t", [1, 8, 20])
def test_the_exact_model_is_at_the_floor_and_others_are_above(t: int) -> None:
    """The floor E|eps - E[eps | x_t]|^2 is SNR_t times the mean of Var(x_0 | x_t), which the mixture knows."""
    data, n, schedule = two_humps(), 20_000, NoiseSchedule.cosine(20)
    x0, noise = data.sample(n, seeded()), torch.randn(n, 1, dtype=F64, generator=seeded(t))
    exact = simple_loss(schedule, data.eps(schedule), x0, t, noise)
    signal, v = forward_moments(schedule.betas.tolist()[1:], t)
    x_t = signal * x0 + math.sqrt(v) * noise
    excess = exact - signal**2 / v * data.denoise_variance(schedule, x_t, t)
    assert abs(float(excess.mean())) < 4 * float(excess.std()) / math.sqrt(n)
    worse = simple_loss(schedule, lambda x, t: data.eps(schedule)(x, t) + 0.1, x0, t, noise) - exact
    # on average 0.01 more: E[eps - E[eps | x_t]] = 0, so the cross term is gone
    assert float(worse.mean()) == pytest.approx(0.01, abs=4 * float(worse.std()) / math.sqrt(n))


# ---- the discrete decoder and bits per dimension --------------------------------------------------------


@steady
@given(st.sampled_from([2, 3, 17, 256]), st.floats(-3, 3), st.floats(-5, 2))
def test_the_levels_probabilities_sum_to_one(levels: int, mean: float, log10_std: float) -> None:
    x0 = torch.linspace(-1, 1, levels, dtype=F64)[:, None]
    log_p = discrete_log_prob(x0, torch.full_like(x0, mean), torch.tensor(10**log10_std, dtype=F64), levels)
    # each is rounded to a few 2**-53 of 1 or of (x0 - mean) / std in the exponent where it is not negligible
    assert float(log_p.exp().sum()) == pytest.approx(1, rel=0, abs=1e-12 * max(1, 10**-log10_std))


def test_the_decoder_against_many_digits() -> None:
    """The plain difference of two normal integrals, with so many digits that the cancellation does no harm.

    The farthest bin lies 38 deviations out, where the mass is e^-730, the 317th digit: 400 digits leave 80 of it.
    """
    cases = [(0, 0.0, 0.1), (0, -0.999, 0.3), (128, 0.003, 1e-4), (255, -1.0, 0.1), (10, 1.0, 0.05), (200, -1.0, 0.05),
             (255, 1.3, 0.01), (0, -1.3, 0.01), (127, 0.0, 10.0)]  # fmt: skip
    for level, mean, std in cases:
        x0 = torch.tensor([[level / 255 * 2 - 1]], dtype=F64)
        got = float(discrete_log_prob(x0, torch.full_like(x0, mean), torch.tensor(std, dtype=F64)))
        with mpmath.workdps(400):
            x, half = mpmath.mpf(float(x0)), mpmath.mpf(1) / 255
            below = 0 if level == 0 else mpmath.ncdf(x - half, mean, std)
            want = float(mpmath.log((1 if level == 255 else mpmath.ncdf(x + half, mean, std)) - below))
        # an edge is known to 2**-53 / std deviations, and the log of the mass has slope |x - mean| / std there
        slope = max(1.0, abs(float(x0) - mean) / std) / std
        assert got == pytest.approx(want, rel=1e-12, abs=16 * EPS * slope)


def test_the_decoder_is_as_good_above_the_mean_as_below() -> None:
    """Mirror the data and the mean and nothing changes, a thousand deviations out too."""
    x0, std = torch.linspace(-1, 1, 256, dtype=F64)[:, None], torch.tensor(2e-3, dtype=F64)
    log_p = discrete_log_prob(x0, torch.full_like(x0, -0.99), std)
    assert bool(log_p.isfinite().all())
    assert float(log_p.min()) < -400_000  # (1.99 / 0.002)^2 / 2 = 495,000
    torch.testing.assert_close(log_p, discrete_log_prob(-x0, torch.full_like(x0, 0.99), std), rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("levels", [256, 4, 2])
def test_the_discrete_decoder_in_the_bound(levels: int) -> None:
    """L_0 is the decoder at x_1, with mean mu_theta and the deviation of the variance that was asked for."""
    schedule = NoiseSchedule.linear(1000)
    x0 = (torch.randint(0, levels, (6, 2), generator=seeded()).double() / (levels - 1)) * 2 - 1
    model = Recorder(lambda x, t: 0.5 * x)
    for variance, sigma2 in (("posterior", 5.453187661e-5), ("beta", 1e-4)):
        terms = vlb_terms(
            schedule, model, x0, variance=variance, decoder="discrete", levels=levels, ts=[], generator=seeded()
        )  # type: ignore[arg-type]
        x_1, eps = model.asked[1]
        mean = (x_1 - math.sqrt(1e-4) * eps) / math.sqrt(1 - 1e-4)
        log_p = discrete_log_prob(x0, mean, torch.tensor(math.sqrt(sigma2), dtype=F64), levels)
        torch.testing.assert_close(terms.L_0, -log_p.sum(1), rtol=1e-8, atol=0.0)  # sigma2 is given to ten digits
        assert terms.L_t.shape == (6, 0)
        torch.testing.assert_close(terms.bound, terms.L_T + terms.L_0)


def test_the_default_is_bytes() -> None:
    """256 levels, in the decoder and in the bound that uses it."""
    x0 = torch.tensor([[-1.0, 1 / 255, 1.0]], dtype=F64)
    mean, std = torch.zeros_like(x0), torch.tensor(0.1, dtype=F64)
    assert torch.equal(discrete_log_prob(x0, mean, std), discrete_log_prob(x0, mean, std, 256))
    given, left_out = (
        vlb_terms(LINEAR, lambda x, t: 0.5 * x, x0, decoder="discrete", ts=[], generator=seeded(), **how)
        for how in ({"levels": 256}, {})
    )
    assert torch.equal(given.L_0, left_out.L_0)


def test_terms_are_frozen_equal_themselves_alone_and_keep_no_gradient() -> None:
    weight = torch.tensor(0.5, dtype=F64, requires_grad=True)
    terms = vlb_terms(LINEAR, lambda x, t: weight * x, torch.ones(1, 1, dtype=F64), ts=[2], generator=seeded())
    assert not terms.bound.requires_grad
    assert terms == terms
    assert terms != replace(terms)
    with pytest.raises(AttributeError):
        terms.T = 5  # type: ignore[misc]


def test_bits_per_dim() -> None:
    nats = torch.tensor([784 * math.log(256), 0.0], dtype=F64)
    torch.testing.assert_close(bits_per_dim(nats, 784), torch.tensor([8.0, 0.0], dtype=F64), rtol=1e-14, atol=0.0)
    # uniform density on [-1, 1]^d: log 2 nats a dimension; 255 bins of 2/255 are log2(255) bits
    uniform = torch.tensor([3 * math.log(2)], dtype=F64)
    assert float(bits_per_dim(uniform, 3, bin_width=2 / 255)) == pytest.approx(math.log2(255), rel=1e-14)


def test_known_prior_term_in_bits() -> None:
    terms = vlb_terms(LINEAR, lambda x, t: x, torch.ones(1, 1, dtype=F64), ts=[2], generator=seeded())
    assert float(bits_per_dim(terms.L_T, 1)) == pytest.approx(2.9113e-5, rel=1e-4)


# ---- devices and errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "meta"])
@pytest.mark.parametrize("decoder", ["gaussian", "discrete"])
def test_runs_on_a_device_without_a_stray_cpu_tensor(device: str, decoder: Any) -> None:
    with FakeTensorMode():
        s = NoiseSchedule(torch.full((10,), 0.1, device=device, dtype=F64))
        x0 = torch.zeros(4, 3, device=device)
        t = torch.ones(4, device=device, dtype=torch.int64)
        assert simple_loss(s, lambda x, t: x * t.reshape(-1, 1), x0, t, x0).device == x0.device
        for variance in ("posterior", "beta"):
            terms = vlb_terms(s, lambda x, t: x, x0, variance=variance, decoder=decoder, chunk=4)  # type: ignore[arg-type]
            assert terms.bound.device == x0.device
            assert terms.L_t.shape == (4, 9)
            assert loss_weights(s, variance).device == x0.device  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_shape_checks")
def test_bad_input_is_named() -> None:
    s, x = NoiseSchedule.constant(4, 0.1), torch.zeros(2, 3)
    terms: Any = vlb_terms
    model = lambda x, t: x  # noqa: E731
    for call, message in (
        (lambda: simple_loss(s, model, x, 1, x[:1]), "noise must be shaped like x0"),
        (
            lambda: simple_loss(s, lambda x, t: x[:, :1], x, 1, x),
            r"eps must be shaped like noise, \(2, 3\), got \(2, 1\)",
        ),
        (lambda: simple_loss(s, model, x, 5, x), r"t must lie in 1\.\.4, got 5"),
        (lambda: terms(s, model, x, variance="small"), "variance must be one of .*got 'small'"),
        (lambda: terms(s, model, x, decoder="soft"), "decoder must be one of .*got 'soft'"),
        (lambda: terms(s, model, x, ts=[1, 2]), r"ts must be distinct and lie in 2\.\.4, got \[1, 2\]"),
        (lambda: terms(s, model, x, ts=[5]), "ts must be distinct"),
        (lambda: terms(s, model, x, ts=[2, 2]), "ts must be distinct"),
        (lambda: terms(s, model, x, chunk=0), "chunk must be at least 1, got 0"),
        (lambda: terms(s, model, x.to("meta"), generator=torch.Generator()), "generator must live on the device"),
        (lambda: terms(s, model, x, generator=0), "generator must be a torch.Generator, got 0"),
        (lambda: terms(s, lambda x, t: x[:1], x), "eps must be shaped like x_t"),
        (
            lambda: terms(s, model, x + 0.001, decoder="discrete"),
            "x0 must lie on the 256 levels from -1 to 1, got 0.001",
        ),
        (lambda: discrete_log_prob(x + 1 + 2 / 255, x, torch.ones(())), r"x0 must lie on .* got 1\.0078"),
        (lambda: discrete_log_prob(x - 1 - 2 / 255, x, torch.ones(())), r"x0 must lie on .* got -1\.0078"),
        (lambda: discrete_log_prob(x, x, torch.ones(()), levels=1), "levels must be at least 2, got 1"),
        (lambda: discrete_log_prob(x, x[:1], torch.ones(()), levels=3), "mean must be shaped like x0"),
        (lambda: bits_per_dim(torch.ones(1), 0), "dims must be at least 1, got 0"),
        (lambda: bits_per_dim(torch.ones(1), 1, bin_width=0.0), r"bin_width must lie in \(0, inf\), got 0"),
        (lambda: loss_weights(s, "small"), "variance must be one of"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.usefixtures("no_shape_checks")
def test_wrong_kinds_are_refused_by_name() -> None:
    s, x = NoiseSchedule.constant(4, 0.1), torch.zeros(2, 3)
    terms: Any = vlb_terms
    model: Any = lambda x, t: x  # noqa: E731
    one: Any = torch.ones(1)
    for call, message in (
        (lambda: simple_loss(s, model, x.byte(), 1, x), "x0 must be floating point, got torch.uint8"),
        (lambda: simple_loss(s, lambda x, t: x.long(), x, 1, x), "eps must be floating point"),
        (lambda: simple_loss(s, model, x, 1.0, x), "t must be a whole number"),  # type: ignore[arg-type]
        (lambda: terms(s, model, x.byte()), "x0 must be floating point, got torch.uint8"),
        (lambda: terms(s, model, x.numpy()), "x0 must be a torch.Tensor"),
        (lambda: terms(s, lambda x, t: x.long(), x), "eps must be floating point, got torch.int64"),
        (lambda: terms(s, lambda x, t: x.numpy(), x), "eps must be a torch.Tensor, got ndarray"),
        (lambda: terms(s, model, x, ts=[2.5]), "ts must be a whole number, got 2.5"),
        (lambda: terms(s, model, x, ts=2), "ts must be a sequence of whole numbers, got 2"),
        (lambda: terms(s, model, x, chunk=2.0), "chunk must be a whole number"),
        (lambda: terms(s, model, x, levels=math.nan), "levels must be a whole number"),
        (lambda: terms(s, model, x, levels=1), "levels must be at least 2, got 1"),
        (lambda: discrete_log_prob(x.byte(), x, one), "x0 must be floating point"),
        (lambda: discrete_log_prob(x, x, one.long(), 3), "std must be floating point, got torch.int64"),
        (lambda: discrete_log_prob(x, x, one * math.nan, 3), "std must be > 0, got nan"),
        (lambda: discrete_log_prob(x, x, one * 0, 3), "std must be > 0, got 0"),
        (lambda: bits_per_dim(one, 2.0), "dims must be a whole number"),  # type: ignore[arg-type]
        (lambda: bits_per_dim(one, 2, math.nan), "bin_width must lie in"),
        (lambda: bits_per_dim(one, 2, math.inf), "bin_width must lie in"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_model_for_another_schedule_is_refused() -> None:
    s, x, y = NoiseSchedule.constant(4, 0.1), torch.zeros(2, 3), torch.tensor([0, 1])
    net = MLP(dim=3, T=5, width=4, classes=2)
    for model in (net, guided(net, y), guided(net, y, 1.0)):
        with pytest.raises(ValueError, match="T = 4, got one for T = 5"):
            simple_loss(s, model, x, 1, x)
        with pytest.raises(ValueError, match="T = 4, got one for T = 5"):
            vlb_terms(s, model, x)


def test_the_draws_do_not_depend_on_strides(generator: torch.Generator) -> None:
    s = NoiseSchedule.constant(4, 0.1)
    for x, other in (
        (torch.randn(2, 3, 4, 4), lambda x: x.contiguous(memory_format=torch.channels_last)),
        (torch.randn(20, 2), lambda x: x.T.contiguous().T),
    ):
        a, b = (vlb_terms(s, lambda x, t: x, v, generator=generator.manual_seed(0)) for v in (x, other(x)))
        # sums of at most 48 squares of order 1 / 0.1, in another order
        torch.testing.assert_close(a.L_t, b.L_t, rtol=48 * 2**-22, atol=0.0)
        torch.testing.assert_close(a.bound, b.bound, rtol=48 * 2**-22, atol=0.0)


@pytest.mark.parametrize("chunk", [1, 2])
def test_no_examples_have_no_terms(chunk: int) -> None:
    s, x = NoiseSchedule.constant(4, 0.1), torch.zeros(0, 3)
    terms = vlb_terms(s, lambda x, t: x, x, chunk=chunk)
    assert (terms.L_t.shape, terms.bound.shape) == ((0, 3), (0,))
    assert simple_loss(s, lambda x, t: x, x, 1, x).shape == (0,)


def test_the_noise_of_the_terms_has_the_dtype_of_x0() -> None:
    """And is drawn for t = 1 first: sqrt(1 - alpha_bar_1) of it is what the model sees of x_0 = 0."""
    seen = []

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(x_t)
        return torch.zeros_like(x_t)

    vlb_terms(LINEAR, model, torch.zeros(3, 2, dtype=F64), ts=[2], generator=seeded())
    noise = torch.randn(3, 2, dtype=F64, generator=seeded())
    torch.testing.assert_close(seen[0], LINEAR.sqrt_one_minus_alpha_bars[1] * noise, rtol=4 * EPS, atol=0.0)
