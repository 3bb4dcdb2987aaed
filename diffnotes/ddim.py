"""Chapter 4, DDIM: jumps of any length, with as much fresh noise as you like, down to none.

A jump goes from t to any s < t. The variance of the noise in x_s is to be 1 - alpha_bar_s. It has two sources: `sigma`
times fresh noise, and `turn` times the noise that the model sees in x_t:

    turn^2 + sigma^2 = 1 - alpha_bar_s                                                      (ddim-budget)

(Only "sigma_hat", an older and larger choice of sigma, breaks this budget.) With the predicted x_0 put in, the jump is
one line in x_t, the model's eps and a fresh standard normal z:

    x_s = a x_t + b eps + sigma z,   a = sqrt(alpha_bar_s / alpha_bar_t),   b = turn - a sqrt(1 - alpha_bar_t)
                                                                                            (ddim-affine)

Every split within the budget keeps the marginals q(x_t | x_0), which are all that training looks at, so one trained
network serves them all. eta = 1 is DDPM; eta = 0 draws nothing, and x_T decides x_0.

>>> schedule = NoiseSchedule.linear(T=1000)
>>> def model(x_t, t):  # the exact one for data that are already N(0, I), so that x_0 should be x_T
...     return schedule.at(schedule.sqrt_one_minus_alpha_bars, t, x_t) * x_t
>>> x_T = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
>>> for steps in (10, 100, 1000):
...     print(steps, [round(x, 3) for x in ddim_sample(schedule, model, x_T, steps).flatten().tolist()])
10 [0.829, -1.659]
100 [0.982, -1.963]
1000 [0.998, -1.996]
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from tqdm.auto import tqdm

from diffnotes.arguments import check_batch, check_integers, in_float64, may_look, number, whole
from diffnotes.reverse import ask, check_fits, predict_x0
from diffnotes.schedule import Batch, NoisePredictor, NoiseSchedule, PerExample, Spacing, Steps, Time, flat

Eta = float | int | Literal["sigma_hat"]  # int too: at run time the tests tell 1 from 1.0

# ---- one jump -------------------------------------------------------------------------------------------------


def ddim_sigma(schedule: NoiseSchedule, t: Time, s: Time, eta: Eta) -> Float64[Tensor, "*batch"]:
    """The standard deviation of the fresh noise in the jump t -> s (Song, Meng, Ermon 2021, eq. 16).

    sigma(eta) = eta sqrt((1 - alpha_bar_s) / (1 - alpha_bar_t)) sqrt(1 - alpha_bar_t / alpha_bar_s), so its *square*
    is eta^2 times DDPM's beta-tilde. It is computed from log alpha_bar, so no digits are lost near the data.

    Args:
        t, s: T >= t > s >= 0 (checked for ints and on the CPU only), two ints or two int64 tensors of shape (batch,) on
            the schedule's device; else ValueError. The result, in float64, has shape () or (batch,).
        eta: in [0, 1]; or "sigma_hat" for sqrt(1 - alpha_bar_t / alpha_bar_s), the larger noise that DDPM's authors
            used on CIFAR-10 (section 5 of the paper): DDPM's variance "beta", on any sub-sequence. Else ValueError.

    >>> schedule = NoiseSchedule.linear(T=1000)
    >>> round(float(ddim_sigma(schedule, t=500, s=499, eta=0.5) ** 2 / schedule.posterior_variances[500]), 12)
    0.25
    """
    return _shares_at(schedule, t, s, eta)[0]


class DDIMStep(NamedTuple):
    """The new x, and the three parts that add up to it."""

    x_s: Tensor
    x0_part: Tensor  # sqrt(alpha_bar_s) times the predicted x_0
    direction_part: Tensor  # turn * eps: back towards x_t
    noise_part: Tensor  # sigma * noise: fresh


def ddim_step(
    schedule: NoiseSchedule, x_t: Batch, eps: Batch, t: Time, s: Time, eta: Eta = 0.0, noise: Batch | None = None
) -> DDIMStep:
    """One jump from t to s (Song, Meng, Ermon 2021, eq. 12), in its three named parts.

    With "sigma_hat" only the fresh noise grows: the direction keeps its factor of eta = 1 (their appendix D.3), so the
    noise in x_s then has a variance above 1 - alpha_bar_s.

    Args:
        x_t: shape (batch, ...), floating point.
        eps: the model's noise at (x_t, t), shaped like `x_t`.
        t, s, eta: see `ddim_sigma`.
        noise: standard normal, shaped like `x_t`; it may be left out if eta is 0.

    Raises:
        ValueError: a shape or dtype is wrong, `noise` is missing, or what `ddim_sigma` raises.
    """
    sigma, turn = _shares_at(schedule, t, s, eta)
    if noise is None and eta != 0:
        raise ValueError(f"noise must be given where eta is not 0, got noise=None with eta={eta!r}")
    check_batch(x_t=x_t, noise=x_t if noise is None else noise)
    noise = torch.zeros_like(x_t) if noise is None else noise
    x0 = predict_x0(schedule, x_t, t, eps)
    x0_part = _like(_pick(schedule.sqrt_alpha_bars, s), x_t) * x0
    direction_part = _like(turn, x_t) * eps
    noise_part = _like(sigma, x_t) * noise
    return DDIMStep(x0_part + direction_part + noise_part, x0_part, direction_part, noise_part)  # (ddim-step)


def _shares_at(schedule: NoiseSchedule, t: Time, s: Time, eta: Eta) -> tuple[Tensor, Tensor]:
    """sigma and turn of the jump t -> s, in float64, once t and s are checked."""
    _check_jump(schedule, t, s)
    return _shares(_pick(schedule.log_alpha_bars, t), _pick(schedule.log_alpha_bars, s), eta)


def _shares(log_t: Any, log_s: Any, eta: Eta) -> tuple[Any, Any]:
    """sigma and turn of the jump t -> s, from log alpha_bar at t and s: Python floats or float64 tensors."""
    if not (eta == "sigma_hat" if isinstance(eta, str) else isinstance(eta, Real) and 0 <= eta <= 1):
        raise ValueError(f'eta must lie in [0, 1] or be "sigma_hat", got {eta!r}')
    m = math if isinstance(log_t, float) else torch
    one_minus_t, one_minus_s = -m.expm1(log_t), -m.expm1(log_s)  # 1 - alpha_bar
    beta = -m.expm1(log_t - log_s)  # (rev-sub-beta)
    # DDPM's, at eta = 1: the most fresh noise, the root of beta-tilde, and the least that is reused
    most = m.sqrt(one_minus_s / one_minus_t * beta)  # (ddim-sigma)
    least = m.exp((log_t - log_s) / 2) * one_minus_s / m.sqrt(one_minus_t)  # most^2 + least^2 = 1 - alpha_bar_s
    if eta == "sigma_hat":
        return m.sqrt(beta), least  # (ddim-sigma-hat)
    # turn = sqrt(1 - alpha_bar_s - sigma^2) = sqrt(least^2 + (1 - eta^2) most^2): digits cancel in the difference,
    # and rounding can make it negative
    return eta * most, m.hypot(least, math.sqrt(1 - eta**2) * most)  # (ddim-budget)


# ---- many jumps -----------------------------------------------------------------------------------------------


@torch.no_grad()
def ddim_sample(
    schedule: NoiseSchedule,
    model: NoisePredictor,
    x_T: Batch,
    steps: Steps = 50,
    eta: Eta = 0.0,
    *,
    spacing: Spacing = "trailing",
    generator: torch.Generator | None = None,
    clip: float | None = None,
    progress: bool = False,
    return_path: bool = False,
) -> Float[Tensor, "..."]:
    """From x_T ~ N(0, I) to x_0 in `steps` jumps, with one model call each (Song, Meng, Ermon 2021, section 4).

    The last jump adds no noise, whatever eta is, just as z = 0 in the last step of algorithm 2 of Ho et al. 2020.

    Args:
        schedule: on any device; it is read before the first jump, so that no jump waits for an accelerator.
        model: a noise predictor. It may keep the tensors it is given.
        x_T: shape (batch, ...), any floating type, drawn from N(0, I). It is not changed.
        steps: how many (spread over 1..T by `spacing`), or the times themselves in rising order; None means all T.
        eta: in [0, 1] or "sigma_hat", see `ddim_sigma`. At 0 no noise is drawn: x_T decides x_0.
        generator: for the noise; on the device of `x_T`.
        clip: clamp the predicted x_0 to [-clip, clip], and derive eps from it anew.
        progress: show a bar.
        return_path: return every x from x_T to x_0, shape (jumps + 1, batch, ...), instead of x_0 alone.

    Raises:
        ValueError: `steps`, `spacing`, `eta`, `generator`, `clip` or the shape of the model's eps is off.

    Warns:
        UserWarning: alpha_bar at the first time is too large for N(0, I), see `NoiseSchedule.warn_unless_prior`.
    """
    check_fits(x_T, clip=clip, generator=generator)
    schedule.check_T(model)
    pairs = schedule.pairs(steps, spacing)  # (t, s), t falling, s = 0 last
    log = schedule.log_alpha_bars.tolist()  # plain numbers from here on
    signal, noise = schedule.sqrt_alpha_bars.tolist(), schedule.sqrt_one_minus_alpha_bars.tolist()
    jumps = [(t, s, *_shares(log[t], log[s], eta)) for t, s in pairs]
    schedule.warn_unless_prior(pairs[0][0])
    x, path = x_T.clone(), [x_T]  # a copy: a model that writes on its input does not change the caller's x_T
    # each jump is `ddim_step` up to rounding; only tensors that it has made are written on
    for t, s, sigma, turn in tqdm(jumps, desc="sampling") if progress else jumps:
        eps = ask(model, x, t)
        if clip is None:
            a = signal[s] / signal[t]
            x = (a * x).add_(eps, alpha=turn - a * noise[t])  # (ddim-affine)
        else:
            x0 = torch.sub(x, eps, alpha=noise[t]) / signal[t]  # (ddim-x0)
            x0 = x0.clamp(-clip, clip).to(x.dtype)  # eps may come in another precision
            eps = torch.sub(x, x0, alpha=signal[t]) / noise[t]  # so that x = signal x0 + noise eps holds again
            x = (signal[s] * x0).add_(eps, alpha=turn)  # (ddim-step): by a x + b eps, digits of x0 would cancel
        if sigma and s > 0:  # at s = 0 only sigma_hat is not 0 by itself
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            x.add_(z, alpha=sigma)
        if return_path:
            path.append(x)
    return torch.stack(path) if return_path else x


@torch.no_grad()
def ddim_encode(
    schedule: NoiseSchedule,
    model: NoisePredictor,
    x0: Batch,
    steps: Steps = 50,
    *,
    spacing: Spacing = "trailing",
    progress: bool = False,
    return_path: bool = False,
) -> Float[Tensor, "..."]:
    """From x_0 up to the x_T that `ddim_sample` at eta = 0 takes back to it (Song, Meng, Ermon 2021, section 5.4).

    It walks the same times upwards, by the same Euler step for (ddim-ode). Each step evaluates eps where it starts: at
    the lower end of an interval on the way up, at the upper end on the way down. So the round trip has an error, which
    falls as 1 / steps. At index 0 there is no noise, so the model is asked at t = 1, the lowest level it knows.

    Arguments and errors are those of `ddim_sample`; the path goes from x_0 to x_T.
    """
    check_fits(x0)
    schedule.check_T(model)
    pairs = schedule.pairs(steps, spacing)[::-1]
    signal, noise = schedule.sqrt_alpha_bars.tolist(), schedule.sqrt_one_minus_alpha_bars.tolist()
    x, path = x0.clone(), [x0]
    for t, s in tqdm(pairs, desc="encoding") if progress else pairs:
        eps = ask(model, x, max(s, 1))
        a = signal[t] / signal[s]
        x = (a * x).add_(eps, alpha=noise[t] - a * noise[s])  # (ddim-euler), upwards
        if return_path:
            path.append(x)
    return torch.stack(path) if return_path else x


def slerp(a: Batch, b: Batch, w: float | PerExample) -> Batch:
    """The point at `w` on the arc from `a` (w = 0) to `b` (w = 1), example by example.

        sin((1 - w) theta) / sin(theta) a + sin(w theta) / sin(theta) b,   theta the angle between a and b

    (Song, Meng, Ermon 2021, appendix D.5.) If |a| = |b|, every point in between has that length too: noise stays as
    large as noise is, whereas the midpoint of two independent draws on the straight line is shorter by sqrt(2).

    Args:
        a, b: shape (batch, ...), the same. Each example counts as one vector.
        w: a number, or one per example, shape (batch,).

    Returns:
        Shaped like `a`. For parallel vectors, or a zero vector, theta = 0: the straight line, which is the limit.

    Raises:
        ValueError: a shape or dtype is wrong, w is not finite, or b points exactly against a in some example, so that
            no arc is shortest (checked on the CPU; on an accelerator that example becomes NaN).

    >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
    tensor([[0.7071, 0.7071]])
    """
    check_batch(a=a, b=b)
    if not isinstance(w, Tensor):
        w = number("w", w)
    elif w.shape != a.shape[:1] or not w.is_floating_point():
        raise ValueError(f"w must be a number or floating of shape {(len(a),)}, got {w.dtype} {tuple(w.shape)}")
    elif may_look(w) and not bool(w.isfinite().all()):
        raise ValueError(f"w must be finite, got {w.tolist()}")
    u, v = (flat(x).to(torch.promote_types(x.dtype, torch.float32)) for x in (a, b))
    u, v = u * v.norm(dim=1, keepdim=True), v * u.norm(dim=1, keepdim=True)  # equally long
    theta = 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))  # accurate at both ends, unlike arccos
    opposite = math.pi - theta < 8 * torch.finfo(theta.dtype).eps
    if may_look(opposite) and bool(opposite.any()):
        raise ValueError(f"b must not point against a: examples {opposite.nonzero().flatten().tolist()} do")
    half_turns = (theta / math.pi).masked_fill(opposite, torch.nan)
    # sin(w theta) / sin(theta) = w sinc(w theta / pi) / sinc(theta / pi), which is finite at theta = 0
    of_a, of_b = ((x * torch.sinc(x * half_turns) / torch.sinc(half_turns)) for x in (1 - w, w))
    return _like(of_a, a) * a + _like(of_b, b) * b  # (ddim-slerp)


# ---- the ODE behind it, and a second-order step -----------------------------------------------------------------

ModelAt = Callable[[NoiseSchedule], Callable[[Tensor, Any], Tensor]]  # such as `GaussianMixture.eps`


def sigma_bars(schedule: NoiseSchedule) -> Float64[Tensor, " steps"]:
    """sigma_bar_t = sqrt((1 - alpha_bar_t) / alpha_bar_t), shape (T + 1,), 0 at index 0: the time in (ddim-ode)."""
    return torch.expm1(-schedule.log_alpha_bars).sqrt()


def ode_rhs(model_at: ModelAt, x_bar: Batch, sigma_bar: float) -> Batch:
    """The right-hand side of the probability-flow ODE, d x_bar / d sigma_bar (Song, Meng, Ermon 2021, eq. 14).

    In x_bar = x / sqrt(alpha_bar) and sigma_bar = sqrt((1 - alpha_bar) / alpha_bar) it is simply the model's eps, so a
    DDIM jump at eta = 0 is an Euler step.

    Args:
        model_at: a function from a schedule to a noise predictor, such as `mixture.eps`: the ODE passes through every
            noise level, and a network trained at T of them has no field in between.
        x_bar: shape (batch, ...), floating point, or ValueError.
        sigma_bar: in [0, inf), or ValueError. At 0, x_t is x_0, which says nothing about the noise: eps is its mean, 0.
    """
    sigma_bar = number("sigma_bar", sigma_bar, "[0, inf)")
    check_batch(x_bar=x_bar)
    in_float64("x_bar", x_bar[:0])  # a device without it is refused
    if sigma_bar == 0:
        return torch.zeros_like(x_bar)
    one = torch.ones(len(x_bar), dtype=torch.int64, device=x_bar.device)
    # a one-step schedule with this sigma_bar
    beta = torch.tensor([sigma_bar**2 / (1 + sigma_bar**2)], dtype=torch.float64, device=x_bar.device)
    return model_at(NoiseSchedule(beta))(x_bar / math.sqrt(1 + sigma_bar**2), one)  # (ddim-ode)


def ode_jump(schedule: NoiseSchedule, model_at: ModelAt, x_t: Batch, t: int, s: int = 0, rtol: float = 1e-10) -> Batch:
    """x_s, where the ODE itself takes x_t from t down or up to s: the limit of eta = 0 with ever more steps.

    Solved in float64 on the CPU by the eighth-order DOP853 of SciPy, which only this function needs.

    Args:
        model_at: as in `ode_rhs`.
        x_t: shape (batch, ...), floating point. The result is float64, on its device.
        t, s: in 0..T, in either order.
        rtol: the solver's relative tolerance for x_bar, >= 1e-13; the absolute tolerance is the same number.

    Raises:
        ValueError: t, s or rtol is out of range, or `x_t` is not floating point or on a device without float64.
        RuntimeError: the solver gave up.
    """
    from scipy.integrate import solve_ivp

    t, s = whole("t", t, 0, schedule.T), whole("s", s, 0, schedule.T)
    rtol = number("rtol", rtol, "[1e-13, 1)")
    check_batch(x_t=x_t)
    signal, bars = schedule.sqrt_alpha_bars.tolist(), sigma_bars(schedule).tolist()
    x_bar = in_float64("x_t", x_t).cpu() / signal[t]

    def rhs(sigma_bar: float, y: Any) -> Any:
        x = torch.from_numpy(y).reshape(x_bar.shape).to(x_t.device)
        # before SciPy 1.14 the solver's first trial step may overshoot the end at 0
        return ode_rhs(model_at, x, max(sigma_bar, 0.0)).flatten().cpu().numpy()

    with torch.no_grad():
        solved = solve_ivp(rhs, (bars[t], bars[s]), x_bar.flatten().numpy(), "DOP853", rtol=rtol, atol=rtol)
    if not solved.success:
        raise RuntimeError(f"the ODE was not solved from t={t} to s={s}: {solved.message}")
    x_s: Tensor = torch.from_numpy(solved.y[:, -1]).reshape(x_t.shape).to(x_t.device) * signal[s]
    return x_s


@torch.no_grad()
def dpmpp_2m_sample(
    schedule: NoiseSchedule,
    model: NoisePredictor,
    x_T: Batch,
    steps: Steps = 20,
    *,
    spacing: Spacing = "trailing",
    clip: float | None = None,
    progress: bool = False,
    return_path: bool = False,
) -> Float[Tensor, "..."]:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): the ODE to second order, still with one model call per jump.

    A DDIM jump holds the predicted x_0 fixed, although it moves. Here the last two predictions are extrapolated along a
    straight line in lambda, half the log-SNR, to the middle of the jump. The first jump has no past, and the last, to
    s = 0, has no middle (lambda is infinite there), so these two are DDIM's.

    Arguments, errors and warnings are those of `ddim_sample`, but that nothing is drawn. `clip` clamps the x_0 that the
    jump uses, and not the predictions it is extrapolated from, which would bend their line.
    """
    check_fits(x_T, clip=clip)
    schedule.check_T(model)
    pairs = schedule.pairs(steps, spacing)
    schedule.warn_unless_prior(pairs[0][0])
    signal, noise = schedule.sqrt_alpha_bars.tolist(), schedule.sqrt_one_minus_alpha_bars.tolist()
    log_snr = schedule.log_snr.tolist()  # 2 lambda, so that h is twice the paper's; only ratios of h count
    x, path = x_T.clone(), [x_T]  # a copy, since a model may write on what it is given
    x0, h = x_T, math.inf  # no earlier call: as if infinitely far back
    for t, s in tqdm(pairs, desc="sampling") if progress else pairs:
        before, h_before, h = x0, h, log_snr[s] - log_snr[t]
        eps = ask(model, x, t)
        x0 = torch.sub(x, eps, alpha=noise[t]) / signal[t]  # (ddim-x0)
        weight = h / (2 * h_before) if s > 0 else 0.0
        middle = torch.add(x0, x0 - before, alpha=weight)  # (ddim-2m)
        if clip is not None:
            middle = middle.clamp(-clip, clip)
        # (ddim-step) at eta = 0, from this x_0 and the eps that goes with it
        ratio = noise[s] / noise[t]
        x = (ratio * x).add_(middle, alpha=signal[s] - ratio * signal[t])
        if return_path:
            path.append(x)
    return torch.stack(path) if return_path else x


def _pick(values: Tensor, t: Time) -> Tensor:
    return values.index_select(0, t.long()) if isinstance(t, Tensor) else values.select(0, t)


def _like(values: Tensor, x: Tensor) -> Tensor:
    """One number, or one per example, in the dtype of `x`, shaped to multiply it."""
    values = values.to(x.dtype)
    return values.reshape(-1, *[1] * (x.ndim - 1)) if values.ndim else values


def _check_jump(schedule: NoiseSchedule, t: Time, s: Time) -> None:
    """Raise ValueError unless T >= t > s >= 0, as far as checking does not make an accelerator's host wait."""
    if not isinstance(t, Tensor) and not isinstance(s, Tensor):
        fits = 0 <= whole("s", s, None) < whole("t", t, None) <= schedule.T
    elif isinstance(t, Tensor) and isinstance(s, Tensor) and t.shape == s.shape:
        if not t.device == s.device == schedule.betas.device:
            where = f"{schedule.betas.device}, {t.device} and {s.device}"
            raise ValueError(f"schedule, t and s must share a device, got {where}")
        check_integers(t=t, s=s)
        fits = not may_look(t) or bool(((s >= 0) & (s < t) & (t.long() <= schedule.T)).all())
    else:
        raise ValueError(f"t and s must be two ints, or two tensors of one shape, got {t!r} and {s!r}")
    if not fits:
        raise ValueError(f"t and s must satisfy T = {schedule.T} >= t > s >= 0, got t={t}, s={s}")
