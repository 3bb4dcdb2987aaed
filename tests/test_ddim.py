"""ddim.py: every jump keeps the marginals, eta = 1 is DDPM, every S ends at x_0, orders of convergence, every error."""

import itertools
import math
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from devices import Ops
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from diffnotes.ddim import (
    DDIMStep,
    _shares,
    ddim_encode,
    ddim_sample,
    ddim_sigma,
    ddim_step,
    dpmpp_2m_sample,
    ode_jump,
    ode_rhs,
    sigma_bars,
    slerp,
)
from diffnotes.mixture import GaussianMixture
from diffnotes.reverse import ddpm_sample, p_mean
from diffnotes.schedule import NoiseSchedule, timesteps
from diffnotes.training.networks import MLP

SPACINGS = ("trailing", "leading", "linspace", "quadratic")
EPS = 2.0**-53
LINEAR = NoiseSchedule.linear(1000)
betas = st.lists(st.floats(1e-6, 0.999), min_size=1, max_size=25).map(lambda b: torch.tensor(b, dtype=torch.float64))
etas = st.floats(0, 1)


def mixture() -> GaussianMixture:
    """Three Gaussians in the plane, of different weights, widths and axes."""
    covariances = [[[0.05, 0.02], [0.02, 0.08]], [[0.03, 0.0], [0.0, 0.03]], [[0.1, -0.05], [-0.05, 0.06]]]
    means = [[-1.5, 0.0], [1.0, 1.0], [0.5, -1.5]]
    return GaussianMixture(*(torch.tensor(v, dtype=torch.float64) for v in ([0.3, 0.5, 0.2], means, covariances)))


def normal(mean: float, std: float) -> GaussianMixture:
    return GaussianMixture(*(torch.tensor(v, dtype=torch.float64) for v in ([1.0], [[mean]], [[[std**2]]])))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def all_pairs(T: int) -> tuple[Tensor, Tensor]:
    """Every t > s >= 0, as two tensors."""
    t, s = zip(*((t, s) for t in range(1, T + 1) for s in range(t)), strict=True)
    return torch.tensor(t), torch.tensor(s)


def slope(x: list[int], y: list[float]) -> float:
    """The least-squares slope of log y against log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


# ---- the marginals ----------------------------------------------------------------------------------------------


def moments(s: NoiseSchedule, t: Tensor, to: Tensor, eta: Any) -> tuple[Tensor, Tensor]:
    """Factor of x_0 and variance of x_s where x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps and the model
    says that very eps: read off the linear map that ddim_step is, one unit vector of (x_0, eps, noise) at a time."""
    signal, noise = s.sqrt_alpha_bars[t][:, None], s.sqrt_one_minus_alpha_bars[t][:, None]
    zero, one = torch.zeros_like(signal), torch.ones_like(signal)
    of_x0 = ddim_step(s, signal, zero, t, to, eta, zero).x_s
    of_eps = ddim_step(s, noise, one, t, to, eta, zero).x_s
    of_noise = ddim_step(s, zero, zero, t, to, eta, one).x_s
    return of_x0.flatten(), (of_eps**2 + of_noise**2).flatten()


@given(betas, etas)
@settings(deadline=None)
def test_every_jump_keeps_the_marginals(b: Tensor, eta: float) -> None:
    s = NoiseSchedule(b)
    t, to = all_pairs(s.T)
    mean, variance = moments(s, t, to, eta)
    torch.testing.assert_close(mean, s.alpha_bars[to].sqrt(), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(variance, 1 - s.alpha_bars[to], rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.2, 0.5, 1.0])
def test_every_jump_of_the_linear_schedule_keeps_the_marginals(eta: float) -> None:
    t, to = all_pairs(1000)  # all 500,500 of them
    mean, variance = moments(LINEAR, t, to, eta)
    torch.testing.assert_close(mean, LINEAR.alpha_bars[to].sqrt(), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(variance, 1 - LINEAR.alpha_bars[to], rtol=0.0, atol=1e-12)


@given(betas, etas, st.data())
def test_a_whole_walk_keeps_the_marginals(b: Tensor, eta: float, data: st.DataObject) -> None:
    """The induction: variance in, variance out, along any sub-sequence, from the shares that the sampler takes."""
    s = NoiseSchedule(b)
    ts = sorted(data.draw(st.sets(st.integers(1, s.T), min_size=1)))
    log = s.log_alpha_bars.tolist()
    for t, to in s.pairs(ts):
        sigma, turn = _shares(log[t], log[to], eta)
        assert turn**2 + sigma**2 == pytest.approx(1 - float(s.alpha_bars[to]), abs=1e-12)
        assert sigma == float(ddim_sigma(s, t, to, eta)) or sigma == pytest.approx(float(ddim_sigma(s, t, to, eta)))
    assert to == 0
    assert (sigma, turn) == (0.0, 0.0)


@given(betas, etas)
def test_sigma_against_exact_fractions(b: Tensor, eta: float) -> None:
    s = NoiseSchedule(b)
    bars = [Fraction(1)]
    for beta in s.betas[1:].tolist():
        bars.append(bars[-1] * (1 - Fraction(beta)))
    for t, to in {(s.T, 0), (s.T, s.T - 1), (s.T, s.T // 2), (1, 0)}:
        beta = 1 - bars[t] / bars[to]
        beta_tilde = (1 - bars[to]) / (1 - bars[t]) * beta
        # T log1p summed, each off by a rounding of a sum of up to |log alpha_bar|: see test_schedule
        tol = 40 * s.T * EPS * max(1.0, float(-s.log_alpha_bars[t])) / min(1.0, float(beta))
        assert float(ddim_sigma(s, t, to, eta)) == pytest.approx(eta * math.sqrt(beta_tilde), rel=tol, abs=1e-300)
        assert float(ddim_sigma(s, t, to, "sigma_hat")) == pytest.approx(math.sqrt(beta), rel=tol, abs=0.0)


def test_sigma_of_neighbours_is_the_posterior_deviation() -> None:
    t = torch.arange(1, 1001)
    for eta in (0.0, 0.2, 0.5, 1.0):
        sigma = ddim_sigma(LINEAR, t, t - 1, eta)
        # both come from log alpha_bar and from beta, where neighbours differ by 1e-4: 1e4 roundings
        torch.testing.assert_close(sigma**2, eta**2 * LINEAR.posterior_variances[1:], rtol=1e-11, atol=0.0)
    torch.testing.assert_close(ddim_sigma(LINEAR, t, t - 1, "sigma_hat") ** 2, LINEAR.betas[1:], rtol=1e-11, atol=0.0)


def test_sigma_near_the_data_has_all_its_digits() -> None:
    """Five steps of 1e-12: 1 - alpha_bar from a stored alpha_bar would have four digits, and so would sigma."""
    s = NoiseSchedule.constant(T=5, beta=1e-12)
    beta = Fraction(float(s.betas[1]))
    for t, to in itertools.combinations(range(5, 0, -1), 2):
        noise_t, noise_s, jump = (1 - (1 - beta) ** i for i in (t, to, t - to))
        want = math.sqrt(noise_s / noise_t * jump)
        # a dozen roundings
        assert float(ddim_sigma(s, t, to, 1.0)) == pytest.approx(want, rel=50 * EPS, abs=0.0)


def test_turn_is_accurate_where_the_difference_is_not() -> None:
    """1 - alpha_bar_s - sigma^2 leaves 1e-26 of 1e-10 here: in float64 the difference would be noise, or negative."""
    s = NoiseSchedule(torch.tensor([1e-10, 1 - 1e-6], dtype=torch.float64))
    signal, noise = Fraction(1) - Fraction(s.betas[1].item()), Fraction(s.betas[1].item())
    keep = Fraction(1) - Fraction(s.betas[2].item())
    exact = math.sqrt(keep) * float(noise) / math.sqrt(1 - signal * keep)
    turn = _shares(*s.log_alpha_bars[[2, 1]].tolist(), 1.0)[1]
    # beta_2 is stored with a rounding of 1e-16, of the 1e-6 that it leaves
    assert turn == pytest.approx(exact, rel=1e-9, abs=0.0)


@given(betas)
def test_sigma_hat_has_more_noise_by_its_own_excess(b: Tensor) -> None:
    """The paper's direction keeps its factor from eta = 1, so the marginal variance is too large, and by how much."""
    s = NoiseSchedule(b)
    t, to = all_pairs(s.T)
    mean, variance = moments(s, t, to, "sigma_hat")
    excess = ddim_sigma(s, t, to, "sigma_hat") ** 2 - ddim_sigma(s, t, to, 1.0) ** 2
    assert bool((excess >= -1e-15).all())
    torch.testing.assert_close(mean, s.alpha_bars[to].sqrt(), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(variance, 1 - s.alpha_bars[to] + excess, rtol=0.0, atol=1e-12)


def test_the_slip_eta_for_eta_squared_is_seen_at_one_half_only() -> None:
    """sigma^2 = eta beta-tilde with eta 's direction: right at eta = 0 and 1, too much noise between, measured."""
    t, to, n = 500, 250, 200_000
    x0, eps, z = torch.full((n, 1), 0.7, dtype=torch.float64), draw(n, 1), draw(n, 1, seed=1)
    x_t = LINEAR.sqrt_alpha_bars[t] * x0 + LINEAR.sqrt_one_minus_alpha_bars[t] * eps
    want, se = float(1 - LINEAR.alpha_bars[to]), math.sqrt(2 / n)  # relative standard error of a variance
    for eta in (0.0, 0.5, 1.0):
        right = ddim_step(LINEAR, x_t, eps, t, to, eta, z)
        beta_tilde = ddim_sigma(LINEAR, t, to, 1.0) ** 2
        slip = right.x0_part + right.direction_part + (eta * beta_tilde).sqrt() * z
        assert float(right.x_s.var()) == pytest.approx(want, rel=4 * se)
        excess = (eta - eta**2) * float(beta_tilde)
        assert float(slip.var()) == pytest.approx(want + excess, rel=4 * se)
        assert (excess > 20 * se * want) == (eta == 0.5)


# ---- one step -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, "sigma_hat"])
def test_the_parts_are_the_papers_and_add_up(eta: Any) -> None:
    x_t, eps, noise = draw(3, 4, 2, 5)
    a_t, a_s = 0.3, 0.8
    s = NoiseSchedule.from_alpha_bars(torch.tensor([a_s, a_t], dtype=torch.float64))
    step = ddim_step(s, x_t, eps, 2, 1, eta, noise)
    sigma_1 = math.sqrt((1 - a_s) / (1 - a_t)) * math.sqrt(1 - a_t / a_s)
    sigma = math.sqrt(1 - a_t / a_s) if eta == "sigma_hat" else eta * sigma_1
    turn = math.sqrt(1 - a_s - (sigma_1 if eta == "sigma_hat" else sigma) ** 2)
    want = DDIMStep(
        x_s=step.x0_part + step.direction_part + step.noise_part,
        x0_part=math.sqrt(a_s) * (x_t - math.sqrt(1 - a_t) * eps) / math.sqrt(a_t),
        direction_part=turn * eps,
        noise_part=sigma * noise,
    )
    for name, part in step._asdict().items():
        # float64, a dozen roundings
        torch.testing.assert_close(part, getattr(want, name), rtol=1e-12, atol=1e-12)


def test_without_noise_where_eta_is_zero() -> None:
    x_t, eps = draw(2, 4, 3)
    step = ddim_step(LINEAR, x_t, eps, 700, 300)
    assert torch.equal(step.noise_part, torch.zeros_like(x_t))
    assert torch.equal(step.x_s, ddim_step(LINEAR, x_t, eps, 700, 300, 0.0, draw(4, 3, seed=1)).x_s)


def test_a_tensor_of_times_equals_one_call_each() -> None:
    x_t, eps, noise = draw(3, 4, 2, 3)
    t, s = torch.tensor([1, 1000, 7, 500]), torch.tensor([0, 999, 0, 20])
    for eta in (0.0, 0.4, 1.0, "sigma_hat"):
        together = ddim_step(LINEAR, x_t, eps, t, s, eta, noise)
        for i in range(4):
            row = slice(i, i + 1)
            one = ddim_step(LINEAR, x_t[row], eps[row], int(t[i]), int(s[i]), eta, noise[row])
            for a, b in zip(together, one, strict=True):
                torch.testing.assert_close(a[row], b, rtol=4 * EPS, atol=0.0)
        assert ddim_sigma(LINEAR, t, s, eta).shape == (4,)
        assert ddim_sigma(LINEAR, 7, 3, eta).shape == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_in_is_dtype_out(dtype: torch.dtype) -> None:
    x = draw(2, 3).to(dtype)
    t, s = torch.tensor([1, 1000]), torch.tensor([0, 1])
    assert all(part.dtype == dtype for part in ddim_step(LINEAR, x, x, t, s, 0.5, x))
    assert all(part.dtype == dtype for part in ddim_step(LINEAR, x, x, 9, 3, 0.5, x))
    model = LINEAR_MODEL
    for run in (ddim_sample, ddim_encode, dpmpp_2m_sample):
        out = run(LINEAR, model, x, 7)
        assert out.dtype == dtype
        assert bool(out.isfinite().all())
        assert run(LINEAR, lambda x_t, t: x_t.double(), x, 7).dtype == dtype
        assert run(LINEAR, model, x[:0], 7).shape == (0, 3)
    for sample in (ddim_sample, dpmpp_2m_sample):
        assert sample(LINEAR, lambda x_t, t: x_t.double(), x, 7, clip=1.0).dtype == dtype


def LINEAR_MODEL(x_t: Tensor, t: Tensor) -> Tensor:
    """The exact noise predictor of N(0, I) under LINEAR."""
    return LINEAR.at(LINEAR.sqrt_one_minus_alpha_bars, t, x_t) * x_t


# ---- the sampler ----------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(1, 1000), min_size=1, max_size=12), st.integers(0, 10))
@settings(deadline=None)
def test_eta_1_is_ddpm_sample_for_sample(times: set[int], seed: int) -> None:
    ts, x_T, model = [*sorted(times - {1000}), 1000], draw(5, 2, seed=seed), mixture().eps(LINEAR)
    for eta, variance in ((1.0, "posterior"), ("sigma_hat", "beta")):
        runs = [
            sample(LINEAR, model, x_T, steps=ts, generator=torch.Generator().manual_seed(seed), return_path=True, **how)
            for sample, how in ((ddim_sample, {"eta": eta}), (ddpm_sample, {"variance": variance}))
        ]
        # two loops, each with the numbers of its own chapter: 1/sqrt(alpha_bar_T) = 157 in front of what is rounded,
        # and the mixture's eps, of humps 0.17 wide, may turn that into a few times more
        torch.testing.assert_close(*runs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("schedule", [LINEAR, NoiseSchedule.cosine(1000)], ids=["linear", "cosine"])
def test_eta_1_over_all_1000_steps_is_ddpm(schedule: NoiseSchedule) -> None:
    x_T, model = draw(5, 2), mixture().eps(schedule)
    runs = [
        sample(schedule, model, x_T, steps=None, generator=torch.Generator().manual_seed(1), **how)
        for sample, how in ((ddim_sample, {"eta": 1.0}), (ddpm_sample, {"variance": "posterior"}))
    ]
    torch.testing.assert_close(*runs, rtol=1e-12, atol=1e-12)


def test_eta_1_is_ddpms_own_step_with_shared_noise() -> None:
    """Against chapter 2's mu_theta and beta-tilde, which are written in beta and alpha, not in sigma(eta)."""
    x, eps, noise = draw(3, 1000, 2)
    t = torch.arange(1, 1001)
    tilde = LINEAR.posterior_variances[1:, None]
    want = p_mean(LINEAR, x, t, eps) + tilde.sqrt() * noise
    torch.testing.assert_close(ddim_step(LINEAR, x, eps, t, t - 1, 1.0, noise).x_s, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, "sigma_hat"])
def test_the_sampler_is_the_step_repeated(eta: Any) -> None:
    """ddim_sample, two operations a jump, equals ddim_step in a loop with the noise that the generator gives."""
    ts, x_T, model = timesteps(1000, 9), draw(16, 2), mixture().eps(LINEAR)
    path = ddim_sample(LINEAR, model, x_T, ts, eta, generator=torch.Generator().manual_seed(3), return_path=True)
    x, generator = x_T, torch.Generator().manual_seed(3)
    for i, (t, s) in enumerate(LINEAR.pairs(ts)):
        drawn = eta != 0 and s > 0
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype) if drawn else torch.zeros_like(x)
        x = ddim_step(LINEAR, x, model(x, torch.full((16,), t)), t, s, eta, noise).x_s
        # 1/sqrt(alpha_bar_T) = 157 in front
        torch.testing.assert_close(path[i + 1], x, rtol=1e-11, atol=1e-11)
    assert torch.equal(path[0], x_T)


def levels(schedule: NoiseSchedule) -> list[tuple[float, float]]:
    """The factors of x_0 and eps in x_t, for t = 0..T."""
    return list(zip(schedule.sqrt_alpha_bars.tolist(), schedule.sqrt_one_minus_alpha_bars.tolist(), strict=True))


class Counted:
    """A model that knows x_0 and so always says the eps that leads there; it keeps the times it was asked for."""

    def __init__(self, schedule: NoiseSchedule, x0: Tensor) -> None:
        self.level, self.x0, self.asked = levels(schedule), x0, list[int]()

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.asked.append(int(t[0]))
        signal, noise = self.level[self.asked[-1]]
        return torch.sub(x_t, self.x0, alpha=signal).div_(noise)


@pytest.mark.usefixtures("no_shape_checks")
def test_the_plan_of_every_number_of_steps() -> None:
    """S jumps, each from where the last one stopped, ending at x_0 with factor 1 and no noise at all."""
    for spacing in SPACINGS:
        for S in range(1, 1001):
            pairs = LINEAR.pairs(S, spacing)
            ts = [t for t, _ in pairs]
            assert len(ts) == len(set(ts)) == S
            assert [s for _, s in pairs] == [*ts[1:], 0]
            if S % 25 in (0, 1):
                log = LINEAR.log_alpha_bars.tolist()
                for eta in (0.0, 0.5, 1.0, "sigma_hat"):
                    shares = [_shares(log[t], log[s], eta) for t, s in pairs]
                    assert shares[-1][1] == 0.0
                    assert all(map(math.isfinite, itertools.chain(*shares)))


@pytest.mark.usefixtures("no_shape_checks")  # a million jumps: the run-time checks would be most of the time
@pytest.mark.filterwarnings("ignore:sampling starts at")  # "leading" stops short of T
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_number_of_steps_ends_at_x0(dtype: torch.dtype) -> None:
    """Every S from 1 to 1000 (in float64 one in seven): S calls at the right times, x_0 at the end, no NaN.

    The spacing and eta take turns.
    """
    x0, x_T = torch.tensor([0.7, -1.3], dtype=dtype), torch.tensor([1.9, 0.4], dtype=dtype)
    for S in range(1, 1001) if dtype == torch.float32 else range(1, 1001, 7):
        spacing, eta = SPACINGS[S % 4], (0.0, 0.0, 0.5, 1.0, "sigma_hat")[S % 5]
        model = Counted(LINEAR, x0)
        generator = torch.Generator().manual_seed(S)
        out = ddim_sample(LINEAR, model, x_T, S, eta, spacing=spacing, generator=generator)
        assert model.asked == timesteps(1000, S, spacing)[::-1]
        # the last jump divides by sqrt(alpha_bar) of the first time, and rounds x_t and eps before
        tol = 8 * torch.finfo(dtype).eps / model.level[model.asked[-1]][0]
        torch.testing.assert_close(out, x0, rtol=0.0, atol=3 * tol)


def test_t_is_one_int64_an_example() -> None:
    seen = []

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append((t.dtype, t.tolist()))
        return torch.zeros_like(x_t)

    ddim_sample(LINEAR, model, draw(3, 2, 2), 2)
    ddim_encode(LINEAR, model, draw(3, 2, 2), 2)
    dpmpp_2m_sample(LINEAR, model, draw(3, 2, 2), 2)
    assert seen == [(torch.int64, [t] * 3) for t in (1000, 500, 1, 500, 1000, 500)]


def test_same_x_T_same_x_0_at_any_number_of_steps() -> None:
    """eta = 0: x_0 converges as the steps grow. eta = 1: it does not even stay near, for the noise decides."""
    x_T, model = draw(50, 2), mixture().eps(LINEAR)
    best = ddim_sample(LINEAR, model, x_T, 1000)
    apart = [float((ddim_sample(LINEAR, model, x_T, S) - best).norm(dim=1).mean()) for S in (10, 20, 50, 100)]
    assert all(near < 0.65 * far for far, near in itertools.pairwise(apart))  # 1/S would give at most 0.5
    assert torch.equal(best, ddim_sample(LINEAR, model, x_T, 1000))
    generator = torch.Generator().manual_seed(0)
    ddpm = [ddim_sample(LINEAR, model, x_T, S, 1.0, generator=generator) for S in (100, 1000)]
    assert float((ddpm[0] - ddpm[1]).norm(dim=1).mean()) > 10 * apart[-1]


def test_no_noise_is_drawn_at_eta_0() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    ddim_sample(LINEAR, LINEAR_MODEL, draw(4, 2), 10, generator=generator)
    assert torch.equal(before, generator.get_state())
    ddim_sample(LINEAR, LINEAR_MODEL, draw(4, 2), 10, 0.1, generator=generator)
    assert not torch.equal(before, generator.get_state())


def test_the_input_is_left_alone() -> None:
    x = draw(4, 3)
    kept = x.clone()
    for run in (ddim_sample, ddim_encode, dpmpp_2m_sample):
        for path in (False, True):
            run(LINEAR, LINEAR_MODEL, x, 5, return_path=path)
            run(LINEAR, lambda x_t, t: x_t, x, 5, return_path=path)  # a model that hands its input back
            assert torch.equal(x, kept)


def test_a_model_that_hands_its_input_back_is_read_and_not_written() -> None:
    """eps = x_t itself, the same tensor: were x_t overwritten before eps is used, the numbers would change."""
    x_T = draw(4, 3)
    for run in (ddim_sample, ddim_encode, dpmpp_2m_sample):
        assert torch.equal(run(LINEAR, lambda x, t: x, x_T, 5), run(LINEAR, lambda x, t: x.clone(), x_T, 5))


def test_what_is_left_out_is_the_default() -> None:
    """50 jumps without noise for DDIM, as many up, 20 for the second-order sampler; the ODE down to the data."""
    x, model = draw(4, 2), mixture().eps(LINEAR)
    assert torch.equal(ddim_sample(LINEAR, model, x), ddim_sample(LINEAR, model, x, 50, 0.0))
    assert torch.equal(ddim_encode(LINEAR, model, x), ddim_encode(LINEAR, model, x, 50))
    assert torch.equal(dpmpp_2m_sample(LINEAR, model, x), dpmpp_2m_sample(LINEAR, model, x, 20))
    assert torch.equal(ode_jump(LINEAR, mixture().eps, x, 9), ode_jump(LINEAR, mixture().eps, x, 9, 0, 1e-10))


@pytest.mark.parametrize("run", [ddim_sample, dpmpp_2m_sample, ddim_encode])
def test_progress_is_shown_only_where_it_is_asked_for(
    run: Callable[..., Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    run(LINEAR, LINEAR_MODEL, draw(4, 2), 5)
    assert capsys.readouterr() == ("", "")
    run(LINEAR, LINEAR_MODEL, draw(4, 2), 5, progress=True)
    shown = capsys.readouterr().err
    assert "5/5" in shown
    assert shown.strip("\r\n").startswith("encoding:" if run is ddim_encode else "sampling:")


@pytest.mark.parametrize("run", [ddim_sample, dpmpp_2m_sample, ddim_encode])
def test_no_gradient_is_kept(run: Callable[..., Tensor]) -> None:
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    assert not run(LINEAR, lambda x_t, t: weight * x_t, draw(4, 2), 5).requires_grad


@pytest.mark.parametrize("run", [ddim_sample, dpmpp_2m_sample, ddim_encode])
def test_a_model_for_another_schedule_is_refused(run: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match="for the schedule's T = 1000, got one for T = 10"):
        run(LINEAR, MLP(dim=2, T=10), draw(4, 2).float(), 5)


@pytest.mark.parametrize("run", [ddim_sample, dpmpp_2m_sample, ddim_encode])
@pytest.mark.filterwarnings("ignore:sampling starts at")
def test_the_spacing_is_handed_on(run: Callable[..., Tensor]) -> None:
    asked: list[int] = []

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        asked.append(int(t[0]))
        return torch.zeros_like(x_t)

    for spacing in SPACINGS:
        asked.clear()
        run(LINEAR, model, draw(1, 1), 5, spacing=spacing)
        up = timesteps(1000, 5, spacing)  # type: ignore[arg-type]
        assert asked == ([1, *up[:-1]] if run is ddim_encode else up[::-1])


@pytest.mark.parametrize("run", [ddim_sample, dpmpp_2m_sample, ddim_encode])
def test_the_path_begins_at_the_start_and_ends_at_the_answer(run: Callable[..., Tensor]) -> None:
    x, model = draw(4, 2), mixture().eps(LINEAR)
    path = run(LINEAR, model, x, 6, return_path=True)
    assert path.shape == (7, 4, 2)
    assert torch.equal(path[0], x)
    assert torch.equal(path[-1], run(LINEAR, model, x, 6))


@pytest.mark.parametrize("sample", [ddim_sample, dpmpp_2m_sample])
def test_clipping_derives_eps_again(sample: Callable[..., Tensor]) -> None:
    """x_0 is clamped and eps follows it, so that x_s stays on q(x_s | clamped x_0): by hand, two jumps."""
    x_T = torch.tensor([[3.0, -0.1]], dtype=torch.float64)
    path = sample(LINEAR, lambda x, t: -x, x_T, steps=[500, 1000], clip=1.0, return_path=True)
    level, x = levels(LINEAR), x_T
    for t, s in ((1000, 500), (500, 0)):
        signal, noise = level[t]
        x0 = ((1 + noise) * x / signal).clamp(-1, 1)
        x = level[s][0] * x0 + level[s][1] * (x - signal * x0) / noise
    torch.testing.assert_close(path[-1], x, rtol=1e-13, atol=1e-13)
    assert path[-1].tolist() == [[1.0, -1.0]]  # the clamped x_0, exactly


@pytest.mark.filterwarnings("ignore:sampling starts at")
def test_what_lies_within_the_clip_is_left_alone() -> None:
    """By hand, with an x_0 of which some coordinates are cut and some are not, at every jump but the first."""
    x = draw(20, 2)
    path = ddim_sample(LINEAR, lambda x, t: 0.2 * x + 0.3, x, [3, 200, 500], clip=1.0, return_path=True)
    level = levels(LINEAR)
    for (t, s), after in zip(((500, 200), (200, 3), (3, 0)), path[1:], strict=True):
        signal, noise = level[t]
        guess = (x - noise * (0.2 * x + 0.3)) / signal
        assert 0 < (guess.abs() > 1).sum() < 40
        x0 = guess.clamp(-1, 1)
        x = level[s][0] * x0 + level[s][1] * (x - signal * x0) / noise
        torch.testing.assert_close(after, x, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:sampling starts at")
def test_the_second_order_steps_are_those_of_the_paper() -> None:
    """Lu et al. 2022b, algorithm 2, in its own symbols, with a middle that is far from both ends; s = 1 is no end."""
    times = [800, 300, 40, 1]
    path = dpmpp_2m_sample(LINEAR, mixture().eps(LINEAR), x := draw(6, 2), times[::-1], return_path=True)
    level, model = levels(LINEAR), mixture().eps(LINEAR)
    lam = {t: math.log(level[t][0] / level[t][1]) for t in times}
    before = h_before = None
    for i, (t, s) in enumerate(itertools.pairwise(times), 1):
        signal, noise = level[t]
        x0 = (x - noise * model(x, torch.full((6,), t))) / signal
        h = lam[s] - lam[t]
        D = x0
        if before is not None:
            r = h_before / h
            D = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before
        x = level[s][1] / noise * x - level[s][0] * math.expm1(-h) * D
        torch.testing.assert_close(path[i], x, rtol=1e-10, atol=1e-10)
        before, h_before = x0, h


def test_warns_where_the_prior_is_not_reached() -> None:
    short = NoiseSchedule.linear(1000).alpha_bars[1:501]
    schedule = NoiseSchedule.from_alpha_bars(short)
    for sample in (ddim_sample, dpmpp_2m_sample):
        with pytest.warns(UserWarning, match=r"t = 500, where .* N\(0, I\) is not reached"):
            sample(schedule, lambda x, t: x, draw(2, 1), 5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sample(LINEAR, lambda x, t: x, draw(2, 1), 5)


# ---- there and back ---------------------------------------------------------------------------------------------


def test_encoding_is_eulers_method_upwards() -> None:
    """Against the ODE's own variables, x / sqrt(alpha_bar) and sigma_bar, in which the step is one line."""
    x0, model, bars = draw(5, 2), mixture().eps(LINEAR), sigma_bars(LINEAR)
    ts = [1, 30, 400, 1000]
    path = ddim_encode(LINEAR, model, x0, ts, return_path=True)
    x_bar, signal = x0, LINEAR.sqrt_alpha_bars
    for i, (s, t) in enumerate(itertools.pairwise([0, *ts])):
        x_bar = x_bar + (bars[t] - bars[s]) * model(x_bar * signal[s], torch.full((5,), max(s, 1)))
        torch.testing.assert_close(path[i + 1], x_bar * signal[t], rtol=1e-12, atol=1e-12)


def test_sampling_is_eulers_method_downwards() -> None:
    x_T, model, bars = draw(5, 2), mixture().eps(LINEAR), sigma_bars(LINEAR)
    ts = [1, 30, 400, 1000]
    path = ddim_sample(LINEAR, model, x_T, ts, return_path=True)
    signal = LINEAR.sqrt_alpha_bars
    x_bar = x_T / signal[1000]
    for i, (t, s) in enumerate(itertools.pairwise([*ts[::-1], 0])):
        x_bar = x_bar + (bars[s] - bars[t]) * model(x_bar * signal[t], torch.full((5,), t))
        # x_bar is 157 times x
        torch.testing.assert_close(path[i + 1], x_bar * signal[s], rtol=1e-10, atol=1e-12)


def test_round_trip_error_falls_as_one_over_steps() -> None:
    data = normal(0.7, 0.25)
    x0, model, S = (data.sample(500, torch.Generator().manual_seed(0)), data.eps(LINEAR), [50, 100, 200, 500, 1000])
    errors = []
    for steps in S:
        back = ddim_sample(LINEAR, model, ddim_encode(LINEAR, model, x0, steps), steps)
        errors.append(float((back - x0).abs().mean()))
    assert abs(slope(S, errors) + 1) < 0.1
    assert errors[-1] < 0.003  # a hundredth of the data's deviation


# ---- the ODE and the orders -----------------------------------------------------------------------------------------


def test_the_ode_against_its_closed_form() -> None:
    """For N(m, v) data the flow keeps (x_bar - m) / sqrt(v + sigma_bar^2): both ways, from any t to any s."""
    data, x = normal(0.7, 0.25), draw(20, 1)
    bars, signal = sigma_bars(LINEAR), LINEAR.sqrt_alpha_bars
    for t, s in ((1000, 0), (0, 1000), (3, 900)):
        x_bar = 0.7 + (x / signal[t] - 0.7) * ((0.25**2 + bars[s] ** 2) / (0.25**2 + bars[t] ** 2)).sqrt()
        got = ode_jump(LINEAR, data.eps, x, t, s)
        # rtol = 1e-10 bounds the error of one step; there are less than 100 of them
        torch.testing.assert_close(got, x_bar * signal[s], rtol=0.0, atol=1e-8)


def test_the_ode_of_a_model_with_weights_keeps_no_gradient() -> None:
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    x = ode_jump(LINEAR, lambda s: lambda x, t: weight * x, draw(3, 2), 100, 50)
    assert not x.requires_grad


def test_a_tolerance_at_its_limit_is_taken() -> None:
    x, data = draw(2, 2), mixture()
    fine, usual = (ode_jump(LINEAR, data.eps, x, 2, 1, rtol=rtol) for rtol in (1e-13, 1e-10))
    torch.testing.assert_close(fine, usual, rtol=0.0, atol=1e-8)  # as in the closed form above


def test_an_ode_that_cannot_be_solved_is_told() -> None:
    """Halfway down the model knows no answer any more, and no step is short enough for the solver."""

    def model_at(s: NoiseSchedule) -> Callable[[Tensor, Any], Tensor]:
        return lambda x, t: x * (math.nan if s.alpha_bars[1] > 0.5 else 1.0)

    with pytest.raises(RuntimeError, match="the ODE was not solved from t=1000 to s=0"):
        ode_jump(LINEAR, model_at, draw(2, 2), 1000)


def test_the_odes_schedule_lives_where_x_does() -> None:
    def model_at(s: NoiseSchedule) -> Callable[[Tensor, Any], Tensor]:
        return lambda x, t: s.at(s.sqrt_one_minus_alpha_bars, t, x) * x  # which refuses to mix devices

    assert ode_rhs(model_at, torch.zeros(3, 2, device="meta"), 0.5).device.type == "meta"


def test_the_ode_passes_through_the_schedules_own_levels() -> None:
    data, x = mixture(), draw(6, 2)
    for t in (1, 500, 1000):
        x_bar, sigma_bar = x / LINEAR.sqrt_alpha_bars[t], float(sigma_bars(LINEAR)[t])
        got, want = ode_rhs(data.eps, x_bar, sigma_bar), data.eps(LINEAR)(x, torch.full((6,), t))
        # eps = (x - signal x_0) / noise, noise >= 0.01
        torch.testing.assert_close(got, want, rtol=0.0, atol=1e-11)
    assert torch.equal(ode_rhs(data.eps, x, 0.0), torch.zeros_like(x))
    # continuous there: to first order eps is -sigma_bar times the data's score; what is left out is of order
    # sigma_bar^2 / (the least variance, 0.03), and the rounding of (x - x_0) / sigma_bar is 1e-16 / 1e-5
    near = ode_rhs(data.eps, x, 1e-5)
    torch.testing.assert_close(near, -1e-5 * data.score(x), rtol=1e-6, atol=1e-10)


def converge(sample: Callable[..., Tensor], sizes: list[int]) -> list[float]:
    """Mean distance of the sampler from the ODE at the lowest level above x_0, S levels evenly spaced in log-SNR."""
    data, x_T = mixture(), draw(40, 2)
    errors = []
    for S in sizes:
        log_snr = torch.linspace(float(LINEAR.log_snr[1]), float(LINEAR.log_snr[1000]), S, dtype=torch.float64)
        schedule = NoiseSchedule.from_alpha_bars(log_snr.sigmoid())
        if not errors:  # the ends are the same for every S
            truth = ode_jump(schedule, data.eps, x_T, S, 1, rtol=1e-9)  # the least error below is 2e-5
        path = sample(schedule, data.eps(schedule), x_T, S, return_path=True)
        errors.append(float((path[-2] - truth).norm(dim=1).mean()))
    return errors


def test_ddim_is_first_order_and_dpmpp_2m_second() -> None:
    """Asymptotically the slopes are -1 and -2; at these sizes what comes next in h still adds some hundredths."""
    sizes = [80, 160, 320, 640]
    ddim, multistep = converge(ddim_sample, sizes), converge(dpmpp_2m_sample, sizes)
    assert slope(sizes, ddim) == pytest.approx(-1, abs=0.05)
    assert slope(sizes, multistep) == pytest.approx(-2, abs=0.05)
    assert multistep[0] < ddim[0] / 10


def test_dpmpp_2m_is_the_papers_algorithm() -> None:
    """Lu et al.'s own variables: alpha, sigma, lambda, h, r and D, for 1, 2, 3 and many steps."""
    x_T, model = draw(7, 2), mixture().eps(LINEAR)
    for S in (1, 2, 3, 17):
        ts = timesteps(1000, S)[::-1]
        alpha, sigma = LINEAR.sqrt_alpha_bars, LINEAR.sqrt_one_minus_alpha_bars
        lam = alpha.log() - sigma.log()
        x, before = x_T, None
        for i, (t, s) in enumerate(itertools.pairwise([*ts, 0])):
            D = x0 = (x - sigma[t] * model(x, torch.full((7,), t))) / alpha[t]
            h = lam[s] - lam[t]
            if before is not None and s > 0:
                r = (lam[t] - lam[ts[i - 1]]) / h
                D = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before
            x, before = sigma[s] / sigma[t] * x - alpha[s] * torch.expm1(-h) * D, x0
        got = dpmpp_2m_sample(LINEAR, model, x_T, S)
        # x / sqrt(alpha_bar_T), 157 times x, in between
        torch.testing.assert_close(got, x, rtol=1e-11, atol=1e-11)


# ---- slerp ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.floats(0, 1), st.integers(0, 1000))
def test_slerp_stays_on_the_sphere(dim: int, w: float, seed: int) -> None:
    a, b = draw(2, 3, dim + 1, 2, seed=seed)
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1))[:, None, None]  # equally long
    out = slerp(a, b, w)
    torch.testing.assert_close(out.flatten(1).norm(dim=1), a.flatten(1).norm(dim=1), rtol=1e-12, atol=0.0)

    def angle(x: Tensor, y: Tensor) -> Tensor:
        x, y = (v.flatten(1) / v.flatten(1).norm(dim=1, keepdim=True) for v in (x, y))
        return 2 * torch.atan2((x - y).norm(dim=1), (x + y).norm(dim=1))

    torch.testing.assert_close(angle(a, out), w * angle(a, b), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(angle(out, b), (1 - w) * angle(a, b), rtol=1e-10, atol=1e-12)


def test_slerp_against_the_papers_formula_and_its_ends() -> None:
    a, b = draw(2, 4, 3, 2)
    u, v = a.flatten(1), b.flatten(1)  # of different lengths, and left so
    theta = torch.arccos((u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1)))[:, None, None]
    for w in (0.0, 0.3, 1.0):
        want = (torch.sin((1 - w) * theta) * a + torch.sin(w * theta) * b) / torch.sin(theta)
        torch.testing.assert_close(slerp(a, b, w), want, rtol=1e-12, atol=1e-12)
    assert torch.equal(slerp(a, b, 0.0), a)
    assert torch.equal(slerp(a, b, 1.0), b)
    each = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    one_by_one = torch.cat([slerp(a[i : i + 1], b[i : i + 1], float(each[i])) for i in range(4)])
    torch.testing.assert_close(slerp(a, b, each), one_by_one, rtol=4 * EPS, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slerp_of_parallel_vectors_is_the_straight_line(dtype: torch.dtype) -> None:
    a = draw(3, 5).to(dtype)
    nearly = a + 1e-7 * draw(3, 5, seed=1).to(dtype)
    for b in (a, 2 * a, nearly, torch.zeros_like(a)):
        torch.testing.assert_close(slerp(a, b, 0.25), 0.75 * a + 0.25 * b, rtol=4 * torch.finfo(dtype).eps, atol=1e-13)
        assert slerp(a, b, 0.25).dtype == dtype
    with pytest.raises(ValueError, match=r"b must not point against a: examples \[1\] do"):
        slerp(a, torch.stack([a[0], -3 * a[1], a[2]]), 0.5)
    line = torch.tensor([1.0, -2.0], dtype=dtype)  # single numbers: an arc only where the signs agree
    assert slerp(line, 3 * line, 0.5).tolist() == [2.0, -4.0]
    with pytest.raises(ValueError, match=r"examples \[1\] do"):
        slerp(line, torch.tensor([3.0, 2.0], dtype=dtype), 0.5)
    half = draw(2, 3).to(torch.bfloat16)
    assert slerp(half, half.flip(0), 0.5).dtype == torch.bfloat16


def test_slerp_of_bfloat16_has_the_angle_of_float32() -> None:
    """The paper's two factors in float64, rounded once: an angle from 8 bits would move many of them."""
    a, b = draw(2, 50, 64).to(torch.bfloat16)
    u, v = a.double(), b.double()
    theta = torch.arccos((u * v).sum(1, keepdim=True) / (u.norm(dim=1) * v.norm(dim=1))[:, None])
    of_a, of_b = ((torch.sin(w * theta) / torch.sin(theta)).to(torch.bfloat16) for w in (0.7, 0.3))
    assert torch.equal(slerp(a, b, 0.3), of_a * a + of_b * b)


# ---- devices, syncs, memory -----------------------------------------------------------------------------------------


def ops_a_step(run: Callable[..., Tensor], **kwargs: Any) -> list[str]:
    """The operations that one jump adds: those of 12 jumps less those of 11, all jumps being alike in the middle."""
    x = draw(4, 2)
    eps = draw(4, 2, seed=1)
    names = []
    for steps in (11, 12):
        with Ops() as ops:
            run(LINEAR, lambda x_t, t: eps, x, steps, **kwargs)
        names.append(ops.names)
        assert ops.waits == []
    extra = list(names[1])
    for name in names[0]:
        extra.remove(name)
    return sorted(extra)


def test_a_step_is_a_few_operations_and_never_waits() -> None:
    time, line = "full.default", ["mul.Tensor", "add_.Tensor"]
    assert ops_a_step(ddim_sample) == sorted([time, *line])
    assert ops_a_step(ddim_encode) == sorted([time, *line])
    assert ops_a_step(ddim_sample, eta=0.5) == sorted([time, *line, "randn.generator", "add_.Tensor"])


@pytest.mark.parametrize("run", [ddim_sample, ddim_encode, dpmpp_2m_sample])
@pytest.mark.parametrize("given", [lambda x, t: x, lambda x, t: x.view(2, 4).view(4, 2), lambda x, t: x[:]])
def test_a_model_may_return_what_it_was_given(run, given) -> None:
    x_T = draw(4, 2)
    expected = run(LINEAR, lambda x, t: x.clone(), x_T, 7)
    assert torch.equal(run(LINEAR, given, x_T, 7), expected)
    assert torch.equal(x_T, draw(4, 2))


@pytest.mark.parametrize("run", [ddim_sample, ddim_encode, dpmpp_2m_sample])
def test_a_model_may_keep_what_it_was_given_but_not_reach_the_callers(run: Callable[..., Tensor]) -> None:
    x_T, kept = draw(4, 2), list[tuple[Tensor, Tensor]]()

    def model(x: Tensor, t: Tensor) -> Tensor:
        kept.append((x, t))
        return 0.1 * x

    path = run(LINEAR, model, x_T, [5, 30, 1000], return_path=True)
    assert torch.equal(torch.stack([x for x, _ in kept]), path[:-1])
    up = run is ddim_encode
    assert [t.unique().tolist() for _, t in kept] == ([[1], [5], [30]] if up else [[1000], [30], [5]])
    path = run(LINEAR, lambda x, t: x.mul_(0.5), x_T, 3, return_path=True)
    assert torch.equal(path[0], draw(4, 2))
    assert torch.equal(x_T, draw(4, 2))


@pytest.mark.parametrize("eta", [0.5, "sigma_hat"])
def test_the_noise_is_that_of_the_values_whatever_the_strides(eta: Any) -> None:
    """Channels last, or points whose coordinates were read column by column: equal values, so an equal sample."""
    images, points = draw(2, 3, 4, 4), draw(40, 2)
    columns = points.T.contiguous().T
    for x, other in ((images, images.contiguous(memory_format=torch.channels_last)), (points, columns)):
        assert other.stride() != x.stride()
        a, b = (
            ddim_sample(LINEAR, LINEAR_MODEL, x, 5, eta, generator=torch.Generator().manual_seed(1)) for x in (x, other)
        )
        assert torch.equal(a, b)


def test_ddim_step_never_waits() -> None:
    x, t, s = draw(2, 3), torch.tensor([9, 8]), torch.tensor([5, 0])
    with Ops() as ops:
        ddim_step(LINEAR, x, x, 9, 5, 0.5, x)
    assert ops.names
    assert ops.waits == []
    with FakeTensorMode(), Ops() as ops:  # with t in tensors the range is looked at on the CPU, and only there
        schedule = NoiseSchedule(torch.full((10,), 0.1, device="cuda", dtype=torch.float64))
        x, t, s = (torch.empty(v.shape, dtype=v.dtype, device="cuda") for v in (x, t, s))
        assert ddim_step(schedule, x, x, t, s, 0.5, x).x_s.device.type == "cuda"
    assert ops.waits == []


def test_times_without_values_are_not_looked_at() -> None:
    """As while a compiler traces: a fake tensor on the CPU has a shape and no numbers."""
    with FakeTensorMode():
        s = NoiseSchedule(torch.full((10,), 0.1, dtype=torch.float64))
        x, t, to = torch.zeros(2, 3), torch.tensor([5, 4]), torch.tensor([3, 0])
        assert ddim_step(s, x, x, t, to, 0.5, x).x_s.shape == x.shape


def test_fake_cuda_and_meta() -> None:
    schedule = NoiseSchedule.linear(1000)
    with FakeTensorMode():
        x = torch.zeros(2, 3, 4, device="cuda")
        for run in (ddim_sample, ddim_encode, dpmpp_2m_sample):
            out = run(schedule, lambda x_t, t: x_t * t.reshape(-1, 1, 1), x, 5)
            assert (out.device.type, out.dtype, out.shape) == ("cuda", x.dtype, x.shape)
        assert ddim_sample(schedule, lambda x_t, t: x_t, x, 5, 0.5, clip=1.0).device.type == "cuda"
        assert slerp(x, x, torch.zeros(2, device="cuda")).device.type == "cuda"
        with pytest.raises(ValueError, match="generator must live on the device of x"):
            ddim_sample(schedule, lambda x_t, t: x_t, x, 5, 0.5, generator=torch.Generator())
        on_cuda = NoiseSchedule(torch.full((10,), 0.1, device="cuda", dtype=torch.float64))
        with pytest.raises(ValueError, match="share a device"):
            ddim_sigma(on_cuda, torch.tensor([3]), torch.tensor([2]), 0.5)
        with pytest.raises(ValueError, match="share a device"):
            ddim_step(on_cuda, torch.zeros(2, 3), torch.zeros(2, 3), 3, 2)
        assert ddim_sigma(on_cuda, 3, 2, 0.5).device.type == "cuda"
    x = torch.zeros(2, 3, 4, device="meta")
    for run in (ddim_sample, ddim_encode, dpmpp_2m_sample):
        assert run(schedule, lambda x_t, t: x_t, x, 5).shape == x.shape
        assert run(schedule, lambda x_t, t: x_t, x, 5, return_path=True).shape == (6, *x.shape)
    on_meta = NoiseSchedule(torch.full((10,), 0.1, device="meta", dtype=torch.float64))
    t = torch.ones(2, dtype=torch.int64, device="meta")
    assert ddim_step(on_meta, x, x, t, t, 0.5, x).x_s.shape == x.shape
    assert slerp(x, x, 0.5).shape == x.shape


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    x, model = draw(4, 2), mixture().eps(LINEAR)
    on_gpu = ddim_sample(LINEAR.to("cuda"), mixture().to("cuda").eps(LINEAR.to("cuda")), x.to("cuda"), 20)
    torch.testing.assert_close(on_gpu.cpu(), ddim_sample(LINEAR, model, x, 20), rtol=1e-10, atol=1e-10)
    exact = ode_jump(LINEAR.to("cuda"), mixture().to("cuda").eps, x.to("cuda"), 1000)
    torch.testing.assert_close(exact.cpu(), ode_jump(LINEAR, mixture().eps, x, 1000), rtol=1e-8, atol=1e-8)


# ---- every error ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_shape_checks")
def test_bad_eta() -> None:
    x = draw(2, 1)
    for eta in (-0.1, 1.1, math.nan, math.inf, "sigma-hat"):
        for call in (
            lambda eta=eta: ddim_sigma(LINEAR, 5, 3, eta),
            lambda eta=eta: ddim_step(LINEAR, x, x, 5, 3, eta, x),
            lambda eta=eta: ddim_sample(LINEAR, LINEAR_MODEL, x, 5, eta),
        ):
            with pytest.raises(ValueError, match=rf'eta must lie in \[0, 1\] or be "sigma_hat", got {eta!r}'):
                call()


@pytest.mark.usefixtures("no_shape_checks")
def test_bad_times() -> None:
    x = draw(2, 1)
    for t, s in ((3, 3), (3, 5), (0, 0), (1001, 3), (5, -1)):
        for wrong in ((t, s), (torch.tensor([t, 9]), torch.tensor([s, 8]))):
            with pytest.raises(ValueError, match="t and s must satisfy T = 1000 >= t > s >= 0, got t="):
                ddim_sigma(LINEAR, *wrong, 0.5)
            with pytest.raises(ValueError, match="t and s must satisfy T = 1000 >= t > s >= 0, got t="):
                ddim_step(LINEAR, x, x, *wrong)
    for wrong in ((5, torch.tensor([3, 3])), (torch.tensor([5, 5]), 3), (torch.tensor([5, 5]), torch.tensor([3]))):
        with pytest.raises(ValueError, match="t and s must be two ints, or two tensors of one shape"):
            ddim_step(LINEAR, x, x, *wrong)
    with pytest.raises(ValueError, match=r"t must have shape \(2,\)"):
        ddim_step(LINEAR, x, x, torch.tensor([5, 6, 7]), torch.tensor([1, 1, 1]))
    with pytest.raises(ValueError, match=r"s must hold whole numbers, got torch\.float64"):
        ddim_sigma(LINEAR, torch.tensor([5, 6]), torch.tensor([1.0, 1.0], dtype=torch.float64), 0.5)
    for steps in (0, 1001):
        for run in (ddim_sample, ddim_encode, dpmpp_2m_sample):
            with pytest.raises(ValueError, match=rf"steps must lie in 1\.\.T = 1\.\.1000, got {steps}"):
                run(LINEAR, LINEAR_MODEL, x, steps)
    for steps in ([], [5, 5], [7, 3], [0, 5], [1001]):
        for run in (ddim_sample, ddim_encode, dpmpp_2m_sample):
            with pytest.raises(ValueError, match="steps must be a number, or times that rise"):
                run(LINEAR, LINEAR_MODEL, x, steps)
    for run in (ddim_sample, ddim_encode, dpmpp_2m_sample):
        with pytest.raises(ValueError, match="spacing must be one of"):
            run(LINEAR, LINEAR_MODEL, x, 5, spacing="karras")
    for t, s, name in ((1001, 0, "t"), (-1, 0, "t"), (5, -1, "s"), (5, 1001, "s")):
        with pytest.raises(ValueError, match=rf"{name} must lie in 0\.\.1000"):
            ode_jump(LINEAR, mixture().eps, draw(2, 2), t, s)
    for rtol in (0.0, 1.0):
        with pytest.raises(ValueError, match="rtol must lie in"):
            ode_jump(LINEAR, mixture().eps, draw(2, 2), 5, 0, rtol=rtol)
    for sigma_bar in (-1.0, math.nan):
        with pytest.raises(ValueError, match=r"sigma_bar must lie in \[0, inf\), got"):
            ode_rhs(mixture().eps, draw(2, 2), sigma_bar)


@pytest.mark.usefixtures("no_shape_checks")
def test_bad_tensors() -> None:
    x, wide = draw(2, 3), draw(2, 4)
    with pytest.raises(ValueError, match=r"eps must be shaped like x_t, \(2, 3\), got \(2, 4\)"):
        ddim_step(LINEAR, x, wide, 5, 3)
    with pytest.raises(ValueError, match=r"noise must be shaped like x_t, \(2, 3\), got \(2, 4\)"):
        ddim_step(LINEAR, x, x, 5, 3, 0.5, wide)
    with pytest.raises(ValueError, match=r"noise must be given where eta is not 0, got noise=None with eta=0\.5"):
        ddim_step(LINEAR, x, x, 5, 3, 0.5)
    for run in (ddim_sample, ddim_encode, dpmpp_2m_sample):
        with pytest.raises(ValueError, match=r"eps must be shaped like x, \(2, 3\), got \(2, 4\)"):
            run(LINEAR, lambda x_t, t: wide, x, 5)
        with pytest.raises(ValueError, match="x must be floating point"):
            run(LINEAR, lambda x_t, t: x_t, torch.zeros(2, 3, dtype=torch.int64), 5)
    for sample in (ddim_sample, dpmpp_2m_sample):
        for clip in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match=f"clip must be > 0 and finite, got {clip}"):
                sample(LINEAR, LINEAR_MODEL, x, 5, clip=clip)
    with pytest.raises(ValueError, match=r"b must be shaped like a, \(2, 3\), got \(2, 4\)"):
        slerp(x, wide, 0.5)
    with pytest.raises(ValueError, match=r"w must be a number or floating of shape \(2,\), got torch.float32 \(3,\)"):
        slerp(x, x, torch.zeros(3))


@pytest.mark.usefixtures("no_shape_checks")
def test_wrong_kinds_are_refused_by_name() -> None:
    x: Any = draw(2, 2)
    sigma: Any = ddim_sigma
    field = mixture().eps
    for call, message in (
        *((lambda eta=eta: sigma(LINEAR, 5, 3, eta), "eta must lie in") for eta in (None, np.ones(2), 1j)),
        (lambda: sigma(LINEAR, 5.0, 3, 0.5), "t must be a whole number"),
        (lambda: sigma(LINEAR, 5, True, 0.5), "s must be a whole number"),
        (lambda: sigma(LINEAR, x[:, 0], x[:, 0], 0.5), "t must hold whole numbers, got torch.float64"),
        (lambda: slerp(x.byte(), x, 0.5), "a must be floating point, got torch.uint8"),
        (lambda: slerp(x, x.long(), 0.5), "b must be floating point"),
        (lambda: slerp(x, x, math.nan), r"w must lie in \(-inf, inf\), got nan"),
        (lambda: slerp(x, x, math.inf), "w must lie in"),
        (lambda: slerp(x, x, x[:, 0].numpy()), "w must be a number"),
        (lambda: slerp(x, x, torch.tensor([0, 1])), "w must be a number or floating"),
        (lambda: slerp(x, x, torch.tensor([math.nan, 0.5])), r"w must be finite, got \[nan, 0\.5\]"),
        (lambda: slerp(x, x, torch.tensor([0.5, math.inf])), "w must be finite"),
        (lambda: ddim_step(LINEAR, x.numpy(), x, 5, 3), "x_t must be a torch.Tensor, got ndarray"),
        (lambda: ddim_sample(LINEAR, field, x, 5, generator=x), "generator must be a torch.Generator, got tensor"),
        (lambda: ddim_sample(LINEAR, field, x, 5, 0.5, generator=0), "generator must be a torch.Generator, got 0"),
        (lambda: ode_rhs(field, x, math.inf), "sigma_bar must lie in"),
        (lambda: ode_rhs(field, x.byte(), 0.5), "x_bar must be floating point"),
        (lambda: ode_jump(LINEAR, field, x.byte(), 5), "x_t must be floating point"),
        (lambda: ode_jump(LINEAR, field, x, 5.0), "t must be a whole number"),
        (lambda: ode_jump(LINEAR, field, x, 5, rtol=math.nan), "rtol must lie in"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.usefixtures("no_shape_checks")
def test_numbers_of_numpy_do() -> None:
    sigma: Any = ddim_sigma
    expected = ddim_sigma(LINEAR, 200, 100, 0.5)
    assert torch.equal(sigma(LINEAR, np.int64(200), np.int32(100), np.float64(0.5)), expected)
    for dtype in (torch.int32, torch.uint8):
        t, s = torch.tensor([200, 200], dtype=dtype), torch.tensor([100, 0], dtype=dtype)
        assert torch.equal(sigma(LINEAR, t, s, 0.5), ddim_sigma(LINEAR, t.long(), s.long(), 0.5))


def test_the_ode_solver_may_try_a_step_beyond_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """As SciPy before 1.14 does to guess its first step; what it finds there is the field at the data."""
    from scipy import integrate

    solve, tried = integrate.solve_ivp, []

    def solve_ivp(rhs: Any, span: Any, y: Any, *args: Any, **options: Any) -> Any:
        tried.append(rhs(-0.01, y))
        return solve(rhs, span, y, *args, **options)

    monkeypatch.setattr(integrate, "solve_ivp", solve_ivp)
    ode_jump(LINEAR, mixture().eps, draw(2, 2), 2, 0)
    assert tried[0].tolist() == [0.0] * 4


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("sampler", [ddim_sample, ddim_encode, dpmpp_2m_sample])
@pytest.mark.parametrize("x", [torch.tensor(0.5), torch.zeros(2, 2, dtype=torch.int64)])
def test_what_is_no_batch_is_refused_before_the_model_is_asked(sampler: Any, x: Tensor) -> None:
    with pytest.raises(ValueError, match="x must"):
        sampler(LINEAR, lambda x, t: pytest.fail("asked"), x, 5)
