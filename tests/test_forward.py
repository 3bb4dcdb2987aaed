"""forward.py: steps compose to the jump, densities match draws, the distance to the prior is the integral it claims."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import Normal, kl_divergence

from diffnotes.forward import prior_kl, q_marginal, q_sample, q_step
from diffnotes.schedule import NoiseSchedule

EPS = 2.0**-53
betas = st.lists(st.floats(1e-6, 0.999), min_size=1, max_size=40).map(lambda b: torch.tensor(b, dtype=torch.float64))


def moments_by_steps(schedule: NoiseSchedule, t: int) -> tuple[Tensor, Tensor]:
    """Coefficient of x_0 and variance of the noise after t calls of q_step, read off the linear map that it is."""
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    signal, variance = one, zero
    for i in range(1, t + 1):
        keep, add = q_step(schedule, one, i, zero), q_step(schedule, zero, i, one)
        signal, variance = keep * signal, keep**2 * variance + add**2
    return signal, variance


@given(betas)
def test_composed_steps_equal_the_jump(b: Tensor) -> None:
    s = NoiseSchedule(b)
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    for t in {1, s.T // 2 + 1, s.T}:
        signal, variance = moments_by_steps(s, t)
        # t products with two roundings each on one side, t log1p summed on the other (see test_schedule)
        tol = 8 * t * EPS * max(1.0, float(-s.log_alpha_bars[t]))
        torch.testing.assert_close(q_sample(s, one, t, zero), signal, rtol=tol, atol=0.0)
        torch.testing.assert_close(q_sample(s, zero, t, one) ** 2, variance, rtol=tol, atol=0.0)
        q = q_marginal(s, one, t)
        torch.testing.assert_close(q.mean, signal, rtol=tol, atol=0.0)
        torch.testing.assert_close(q.variance, variance, rtol=tol, atol=0.0)


def test_a_step_by_hand() -> None:
    s = NoiseSchedule.constant(2, 0.36)  # the roots of 0.64 and 0.36 are 0.8 and 0.6
    x, z = torch.tensor([[1.0, -5.0]], dtype=torch.float64), torch.tensor([[2.0, 10.0]], dtype=torch.float64)
    by_hand = torch.tensor([[0.8 * 1 + 0.6 * 2, -0.8 * 5 + 0.6 * 10]], dtype=torch.float64)
    torch.testing.assert_close(q_step(s, x, 2, z), by_hand, rtol=0.0, atol=60 * EPS)  # roundings of numbers up to 6


@given(betas)
def test_a_step_keeps_unit_variance(b: Tensor) -> None:
    s = NoiseSchedule(b)
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    for t in (1, s.T):
        total = q_step(s, one, t, zero) ** 2 + q_step(s, zero, t, one) ** 2
        torch.testing.assert_close(total, one, rtol=4 * EPS, atol=0.0)


def test_a_tensor_of_times_equals_one_call_each() -> None:
    s, g = NoiseSchedule.cosine(50), torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 4, 2, 3, generator=g, dtype=torch.float64)
    t = torch.tensor([1, 50, 7, 7])
    for f in (q_step, q_sample):
        each = torch.cat([f(s, x[i : i + 1], int(t[i]), noise[i : i + 1]) for i in range(4)])
        assert torch.equal(f(s, x, t, noise), each)
    q = q_marginal(s, x, t)
    assert q.batch_shape == x.shape
    assert torch.equal(q.mean + q.stddev * noise, q_sample(s, x, t, noise))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_in_is_dtype_out(dtype: torch.dtype) -> None:
    s, x = NoiseSchedule.linear(1000), torch.ones(2, 3, dtype=dtype)
    t = torch.tensor([1, 1000])
    assert q_step(s, x, t, x).dtype == q_sample(s, x, t, x).dtype == q_marginal(s, x, t).mean.dtype == dtype
    assert prior_kl(s, x).dtype == dtype
    # computed in float64 and cast once: the float32 answer is the rounded float64 one
    assert torch.equal(prior_kl(s, x), prior_kl(s, x.double()).to(dtype))


def test_known_distance_to_the_prior() -> None:
    s = NoiseSchedule.linear(1000)
    bits = prior_kl(s, torch.ones(2, 5, dtype=torch.float64)) / (5 * math.log(2))
    assert bits.tolist() == pytest.approx([2.9113e-5] * 2, rel=2e-5)  # five digits were given


@given(st.floats(-3, 3), st.integers(1, 400))
def test_prior_kl_is_the_integral(x0: float, T: int) -> None:
    s = NoiseSchedule.constant(T, 0.02)
    q = q_marginal(s, torch.full((1,), x0, dtype=torch.float64), T)
    m, sd = float(q.mean), float(q.stddev)

    def integrand(x: float) -> float:
        log_q = -0.5 * ((x - m) / sd) ** 2 - math.log(sd) - 0.5 * math.log(2 * math.pi)
        return math.exp(log_q) * (log_q + 0.5 * x * x + 0.5 * math.log(2 * math.pi))

    value, error = integrate.quad(integrand, m - 10 * sd, m + 10 * sd, epsabs=1e-13, epsrel=1e-12, limit=200)
    got = prior_kl(s, torch.tensor([[x0]], dtype=torch.float64))
    # ten standard deviations leave out less than 1e-20; quad reports its own error
    assert float(got) == pytest.approx(value, abs=1e-12 + 10 * error)


def test_prior_kl_sums_over_coordinates_and_agrees_with_torch() -> None:
    s, g = NoiseSchedule.linear(100), torch.Generator().manual_seed(0)
    s = NoiseSchedule.from_alpha_bars(s.alpha_bars[1:51])
    x0 = torch.randn(3, 2, 4, generator=g, dtype=torch.float64)
    q = q_marginal(s, x0, s.T)
    by_torch = kl_divergence(q, Normal(torch.zeros_like(q.mean), torch.ones_like(q.stddev))).sum((1, 2))
    torch.testing.assert_close(prior_kl(s, x0), by_torch, rtol=1e-12, atol=0.0)  # alpha-bar is 0.5: nothing cancels


def test_draws_follow_the_density() -> None:
    s, g, n = NoiseSchedule.linear(1000), torch.Generator().manual_seed(0), 100_000
    x0 = torch.full((n, 1), 2.0, dtype=torch.float64)
    q = q_marginal(s, x0[:1], 400)
    x = q_sample(s, x0, 400, torch.randn(n, 1, generator=g, dtype=torch.float64))
    z = (x - q.mean) / q.stddev
    # z = 5 standard errors: mean of z has 1/sqrt(n), mean of z^2 has sqrt(2/n)
    assert abs(float(z.mean())) < 5 / math.sqrt(n)
    assert abs(float((z**2).mean()) - 1) < 5 * math.sqrt(2 / n)


def test_meta_and_fake_devices() -> None:
    with FakeTensorMode():
        s = NoiseSchedule(torch.full((10,), 0.1, device="cuda", dtype=torch.float64))
        x, t = torch.zeros(2, 3, device="cuda"), torch.ones(2, dtype=torch.int64, device="cuda")
        outputs = [q_step(s, x, t, x), q_sample(s, x, t, x), q_sample(s, x, 3, x), q_marginal(s, x, t).mean]
        outputs.append(prior_kl(s, x))
        assert all(y.device.type == "cuda" and y.dtype == x.dtype for y in outputs)
        with pytest.raises(ValueError, match="share a device"):
            q_sample(s, torch.zeros(2, 3), t, torch.zeros(2, 3))
    s = NoiseSchedule(torch.full((10,), 0.1, device="meta", dtype=torch.float64))
    x, t = torch.zeros(2, 3, 4, device="meta"), torch.ones(2, dtype=torch.int64, device="meta")
    assert q_sample(s, x, t, x).shape == q_marginal(s, x, t).mean.shape == x.shape
    assert prior_kl(s, x).shape == (2,)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    s, x = NoiseSchedule.linear(1000), torch.ones(2, 3)
    t = torch.tensor([1, 1000])
    on_gpu = q_sample(s.to("cuda"), x.to("cuda"), t.to("cuda"), x.to("cuda"))
    assert on_gpu.device.type == "cuda"
    torch.testing.assert_close(on_gpu.cpu(), q_sample(s, x, t, x), rtol=4 * 2.0**-24, atol=0.0)


@pytest.mark.usefixtures("no_shape_checks")
def test_mismatched_shapes_raise() -> None:
    s, x = NoiseSchedule.linear(100), torch.zeros(2, 3)
    for f, name in ((q_step, "x_prev"), (q_sample, "x0")):
        with pytest.raises(ValueError, match=rf"noise must be shaped like {name}, \(2, 3\), got \(2, 4\)"):
            f(s, x, 5, torch.zeros(2, 4))
        with pytest.raises(ValueError, match=r"t must lie in 1\.\.100, got 0"):
            f(s, x, 0, x)
    with pytest.raises(ValueError, match=r"t must lie in 1\.\.100, got 101"):
        q_marginal(s, x, 101)


def test_gradients_flow_through_the_jump() -> None:
    s, x = NoiseSchedule.linear(100), torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    q_sample(s, x, 50, torch.zeros(1, 1, dtype=torch.float64)).sum().backward()
    assert x.grad is not None
    assert np.isclose(float(x.grad), math.sqrt(float(s.alpha_bars[50])), rtol=1e-14)


def test_a_schedule_first_used_in_inference_mode_still_trains() -> None:
    with torch.inference_mode():
        s = NoiseSchedule.linear(100)
        x = torch.ones(1, 1, dtype=torch.float64)
        q_sample(s, x, 50, x)
        s.to("cpu").posterior_variances  # noqa: B018
    x = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    (q_sample(s, x, 50, x) ** 2).sum().backward()
    assert x.grad is not None


def test_prior_kl_of_scalars() -> None:
    s, x0 = NoiseSchedule.linear(100), torch.tensor([0.5, 2.0], dtype=torch.float64)
    assert torch.equal(prior_kl(s, x0), prior_kl(s, x0[:, None]))


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integer_images_are_refused(dtype: torch.dtype) -> None:
    """A factor cast to their dtype would be 0, and so would x_t."""
    s, x = NoiseSchedule.linear(100), torch.zeros(2, 3)
    bytes_ = x.to(dtype)
    for name, call in (
        ("x_prev", lambda: q_step(s, bytes_, 5, x)),
        ("noise", lambda: q_step(s, x, 5, bytes_)),
        ("x0", lambda: q_sample(s, bytes_, 5, x)),
        ("noise", lambda: q_sample(s, x, 5, bytes_)),
        ("x0", lambda: q_marginal(s, bytes_, 5)),
        ("x0", lambda: prior_kl(s, bytes_)),
    ):
        with pytest.raises(ValueError, match=f"^{name} must be floating point, got {dtype}"):
            call()


@pytest.mark.usefixtures("no_shape_checks")
def test_what_is_no_batch_of_a_tensor_is_refused() -> None:
    s, x = NoiseSchedule.linear(100), torch.zeros(2, 3)
    for wrong, said in ((x.numpy(), "a torch.Tensor, got ndarray"), (x[0, 0], r"have shape \(batch, ...\), got \(\)")):
        for call in (lambda x: q_sample(s, x, 5, x), lambda x: prior_kl(s, x), lambda x: q_marginal(s, x, 5)):
            with pytest.raises(ValueError, match=f"x0 must (be )?{said}"):
                call(wrong)


def test_no_examples_give_no_examples() -> None:
    s, x = NoiseSchedule.linear(100), torch.zeros(0, 3)
    for t in (5, torch.zeros(0, dtype=torch.int64)):
        for out in (q_step(s, x, t, x), q_sample(s, x, t, x), q_marginal(s, x, t).mean):
            assert out.shape == (0, 3)
    assert prior_kl(s, x).shape == (0,)
