"""reverse.py: one step back against Bayes' rule by brute force, and a sampler that does what its formula says."""

import cmath
import math
import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from devices import Ops
from hypothesis import given, settings
from hypothesis import strategies as st
from quadrature import forward_moments, moments, posterior_on_a_grid
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import Normal

from diffnotes.forward import prior_kl
from diffnotes.metrics import energy_distance, noise_floor
from diffnotes.mixture import DataMixture, GaussianMixture
from diffnotes.reverse import (
    Predicts,
    as_noise_predictor,
    ddpm_sample,
    drift,
    p_mean,
    predict_eps,
    predict_eps_from_v,
    predict_x0,
    predict_x0_from_v,
    q_posterior,
    reverse_variance,
    score,
    v_from,
)
from diffnotes.schedule import NoiseSchedule, timesteps
from diffnotes.training.networks import MLP

F64 = torch.float64
steady = settings(deadline=None)  # a busy machine must not fail a test
EPS = 2.0**-53
LINEAR = NoiseSchedule.linear(1000)
unit = st.floats(-3, 3)
# At least two steps; beta down to 1e-4 and up to 0.95, so that no grid needs more than some 10^4 points.
beta_lists = st.lists(st.floats(1e-4, 0.95), min_size=2, max_size=30)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64).reshape(-1, 1)


def gaussian_model(schedule: NoiseSchedule) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact noise predictor of N(0, I): E[eps | x_t] = sqrt(1 - alpha_bar_t) x_t."""
    return lambda x, t: schedule.at(schedule.sqrt_one_minus_alpha_bars, t, x) * x


def two_humps(d: int = 2) -> GaussianMixture:
    """A lopsided mixture of unit variance in no direction, so that no symmetry hides a slip."""
    means = torch.tensor([[-1.2, 0.4], [0.9, -0.3], [0.2, 1.3]], dtype=F64)[:, :d]
    spread = torch.stack([s * torch.eye(d, dtype=F64) for s in (0.04, 0.09, 0.02)])
    return GaussianMixture(torch.tensor([0.5, 0.3, 0.2], dtype=F64), means, spread)


# ---- one step back, against quadrature ------------------------------------------------------------------


@steady
@given(beta_lists, st.data(), unit, unit)
def test_posterior_is_bayes_rule(b: list[float], data: st.DataObject, x0: float, z: float) -> None:
    t = data.draw(st.integers(2, len(b)))
    signal, variance = forward_moments(b, t)
    x_t = signal * x0 + math.sqrt(variance) * z
    mean, std = moments(*posterior_on_a_grid(b, x0, x_t, t))
    q = q_posterior(NoiseSchedule(torch.tensor(b, dtype=F64)), column(x0), column(x_t), t)
    # The grid is exact to rounding (see quadrature.py); 1e-10 of the largest number that enters, and of the deviation.
    assert abs(float(q.mean) - mean) <= 1e-10 * max(1, abs(x0), abs(x_t))
    assert abs(float(q.stddev) - std) <= 1e-10 * std


@steady
@given(beta_lists, st.data(), unit, unit)
def test_p_mean_is_bayes_rule_at_the_predicted_x0(b: list[float], data: st.DataObject, x0: float, eps: float) -> None:
    """A model that says eps says x_0, if x_t came from both; mu_theta is what Bayes' rule gives for that x_0."""
    t = data.draw(st.integers(2, len(b)))
    signal, variance = forward_moments(b, t)
    x_t = signal * x0 + math.sqrt(variance) * eps
    mean, _ = moments(*posterior_on_a_grid(b, x0, x_t, t))
    schedule = NoiseSchedule(torch.tensor(b, dtype=F64))
    # Dividing by sqrt(alpha) >= 0.22 is the one place where an input's rounding grows, far below 1e-10.
    assert abs(float(p_mean(schedule, column(x_t), t, column(eps))) - mean) <= 1e-10 * max(1, abs(x_t))


@pytest.mark.parametrize("t", [2, 3, 50, 500, 999, 1000])
@pytest.mark.parametrize("schedule", [LINEAR, NoiseSchedule.cosine(1000)], ids=["linear", "cosine"])
def test_posterior_on_the_usual_schedules(schedule: NoiseSchedule, t: int) -> None:
    b = schedule.betas[1:].tolist()
    signal, variance = forward_moments(b, t)
    x_t = signal * 0.7 - math.sqrt(variance) * 1.3
    mean, std = moments(*posterior_on_a_grid(b, 0.7, x_t, t))
    q = q_posterior(schedule, column(0.7), column(x_t), t)
    assert float(q.mean) == pytest.approx(mean, rel=0, abs=1e-10)
    assert float(q.stddev) == pytest.approx(std, rel=1e-10)


def test_the_first_step_back_is_the_data() -> None:
    x0, x_1 = column(0.3, -2.0), column(0.5, 1.0)
    q = q_posterior(LINEAR, x0, x_1, 1)
    torch.testing.assert_close(q.mean, x0, rtol=4 * EPS, atol=0.0)
    assert torch.equal(q.stddev, torch.zeros_like(x0))
    eps = predict_eps(LINEAR, x_1, 1, x0)
    torch.testing.assert_close(p_mean(LINEAR, x_1, 1, eps), x0, rtol=0.0, atol=8 * EPS * 3)


def test_known_posterior_variance() -> None:
    assert float(reverse_variance(LINEAR, "posterior")[2]) == pytest.approx(5.453187661e-5, rel=1e-9)


# ---- the ways to say one thing --------------------------------------------------------------------------


@steady
@given(beta_lists, st.data(), unit, unit)
def test_eps_x0_and_v_are_a_rotation(b: list[float], data: st.DataObject, x0: float, eps: float) -> None:
    """x_t + i v is x_0 + i eps turned by -phi, with cos(phi) = sqrt(alpha_bar_t): complex numbers check them all."""
    t = data.draw(st.integers(1, len(b)))
    signal, variance = forward_moments(b, t)
    turned = complex(x0, eps) * cmath.exp(-1j * math.atan2(math.sqrt(variance), signal))
    x_t, v, x0_, eps_ = column(turned.real), column(turned.imag), column(x0), column(eps)
    s = NoiseSchedule(torch.tensor(b, dtype=F64))
    # Solving for x_0 divides by sqrt(alpha_bar), for eps by sqrt(1 - alpha_bar): rounding of x_t, v grows by that.
    tol = 1e-14 * len(b) * max(1, abs(x0), abs(eps))
    for got, want, growth in (
        (predict_x0(s, x_t, t, eps_), x0, 1 / signal),
        (predict_eps(s, x_t, t, x0_), eps, 1 / math.sqrt(variance)),
        (v_from(s, x0_, eps_, t), turned.imag, 1),
        (predict_x0_from_v(s, x_t, t, v), x0, 1),
        (predict_eps_from_v(s, x_t, t, v), eps, 1),
    ):
        assert abs(float(got) - want) <= tol * growth


def test_score_is_the_gradient_of_the_log_density() -> None:
    """For one data point q(x_t) is a Gaussian made of its definition, and autograd knows its slope."""
    signal, variance = forward_moments(LINEAR.betas[1:].tolist(), 300)
    x_t = column(-1.0, 0.2, 2.0).requires_grad_()
    log_q = Normal(column(signal * 0.7), column(math.sqrt(variance))).log_prob(x_t).sum()
    (slope,) = torch.autograd.grad(log_q, x_t)
    eps = (x_t.detach() - signal * 0.7) / math.sqrt(variance)
    torch.testing.assert_close(score(LINEAR, 300, eps), slope, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("t", [1, 20, 400, 1000])
def test_tweedie_on_the_exact_mixture(t: int) -> None:
    data = two_humps()
    x_t = data.diffuse(LINEAR, t).sample(64, torch.Generator().manual_seed(t)).requires_grad_()
    (slope,) = torch.autograd.grad(data.diffuse(LINEAR, t).log_prob(x_t).sum(), x_t)
    x_t = x_t.detach()
    eps = data.eps(LINEAR)(x_t, torch.full((64,), t))
    # The score has size 1 / sqrt(1 - alpha_bar), at most 100 here.
    torch.testing.assert_close(score(LINEAR, t, eps), slope, rtol=1e-10, atol=1e-10)
    # E[x_0 | x_t]: eps came from it, divided by sqrt(1 - alpha_bar), and is multiplied back
    torch.testing.assert_close(predict_x0(LINEAR, x_t, t, eps), data.denoise(LINEAR, x_t, t), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
def test_any_prediction_makes_a_noise_predictor(predicts: Any) -> None:
    s, eps_model = NoiseSchedule.cosine(20), two_humps().eps(NoiseSchedule.cosine(20))

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        eps = eps_model(x_t, t)
        x0 = predict_x0(s, x_t, t, eps)
        return {"eps": eps, "x0": x0, "v": v_from(s, x0, eps, t)}[predicts]

    x_t, t = torch.randn(6, 2, dtype=F64, generator=torch.Generator().manual_seed(0)), torch.arange(1, 7)
    got = as_noise_predictor(s, network, predicts)(x_t, t)
    torch.testing.assert_close(got, eps_model(x_t, t), rtol=1e-12, atol=1e-12)


def test_a_tensor_of_times_equals_one_call_each() -> None:
    s, g = NoiseSchedule.cosine(50), torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 4, 2, 3, generator=g, dtype=F64)
    t = torch.tensor([1, 50, 7, 7])
    functions: list[Callable[..., Tensor]] = [
        predict_x0, predict_eps, p_mean, predict_x0_from_v, predict_eps_from_v,
        lambda s, x, t, y: score(s, t, y), lambda s, x, t, y: v_from(s, x, y, t),
        lambda s, x, t, y: q_posterior(s, y, x, t).mean, lambda s, x, t, y: q_posterior(s, y, x, t).stddev,
        lambda s, x, t, y: drift(s, gaussian_model(s), x, t),
    ]  # fmt: skip
    for f in functions:
        each = torch.cat([f(s, x[i : i + 1], int(t[i]), y[i : i + 1]) for i in range(4)])
        assert torch.equal(f(s, x, t, y), each)
        assert f(s, x.float(), t, y.float()).dtype == torch.float32


# ---- drift and variance ---------------------------------------------------------------------------------


def test_drift_is_the_way_to_the_mean() -> None:
    model, x_t, t = two_humps().eps(LINEAR), torch.randn(50, 2, dtype=F64), torch.arange(1, 1001, 20)
    way = p_mean(LINEAR, x_t, t, model(x_t, t)) - x_t
    torch.testing.assert_close(drift(LINEAR, model, x_t, t), way, rtol=0.0, atol=1e-14)
    torch.testing.assert_close(drift(LINEAR, model, x_t, 20), drift(LINEAR, model, x_t, torch.full((50,), 20)))


def test_drift_keeps_its_digits_in_float32() -> None:
    """At t = 1 it is 1e-4 of x: as a difference in float32 it would keep three digits."""
    model, x = gaussian_model(LINEAR), torch.tensor([[1.0], [-2.0]])
    want = drift(LINEAR, model, x.double(), 1)
    got = drift(LINEAR, model, x, 1).double()
    # Two products and their difference, which is a quarter of the larger term or more: some roundings of 2**-24.
    torch.testing.assert_close(got, want, rtol=16 * 2.0**-24, atol=0.0)


def test_drift_for_small_beta_is_half_x_plus_score() -> None:
    """The error is of order beta^2: a tenth of beta, a hundredth of the error."""
    x, errors = column(-1.0, 0.3, 2.0), []
    for beta in (1e-3, 1e-4):
        s = NoiseSchedule(torch.tensor([0.5, beta], dtype=F64))
        data = two_humps(1)
        limit = beta * (x / 2 + data.diffuse(s, 2).score(x))
        errors.append((drift(s, data.eps(s), x, 2) - limit).abs())
    ratio = errors[0] / errors[1]
    assert bool((ratio > 90).all())  # 100 up to the next order, beta itself (1e-3) times a small constant
    assert bool((ratio < 110).all())


def test_the_bounds_on_the_variance_are_exact_where_they_say() -> None:
    g = torch.Generator().manual_seed(0)
    x_t = torch.randn(5, 2, dtype=F64, generator=g)
    one = torch.ones(1, dtype=F64)
    point = GaussianMixture(one, column(0.3, -1.0).T, torch.zeros(1, 2, 2, dtype=F64))
    normal = GaussianMixture(one, torch.zeros(1, 2, dtype=F64), torch.eye(2, dtype=F64)[None])
    for t in (2, 3, 500, 1000):
        for data, variance in ((point, "posterior"), (normal, "beta")):
            exact = data.reverse_posterior(LINEAR, x_t, t).variance
            bound = reverse_variance(LINEAR, variance)[t].expand_as(exact)  # type: ignore[arg-type]
            torch.testing.assert_close(exact, bound, rtol=1e-10, atol=0.0)


def test_in_between_the_variance_is_in_between() -> None:
    """A 1-D mixture scaled to unit variance: averaged over x_t by quadrature, the true variance is between."""
    raw = two_humps(1)
    root = float(raw.covariance) ** 0.5
    data = GaussianMixture(raw.weights, raw.means / root, raw.covariances / root**2)
    x = torch.linspace(-12, 12, 4001, dtype=F64)[:, None]
    for t in (2, 100, 400, 1000):
        p = data.diffuse(LINEAR, t).log_prob(x).exp()
        mean = float((p[:, None] * data.reverse_posterior(LINEAR, x, t).variance).sum() / p.sum())
        low, high = (float(reverse_variance(LINEAR, v)[t]) for v in ("posterior", "beta"))  # type: ignore[arg-type]
        assert low < mean < high * (1 + 1e-9)  # at t = 1000 the gap to beta closes like alpha_bar


# ---- the sampler ----------------------------------------------------------------------------------------


def by_the_book(schedule: NoiseSchedule, model: Any, x: Tensor, variance: Any, g: torch.Generator) -> Tensor:
    """Algorithm 2 of Ho et al. 2020, as it is printed."""
    for t in range(schedule.T, 0, -1):
        eps = model(x, torch.full((len(x),), t))
        x = p_mean(schedule, x, t, eps)
        if t > 1:
            noise = torch.empty_like(x).normal_(generator=g)
            x = x + schedule.at(reverse_variance(schedule, variance).sqrt(), t, x) * noise
    return x


def draws(seed: int = 0, n: int = 16, d: int = 2) -> tuple[Tensor, torch.Generator]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=F64), g


@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize("T", [1, 2, 100])
@pytest.mark.filterwarnings("ignore:sampling starts")
def test_sampler_is_algorithm_2(variance: Any, T: int) -> None:
    s = NoiseSchedule.cosine(T)
    model = two_humps().eps(s)
    (x_T, g), (_, same) = draws(), draws()
    got = ddpm_sample(s, model, x_T, variance=variance, generator=g)
    # The cosine schedule's first steps multiply by 1 / sqrt(alpha) = 31 and cancel; the humps then draw points in.
    torch.testing.assert_close(got, by_the_book(s, model, x_T, variance, same), rtol=1e-10, atol=1e-10)
    assert torch.equal(g.get_state(), same.get_state())  # as many draws, and none in the last step


@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize("ts", [[1000], [1, 1000], [3, 4, 500, 1000], timesteps(1000, 37, "quadratic")])
def test_a_sub_sequence_is_the_sampler_of_its_own_schedule(variance: Any, ts: list[int]) -> None:
    model = two_humps().eps(LINEAR)
    sub = NoiseSchedule.from_alpha_bars(LINEAR.alpha_bars[ts])
    (x_T, g), (_, same) = draws(), draws()
    got = ddpm_sample(LINEAR, model, x_T, steps=ts, variance=variance, generator=g)
    want = ddpm_sample(sub, lambda x, i: model(x, torch.tensor(ts)[i - 1]), x_T, variance=variance, generator=same)
    # from_alpha_bars takes log(alpha_bar), which has 2**-53 / (1 - alpha_bar) of relative rounding at t = 1: 1e-12
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@steady
@given(beta_lists, st.data())
@pytest.mark.filterwarnings("ignore:sampling starts")
def test_a_jump_keeps_the_marginal(b: list[float], data: st.DataObject) -> None:
    """From the true x_0 and eps, x_s has mean sqrt(alpha_bar_s) x_0 and variance 1 - alpha_bar_s, for any s < t.

    A jump is linear in x_0, eps and z, and its three factors are read off the sampler's own jump, one unit vector each.
    """
    t = data.draw(st.integers(2, len(b)))
    s = data.draw(st.integers(0, t - 1))
    schedule = NoiseSchedule(torch.tensor(b, dtype=F64))
    x_t = torch.stack([schedule.sqrt_alpha_bars[t], schedule.sqrt_one_minus_alpha_bars[t], torch.zeros((), dtype=F64)])
    factors = []
    for variance in ("posterior", "beta"):
        g = torch.Generator().manual_seed(0)
        z = torch.randn(3, generator=g, dtype=F64) if s else torch.ones(3, dtype=F64)
        path = ddpm_sample(
            schedule,
            lambda x, t: column(0, 1, 0).flatten(),
            x_t,
            steps=[s, t] if s else [t],
            variance=variance,  # type: ignore[arg-type]
            generator=g.manual_seed(0),
            return_path=True,
        )
        spread = path[1][2] / z[2]
        factors.append([*(path[1][:2] - spread * z[:2]).tolist(), float(spread)])
    (of_x0, of_eps, spread), (wide_x0, wide_eps, wide) = factors
    signal, variance = forward_moments(b, s)
    # x_t - beta' / sqrt(1 - alpha_bar_t) eps cancels, to 1 part in 1 / sqrt(alpha_bar_t / alpha_bar_s)
    off = 1e-13 / float((schedule.log_alpha_bars[t] / 2).exp())
    assert of_x0 == pytest.approx(signal, abs=off)
    assert of_eps**2 + spread**2 == pytest.approx(variance, abs=off)
    # beta' is the variance of the steps s + 1 .. t taken alone; the two variances share the mean
    beta = forward_moments(b[s:], t - s)[1] if s else 0.0
    assert wide**2 == pytest.approx(beta, rel=1e-10)
    assert (wide_x0, wide_eps) == pytest.approx((of_x0, of_eps), abs=off)


@pytest.mark.parametrize("clip", [0.5, 1.0, 1e6])
def test_clip_clamps_x0_and_derives_eps_again(clip: float) -> None:
    s = NoiseSchedule.cosine(40)
    model = two_humps().eps(s)

    def clamped(x: Tensor, t: Tensor) -> Tensor:
        x0 = predict_x0(s, x, t, model(x, t)).clamp(-clip, clip)
        return predict_eps(s, x, t, x0)

    (x_T, g), (_, same) = draws(), draws()
    got = ddpm_sample(s, model, x_T, generator=g, clip=clip)
    torch.testing.assert_close(got, by_the_book(s, clamped, x_T, "posterior", same), rtol=1e-10, atol=1e-10)
    assert float(got.abs().max()) <= clip  # to the last bit: the last step is x_0 and nothing else
    if clip < 1:
        assert float(got.abs().max()) == clip


def test_clip_holds_in_float32_for_a_model_that_is_far_off() -> None:
    x_T = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    x_0 = ddpm_sample(LINEAR, lambda x, t: -50 * x, x_T, steps=20, clip=1.0)
    assert bool((x_0.abs() <= 1).all())


def test_nothing_of_the_caller_is_written_to() -> None:
    x_T, g = draws()
    before, answer = x_T.clone(), torch.ones_like(x_T)
    for clip in (None, 1.0):
        ddpm_sample(LINEAR, lambda x, t: answer, x_T, steps=5, generator=g, clip=clip)
        ddpm_sample(LINEAR, lambda x, t: answer, x_T, steps=5, generator=g, clip=clip, return_path=True)
    assert torch.equal(x_T, before)
    assert torch.equal(answer, torch.ones_like(x_T))


def test_a_model_may_answer_with_its_own_input() -> None:
    (x_T, g), (_, same) = draws(), draws()
    a = ddpm_sample(LINEAR, lambda x, t: x, x_T, steps=7, generator=g)
    b = ddpm_sample(LINEAR, lambda x, t: x.clone(), x_T, steps=7, generator=same)
    assert torch.equal(a, b)


def test_one_seed_one_sample_and_t_as_promised() -> None:
    seen: list[int] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        assert t.dtype == torch.int64
        assert t.shape == x.shape[:1]
        assert bool((t == t[0]).all())
        seen.append(int(t[0]))
        return 0.1 * x

    (x_T, g), (_, same), (_, other) = draws(), draws(), draws(1)
    a = ddpm_sample(LINEAR, model, x_T, steps=[4, 9, 1000], generator=g)
    assert seen == [1000, 9, 4]
    assert torch.equal(a, ddpm_sample(LINEAR, model, x_T, steps=[4, 9, 1000], generator=same))
    assert not torch.equal(a, ddpm_sample(LINEAR, model, x_T, steps=[4, 9, 1000], generator=other))


def test_the_path() -> None:
    (x_T, g), (_, same) = draws(), draws()
    path = ddpm_sample(LINEAR, gaussian_model(LINEAR), x_T, steps=6, generator=g, return_path=True)
    x_0 = ddpm_sample(LINEAR, gaussian_model(LINEAR), x_T, steps=6, generator=same)
    assert path.shape == (7, *x_T.shape)
    assert torch.equal(path[0], x_T)
    assert torch.equal(path[-1], x_0)
    assert len({float(x.sum()) for x in path}) == 7  # no point is a view of a buffer that went on


def test_progress_is_shown_only_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    x_T, g = draws()
    ddpm_sample(LINEAR, gaussian_model(LINEAR), x_T, steps=3, generator=g)
    assert capsys.readouterr() == ("", "")
    ddpm_sample(LINEAR, gaussian_model(LINEAR), x_T, steps=3, generator=g, progress=True)
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert "\rsampling: " in shown


def test_a_model_for_another_schedule_is_refused_before_it_is_asked() -> None:
    class ForTen:
        T = 10

        def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
            raise AssertionError("it was asked")

    with pytest.raises(ValueError, match="for the schedule's T = 1000, got one for T = 10"):
        ddpm_sample(LINEAR, ForTen(), torch.zeros(2, 1), steps=3)


@pytest.mark.usefixtures("no_shape_checks")
def test_integers_are_not_sampled_from_and_are_no_answer() -> None:
    with pytest.raises(ValueError, match="x must be floating point"):
        ddpm_sample(LINEAR, lambda x_t, t: x_t, torch.zeros(2, 1, dtype=torch.int64), steps=3)
    with pytest.raises(ValueError, match="eps must be floating point"):
        ddpm_sample(LINEAR, lambda x_t, t: x_t.long(), torch.zeros(2, 1), steps=3)


@pytest.mark.usefixtures("no_shape_checks")
def test_the_drift_of_integers_is_refused_before_the_model_is_asked() -> None:
    asked: list[Tensor] = []

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        asked.append(x_t)
        return x_t

    with pytest.raises(ValueError, match="x_t must be floating point"):
        drift(LINEAR, model, torch.ones(2, 1, dtype=torch.int64), 3)
    assert not asked


def test_no_gradient_is_kept_and_inference_mode_is_fine() -> None:
    weight = torch.ones(1, dtype=F64, requires_grad=True)
    x_T, g = draws()
    x_0 = ddpm_sample(LINEAR, lambda x, t: weight * x, x_T, steps=3, generator=g)
    assert not x_0.requires_grad
    (2 * weight * x_0).sum().backward()  # a normal tensor: it can enter a loss afterwards
    (_, g), (_, same) = draws(), draws()
    with torch.inference_mode():
        a = ddpm_sample(LINEAR, lambda x, t: 0.5 * x, x_T, steps=3, generator=g)
    assert torch.equal(a, ddpm_sample(LINEAR, lambda x, t: 0.5 * x, x_T, steps=3, generator=same))


def test_sampling_in_inference_mode_does_not_spoil_the_schedule_for_training() -> None:
    s, x_T = NoiseSchedule.linear(50), draws()[0]
    with torch.inference_mode():
        ddpm_sample(s, gaussian_model(s), x_T)
    weight = torch.ones(1, dtype=F64, requires_grad=True)
    predict_x0(s, x_T, 5, weight * x_T).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_is_a_few_operations_and_no_wait(clip: float | None) -> None:
    x_T, g = draws()
    eps, on_cpu = torch.zeros_like(x_T), NoiseSchedule.linear(1000)
    counts = []
    for steps in (3, 4):
        with Ops() as ops:
            ddpm_sample(on_cpu, lambda x, t: eps, x_T, steps=steps, generator=g, clip=clip)
        counts.append(Counter(ops.names))
        assert ops.waits == []
    mean = ["div.Tensor", "sub_.Tensor"]
    if clip:
        mean = ["sub.Tensor", "div.Tensor", "clamp.default", "mul.Tensor", "add_.Tensor"]
    assert counts[1] - counts[0] == Counter(["full.default", *mean, "randn.generator", "add_.Tensor"])
    assert counts[0] - counts[1] == Counter()


def test_memory_does_not_grow() -> None:
    """At any number of steps, when the model is asked there is the x that it sees and no other."""
    seen: list[weakref.ref[Tensor]] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(weakref.ref(x))
        assert sum(x() is not None for x in seen) == 1
        return 0.1 * x

    ddpm_sample(LINEAR, model, torch.zeros(2, 2))
    assert len(seen) == 1000


def test_what_a_model_keeps_is_not_written_to() -> None:
    kept: list[tuple[Tensor, Tensor]] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        kept.append((x, t))
        return 0.1 * x

    x_T, g = draws()
    path = ddpm_sample(LINEAR, model, x_T, steps=[5, 30, 1000], generator=g, return_path=True)
    assert [t.unique().tolist() for _, t in kept] == [[1000], [30], [5]]
    assert torch.equal(torch.stack([x for x, _ in kept]), path[:-1])


def test_a_model_that_writes_to_its_input_does_not_reach_the_callers() -> None:
    x_T, g = draws()
    before = x_T.clone()
    path = ddpm_sample(LINEAR, lambda x, t: x.mul_(0.5), x_T, steps=3, generator=g, return_path=True)
    assert torch.equal(x_T, before)
    assert torch.equal(path[0], before)


def test_the_noise_is_that_of_the_values_whatever_the_strides() -> None:
    x_T = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    other = x_T.contiguous(memory_format=torch.channels_last)
    assert other.stride() != x_T.stride()
    a, b = (
        ddpm_sample(LINEAR, gaussian_model(LINEAR), x, steps=5, generator=torch.Generator().manual_seed(1))
        for x in (x_T, other)
    )
    assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_in_is_dtype_out(dtype: torch.dtype) -> None:
    x_T = torch.randn(32, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    for clip in (None, 2.0):
        x_0 = ddpm_sample(LINEAR, gaussian_model(LINEAR), x_T, clip=clip)
        assert x_0.dtype == dtype
        assert bool(x_0.isfinite().all())
        wide = ddpm_sample(LINEAR, lambda x, t: 0.1 * x.double(), x_T, steps=5, clip=clip)
        assert wide.dtype == dtype


@pytest.mark.parametrize("device", ["cuda", "meta"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_runs_on_a_device_without_a_stray_cpu_tensor(device: str, clip: float | None) -> None:
    """Fake tensors know their device and refuse to mix. The schedule stays real: its numbers are read once."""
    with FakeTensorMode():
        x_T, weight = torch.zeros(4, 3, 2, device=device), torch.zeros(1, device=device)

        def model(x: Tensor, t: Tensor) -> Tensor:
            assert t.device == x.device == x_T.device
            return x * weight * t.reshape(-1, 1, 1)  # [:, None] needs a CUDA build even for a fake tensor

        assert ddpm_sample(LINEAR, model, x_T, steps=5, clip=clip).device == x_T.device
        path = ddpm_sample(LINEAR, model, x_T, steps=5, clip=clip, return_path=True)
        assert path.device == x_T.device
        assert path.shape == (6, 4, 3, 2)


@pytest.mark.parametrize("device", ["cuda", "meta"])
def test_functions_run_on_a_device_without_a_stray_cpu_tensor(device: str) -> None:
    with FakeTensorMode():
        s = NoiseSchedule(torch.full((10,), 0.1, device=device, dtype=F64))
        x, t = torch.zeros(4, 3, device=device), torch.ones(4, device=device, dtype=torch.int64)
        for time in (t, 3):
            out = [predict_x0(s, x, time, x), predict_eps(s, x, time, x), score(s, time, x), v_from(s, x, x, time)]
            out += [predict_x0_from_v(s, x, time, x), predict_eps_from_v(s, x, time, x), p_mean(s, x, time, x)]
            out += [q_posterior(s, x, x, time).stddev, drift(s, gaussian_model(s), x, time)]
            assert all(y.device == x.device and y.shape == x.shape for y in out)


def test_a_schedule_is_read_before_the_first_step_and_not_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it lives on an accelerator, each look at its numbers is a wait."""
    events: list[str] = []
    read = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda x: (events.append("read"), read(x))[1])

    def model(x: Tensor, t: Tensor) -> Tensor:
        events.append("asked")
        return 0.1 * x

    ddpm_sample(LINEAR, model, torch.zeros(2, 2), steps=3)
    assert events == ["read", "read", "asked", "asked", "asked"]


# ---- what is refused, and what is warned of -------------------------------------------------------------


@pytest.mark.usefixtures("no_shape_checks")
def test_bad_input_is_named() -> None:
    s, x = LINEAR, torch.zeros(2, 3)
    model = gaussian_model(s)
    sample: Any = ddpm_sample
    for call, message in (
        (lambda: predict_x0(s, x, 1, x[:1]), r"eps must be shaped like x_t, \(2, 3\), got \(1, 3\)"),
        (lambda: predict_eps(s, x, 1, x[:, :1]), "x0 must be shaped"),
        (lambda: v_from(s, x, x[:1], 1), "eps must be shaped"),
        (lambda: predict_x0_from_v(s, x, 1, x[:1]), "v must be shaped"),
        (lambda: predict_eps_from_v(s, x, 1, x[:1]), "v must be shaped"),
        (lambda: q_posterior(s, x[:1], x, 1), "x0 must be shaped"),
        (lambda: p_mean(s, x, 1, x[:1]), "eps must be shaped"),
        (lambda: drift(s, lambda x, t: x[:1], x, 1), "eps must be shaped"),
        (lambda: predict_x0(s, x, 0, x), r"t must lie in 1\.\.1000, got 0"),
        (lambda: score(s, 1001, x), r"t must lie in 1\.\.1000, got 1001"),
        (lambda: p_mean(s, x, torch.tensor([1, 0]), x), r"t must lie in 1\.\.1000"),
        (lambda: q_posterior(s, x, x, torch.tensor([1])), r"t must have shape \(2,\)"),
        (lambda: reverse_variance(s, "small"), r"variance must be one of .*got 'small'"),  # type: ignore[arg-type]
        (lambda: as_noise_predictor(s, model, "x"), r"predicts must be one of .*got 'x'"),  # type: ignore[arg-type]
        (lambda: sample(s, model, x, variance="small"), "variance must be one of"),
        (lambda: sample(s, model, x, steps=1001), r"steps must lie in 1\.\.T = 1\.\.1000, got 1001"),
        (lambda: sample(s, model, x, steps=5, spacing="odd"), "spacing must be one of"),
        (lambda: sample(s, model, x, clip=0.0), "clip must be > 0 and finite, got 0"),
        (lambda: sample(s, model, x, clip=math.nan), "clip must be > 0 and finite, got nan"),
        (lambda: sample(s, model, x, clip=math.inf), "clip must be > 0 and finite, got inf"),
        (lambda: sample(s, model, x, clip="x"), "clip must be > 0 and finite, got 'x'"),
        (lambda: sample(s, model, x, clip=np.ones(2)), r"clip must be > 0 and finite, got array\(\[1., 1.\]\)"),
        (lambda: sample(s, model, x, clip=torch.ones(2)), "clip must be > 0 and finite, got tensor"),
        (lambda: sample(s, model, x, clip=[1.0]), r"clip must be > 0 and finite, got \[1.0\]"),
        (lambda: sample(s, model, x.long()), "x must be floating point, got torch.int64"),
        (lambda: sample(s, lambda x, t: x[:1], x), "eps must be shaped"),
        (lambda: sample(s, model, x.to("meta"), generator=torch.Generator()), "generator must live on the device"),
        (lambda: sample(s, model, x, generator=0), "generator must be a torch.Generator, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_prior_not_reached_is_told() -> None:
    """The limit is 0.001 bits a dimension for data of unit power."""
    x_T, g = draws()
    model = gaussian_model(LINEAR)
    with pytest.warns(UserWarning, match=r"t = 100, where alpha_bar = 0\.897.*1\.6 bits"):
        ddpm_sample(LINEAR, model, x_T, steps=[50, 100], generator=g)

    def warned(alpha_bar: float) -> bool:
        s = NoiseSchedule.from_alpha_bars(torch.tensor([0.5, alpha_bar], dtype=F64))
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            ddpm_sample(s, gaussian_model(s), x_T, generator=g)
        nats = prior_kl(s, torch.ones(1, 1, dtype=F64))  # |x_0|^2 = 1, one dimension
        assert (float(nats) / math.log(2) > 1e-3) is bool(record)
        return bool(record)

    assert [warned(a) for a in (0.0047, 0.0014, 0.00138, 4e-5)] == [True, True, False, False]


# ---- the sampler with the exact model is right ----------------------------------------------------------


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_ancestral_samples_are_the_data(variance: Any) -> None:
    """At T = 1000 the exact model's samples are as near to the data as two samples of the data are to each other."""
    data, g, n = two_humps(), torch.Generator().manual_seed(0), 4000
    x_T = torch.randn(n, 2, generator=g, dtype=F64)
    x_0 = ddpm_sample(LINEAR, data.eps(LINEAR), x_T, variance=variance, generator=g)
    floor = noise_floor(energy_distance, data.sample(2 * n, g))
    assert energy_distance(x_0, data.sample(n, g)).excess(floor) < 3
    # and the yardstick can tell: the same samples, 10% too wide, are beyond it
    assert energy_distance(1.1 * x_0, data.sample(n, g)).excess(floor) > 3


CONVERSIONS: dict[str, Callable[[Any, Any], Any]] = {
    "x_t": lambda x, t: predict_x0(LINEAR, x, t, torch.zeros(2, 3)),
    "eps": lambda x, t: predict_x0(LINEAR, torch.zeros(2, 3), t, x),
    "x0": lambda x, t: v_from(LINEAR, x, torch.zeros(2, 3), t),
    "v": lambda x, t: predict_eps_from_v(LINEAR, torch.zeros(2, 3), t, x),
    "eps of the score": lambda x, t: score(LINEAR, t, x),
    "x_t of the posterior": lambda x, t: q_posterior(LINEAR, torch.zeros(2, 3), x, t),
    "x_t of the mean": lambda x, t: p_mean(LINEAR, x, t, torch.zeros(2, 3)),
    "x_t of the drift": lambda x, t: drift(LINEAR, lambda x, t: torch.zeros(2, 3), x, t),
    "eps of the model": lambda x, t: drift(LINEAR, lambda x_t, t: x, torch.zeros(2, 3), t),
}


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("case", CONVERSIONS)
def test_wrong_kinds_are_refused_by_name(case: str) -> None:
    name, x = case.split()[0], torch.zeros(2, 3)
    for wrong, said in (
        (x.byte(), "floating point, got torch.uint8"),
        (x.long(), "floating point"),
        (x.numpy(), "a torch.Tensor, got ndarray"),
    ):
        with pytest.raises(ValueError, match=f"^{name} must be {said}"):
            CONVERSIONS[case](wrong, 5)
    for t in (5.0, math.nan, True, np.array([5, 5]), x[:, 0]):
        with pytest.raises(ValueError, match=r"^t must"):
            CONVERSIONS[case](x, t)


def test_a_model_for_another_schedule_is_refused() -> None:
    net, x, short = MLP(dim=3, T=1000, width=4), torch.zeros(2, 3), NoiseSchedule.linear(100)
    said = "T = 100, got one for T = 1000"
    for predicts in get_args(Predicts):
        with pytest.raises(ValueError, match=said):
            as_noise_predictor(short, net, predicts)
        with pytest.raises(ValueError, match=said):
            drift(short, as_noise_predictor(LINEAR, net, predicts), x, 5)
    with pytest.raises(ValueError, match=said):
        drift(short, DataMixture(x).eps(LINEAR), x, 5)


@pytest.mark.usefixtures("no_shape_checks")
def test_times_of_numpy_and_torch_are_times() -> None:
    s: Any = NoiseSchedule.constant(4, 0.1)
    for steps in (np.array([1, 4]), torch.tensor([1, 4]), [np.int64(1), np.int32(4)]):
        assert s.pairs(steps) == [(4, 1), (1, 0)]
    assert s.pairs(np.int64(2)) == [(4, 2), (2, 0)]
    for steps in (2.0, [1.5, 4.0], [math.nan], True):
        with pytest.raises(ValueError, match="steps must be a whole number, got"):
            s.pairs(steps)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("x", [torch.tensor(0.5), torch.zeros(2, 2, dtype=torch.int64)])
def test_what_is_no_batch_is_refused_before_the_model_is_asked(x: Tensor) -> None:
    with pytest.raises(ValueError, match="x must"):
        ddpm_sample(NoiseSchedule.linear(1000), lambda x, t: pytest.fail("asked"), x, steps=5)
