"""Whole samplers and losses with whole networks, on devices that this machine may lack: no stray tensor, no wait.

A fake tensor has a shape, a dtype and a device, and no numbers. On a fake "cuda" device every operation is checked as
on a real one: a CPU tensor among the rest is an error, and so is a look at a number. Pieces are tested in this way with
their modules, and a training step in test_loop; here they work together, under bfloat16 autocast and compiled too.
"""

import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import NoFloat64, Ops, fake, grown
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from diffnotes.book.generalisation import distances
from diffnotes.ddim import ddim_encode, ddim_sample, ddim_step, dpmpp_2m_sample, ode_jump, ode_rhs, slerp
from diffnotes.forward import prior_kl, q_marginal, q_sample, q_step
from diffnotes.guidance import guided
from diffnotes.metrics import energy_distance, frechet_distance, noise_floor, sliced_wasserstein
from diffnotes.mixture import DataMixture, GaussianMixture
from diffnotes.objective import bits_per_dim, discrete_log_prob, loss_weights, simple_loss, vlb_terms
from diffnotes.reverse import (
    as_noise_predictor,
    ddpm_sample,
    drift,
    p_mean,
    predict_eps,
    predict_eps_from_v,
    predict_x0,
    predict_x0_from_v,
    q_posterior,
    score,
    v_from,
)
from diffnotes.schedule import NoisePredictor, NoiseSchedule
from diffnotes.training.networks import MLP, Network, UNet

T, STEPS = 1000, 4
LINEAR = NoiseSchedule.linear(T)  # its numbers are read once, so it stays on the CPU, and is real

Run = Callable[..., Tensor]
SAMPLERS: dict[str, Run] = {
    "ddpm": lambda m, x, **kw: ddpm_sample(LINEAR, m, x, steps=STEPS, **kw),
    "ddpm, beta, clipped": lambda m, x, **kw: ddpm_sample(LINEAR, m, x, steps=STEPS, variance="beta", clip=1.0, **kw),
    "ddim": lambda m, x, **kw: ddim_sample(LINEAR, m, x, STEPS),
    "ddim, eta, clipped": lambda m, x, **kw: ddim_sample(LINEAR, m, x, STEPS, 0.5, clip=1.0, **kw),
    "ddim, sigma-hat": lambda m, x, **kw: ddim_sample(LINEAR, m, x, STEPS, "sigma_hat", **kw),
    "encode": lambda m, x, **kw: ddim_encode(LINEAR, m, x, STEPS),
    "2m": lambda m, x, **kw: dpmpp_2m_sample(LINEAR, m, x, STEPS),
}
NETS: dict[str, tuple[Callable[[], Network], tuple[int, ...]]] = {
    "MLP": (lambda: MLP(dim=6, T=T, width=8, classes=3), (2, 3)),
    "UNet": (lambda: UNet(channels=1, T=T, width=8, multipliers=(1, 2), classes=3), (1, 8, 8)),
}
ASKED: dict[str, Callable[[Network, Tensor], NoisePredictor]] = {
    "no label": lambda net, y: net,
    "label": lambda net, y: guided(net, y),
    "guided": lambda net, y: guided(net, y, 2.0),
    "predicts v": lambda net, y: as_noise_predictor(LINEAR, net, "v"),
}


@pytest.fixture(params=SAMPLERS)
def sampler(request: Any) -> Run:
    return SAMPLERS[request.param]


@pytest.fixture(params=NETS)
def kind(request: Any) -> tuple[Callable[[], Network], tuple[int, ...]]:
    return NETS[request.param]


# ---- on a fake accelerator --------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "meta"])
@pytest.mark.parametrize("asked", [name for name in ASKED if name != "predicts v"])
def test_samplers_with_networks_stay_on_the_device_and_never_wait(
    sampler: Run, kind: Any, asked: str, device: str
) -> None:
    make, event = kind
    with FakeTensorMode():
        net = fake(make, device)
        x, y = torch.empty(4, *event, device=device), torch.empty(4, dtype=torch.int64, device=device)
        with Ops() as ops:
            out = sampler(ASKED[asked](net, y), x)
        assert (out.device.type, out.shape, out.dtype) == (device, x.shape, x.dtype)
    assert len(ops.names) > STEPS
    assert ops.waits == []


@pytest.mark.parametrize("name", ["ddpm", "ddim", "2m"])
def test_a_network_that_predicts_v_stays_there_too(name: str) -> None:
    """Its conversion reads a schedule at the t of the device, so that schedule lives there."""
    with FakeTensorMode():
        there = NoiseSchedule(torch.full((T,), 0.01, device="cuda", dtype=torch.float64))
        net, x = fake(lambda: MLP(dim=6, T=T, width=8), "cuda"), torch.empty(4, 6, device="cuda")
        with Ops() as ops:
            assert SAMPLERS[name](as_noise_predictor(there, net, "v"), x).device.type == "cuda"
    assert ops.waits == []


@pytest.mark.parametrize("device", ["cuda", "meta"])
def test_losses_with_networks_stay_on_the_device_and_never_wait(kind: Any, device: str) -> None:
    make, event = kind
    with FakeTensorMode():
        s = NoiseSchedule(torch.full((T,), 0.01, device=device, dtype=torch.float64))
        net, x0 = fake(make, device), torch.empty(4, *event, device=device)
        t = torch.empty(4, dtype=torch.int64, device=device)
        with Ops() as ops:
            for model in (net, guided(net, t, 2.0)):
                loss = simple_loss(s, model, x0, t, x0)
                terms = vlb_terms(s, model, x0, decoder="discrete", ts=[2, 500, 1000], chunk=1)
                bits = bits_per_dim(terms.bound, math.prod(event))
                found = [loss, terms.L_T, terms.L_t, terms.L_0, bits, loss_weights(s, "posterior")]
                found.append(discrete_log_prob(x0, x0, torch.ones(1, device=device)))
                assert {value.device.type for value in found} == {device}
                assert (loss.dtype, terms.bound.dtype, bits.dtype) == (x0.dtype, *[torch.float64] * 2)
            if device == "meta":  # see `fake`
                loss.mean().backward()  # type: ignore[no-untyped-call]
                assert all(weights.grad.device.type == device for weights in net.parameters())
        assert ops.waits == []
        step = ddim_step(s, x0, x0, 500, 400, 0.5, x0)
        assert {part.device.type for part in (*step, slerp(x0, x0, 0.5))} == {device}


STRAYS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a CPU tensor": lambda x, t: x * torch.ones(x.shape, device="cpu"),
    "a CPU index": lambda x, t: x.index_select(0, torch.zeros(4, dtype=torch.int64, device="cpu")),
    "a table on the CPU": lambda x, t: x * torch.ones(T + 1, device="cpu").index_select(0, t).reshape(-1, 1),
    "a CPU number": lambda x, t: x * torch.ones((), device="cpu"),
    "a copy to the host": lambda x, t: x * len(x.cpu()),
    "a copy from the host": lambda x, t: x * torch.ones(x.shape, device="cpu").to(x.device),
    "a look at t": lambda x, t: x if bool((t > 500).all()) else -x,
    "a look at x": lambda x, t: x if bool((x > 0).any()) else -x,
    "a shape that depends on numbers": lambda x, t: x * len(x.masked_select(x > 0)),
}


@pytest.mark.parametrize("stray", STRAYS)
def test_what_is_looked_for_is_found(sampler: Run, stray: str) -> None:
    """Planted in a model, each kind of stray tensor and of wait is an error at once, or is in the list."""
    message = ""
    with FakeTensorMode(), Ops() as ops:
        try:
            sampler(STRAYS[stray], torch.empty(4, 6, device="cuda"))
        except (RuntimeError, DataDependentOutputException) as error:
            message = str(error)
    assert ops.waits or re.search("found two different devices|expected all tensors to be on the same", message, re.I)


def test_on_the_cpu_no_number_is_read_during_a_run(sampler: Run) -> None:
    """With real tensors: the loop is the same on every device, and asks for no number of x."""
    x = torch.randn(4, 6)
    with Ops() as ops:
        sampler(lambda x, t: 0.1 * x, x)
    assert ops.names
    assert ops.waits == []


# ---- where there is no float64 ----------------------------------------------------------------------------------

GAUSS = GaussianMixture(torch.ones(2) / 2, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.eye(2).repeat(2, 1, 1))
DATA = DataMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
Work = Callable[[Tensor, Any], Any]  # of x and t, or of x and an int


def half(x: Tensor, t: Tensor) -> Tensor:
    return x / 2


NEEDS_FLOAT64: dict[str, tuple[str, Work]] = {  # what is named, and the call
    "schedule.to": ("device", lambda x, t: LINEAR.to(x.device)),
    "NoiseSchedule": ("the device of betas", lambda x, t: NoiseSchedule(x.abs()[0])),
    "from_alpha_bars": ("the device of alpha_bars", lambda x, t: NoiseSchedule.from_alpha_bars(x[0])),
    "prior_kl": ("the device of x0", lambda x, t: prior_kl(LINEAR, x)),
    "ode_rhs": ("the device of x_bar", lambda x, t: ode_rhs(GAUSS.eps, x, 0.5)),
    "ode_jump": ("the device of x_t", lambda x, t: ode_jump(LINEAR, GAUSS.eps, x, 500)),
    "energy_distance": ("the device of x", lambda x, t: energy_distance(x, x)),
    "energy_distance, y": ("the device of y", lambda x, t: energy_distance(torch.zeros(4, 2), x)),
    "sliced_wasserstein": ("the device of x", lambda x, t: sliced_wasserstein(x, x, groups=2)),
    "noise_floor": ("the device of x", lambda x, t: noise_floor(energy_distance, torch.cat([x, x]))),
    "generalisation.distances": ("the device of x", lambda x, t: distances(x, x)),
    "GaussianMixture": ("the device of means", lambda x, t: GaussianMixture(x[:, 0], x, x[:, :, None] * x[:, None])),
    "GaussianMixture.to": ("device", lambda x, t: GAUSS.to(x.device)),
    "GaussianMixture.eps": ("the device of x_t", lambda x, t: GAUSS.eps(LINEAR)(x, t)),
    "GaussianMixture.log_prob": ("the device of x", lambda x, t: GAUSS.log_prob(x)),
    "GaussianMixture.score": ("the device of x", lambda x, t: GAUSS.score(x)),
    "GaussianMixture.responsibilities": ("the device of x", lambda x, t: GAUSS.responsibilities(LINEAR, x, t)),
    "GaussianMixture.denoise": ("the device of x", lambda x, t: GAUSS.denoise(LINEAR, x, t)),
    "GaussianMixture.denoise_posterior": ("the device of x", lambda x, t: GAUSS.denoise_posterior(LINEAR, x, t)),
    "GaussianMixture.denoise_covariance": ("the device of x", lambda x, t: GAUSS.denoise_covariance(LINEAR, x, t)),
    "GaussianMixture.denoise_variance": ("the device of x", lambda x, t: GAUSS.denoise_variance(LINEAR, x, t)),
    "GaussianMixture.reverse_posterior": ("the device of x", lambda x, t: GAUSS.reverse_posterior(LINEAR, x, t)),
    "DataMixture": ("the device of x0", lambda x, t: DataMixture(x)),
    "DataMixture.to": ("device", lambda x, t: DATA.to(x.device)),
    "DataMixture.eps": ("the device of x_t", lambda x, t: DATA.eps(LINEAR)(x, t)),
    "DataMixture.log_prob": ("the device of x", lambda x, t: DATA.log_prob(LINEAR, x, t)),
    "DataMixture.score": ("the device of x_t", lambda x, t: DATA.score(LINEAR, x, t)),
    "DataMixture.responsibilities": ("the device of x", lambda x, t: DATA.responsibilities(LINEAR, x, t)),
    "DataMixture.denoise": ("the device of x", lambda x, t: DATA.denoise(LINEAR, x, t)),
    "DataMixture.denoise_variance": ("the device of x", lambda x, t: DATA.denoise_variance(LINEAR, x, t)),
    "DataMixture.reverse_posterior": ("the device of x", lambda x, t: DATA.reverse_posterior(LINEAR, x, t)),
}
# with one t per example these need the schedule on their device; with an int they do not
NEEDS_AN_INT: dict[str, Work] = {
    "q_step": lambda x, t: q_step(LINEAR, x, t, x),
    "q_sample": lambda x, t: q_sample(LINEAR, x, t, x),
    "q_marginal": lambda x, t: q_marginal(LINEAR, x, t).mean,
    "predict_x0": lambda x, t: predict_x0(LINEAR, x, t, x),
    "predict_eps": lambda x, t: predict_eps(LINEAR, x, t, x),
    "score": lambda x, t: score(LINEAR, t, x),
    "v_from": lambda x, t: v_from(LINEAR, x, x, t),
    "predict_x0_from_v": lambda x, t: predict_x0_from_v(LINEAR, x, t, x),
    "predict_eps_from_v": lambda x, t: predict_eps_from_v(LINEAR, x, t, x),
    "q_posterior": lambda x, t: q_posterior(LINEAR, x, x, t).mean,
    "p_mean": lambda x, t: p_mean(LINEAR, x, t, x),
    "drift": lambda x, t: drift(LINEAR, half, x, t),
    "simple_loss": lambda x, t: simple_loss(LINEAR, half, x, t, x),
}
# these ask with one t per example whatever they are given
NEEDS_THE_CPU: dict[str, Work] = {
    "vlb_terms": lambda x, t: vlb_terms(LINEAR, half, x),
    "as_noise_predictor, x0": lambda x, t: ddpm_sample(LINEAR, as_noise_predictor(LINEAR, half, "x0"), x),
    "as_noise_predictor, v": lambda x, t: ddpm_sample(LINEAR, as_noise_predictor(LINEAR, half, "v"), x),
}
NEEDS_NOTHING: dict[str, Work] = {
    **{name: lambda x, t, sample=sample: sample(half, x) for name, sample in SAMPLERS.items()},
    "ddim_step": lambda x, t: ddim_step(LINEAR, x, x, 500, 400, 0.5, x).x_s,
    "slerp": lambda x, t: slerp(x, x, 0.5),
    "bits_per_dim": lambda x, t: bits_per_dim(x[:, 0], 2),
    "discrete_log_prob": lambda x, t: discrete_log_prob(x, x, x),
    **NEEDS_AN_INT,
}


@pytest.fixture
def without_float64() -> Tensor:
    """A batch on a device that has no float64."""
    return torch.empty(4, 2, device="meta")


@pytest.mark.parametrize("name", NEEDS_FLOAT64)
def test_without_float64_what_needs_it_says_what_works(name: str, without_float64: Tensor) -> None:
    named, work = NEEDS_FLOAT64[name]
    said = rf"^{named} must be cpu or cuda, or another on which torch can make a float64 tensor .* got 'meta'$"
    with NoFloat64(), pytest.raises(ValueError, match=said):
        work(without_float64, 500)


@pytest.mark.parametrize("name", [*NEEDS_AN_INT, *NEEDS_THE_CPU])
def test_without_float64_one_time_per_example_is_not_sent_in_circles(name: str, without_float64: Tensor) -> None:
    t = torch.empty(4, dtype=torch.int64, device="meta")
    said = r"share a device, got .*schedule\.to\(device\), or all three to the CPU if the device has no float64$"
    with NoFloat64(), pytest.raises(ValueError, match=said):
        (NEEDS_AN_INT | NEEDS_THE_CPU)[name](without_float64, t)


@pytest.mark.parametrize("name", NEEDS_NOTHING)
def test_without_float64_the_rest_works(name: str, without_float64: Tensor) -> None:
    with NoFloat64():
        out = NEEDS_NOTHING[name](without_float64, 500)
    assert (out.device.type, out.dtype) == ("meta", torch.float32)


def test_without_float64_features_are_compared_on_the_cpu(without_float64: Tensor) -> None:
    with NoFloat64(), pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        frechet_distance(without_float64, without_float64)


# ---- in bfloat16 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ASKED)
def test_samplers_under_bfloat16_autocast(sampler: Run, kind: Any, asked: str) -> None:
    """The network works in bfloat16, and the sampler in the dtype of x, where it adds up many steps."""
    make, event = kind
    net, y = grown(make()), torch.tensor([0, 1, 2, 0])
    x = torch.randn(4, *event)
    start = torch.Generator().manual_seed(1)
    exact = sampler(ASKED[asked](net, y), x, generator=start)
    with torch.autocast("cpu", torch.bfloat16):
        rough = sampler(ASKED[asked](net, y), x, generator=start.manual_seed(1))
    assert rough.dtype == x.dtype
    assert bool(rough.isfinite().all())
    assert not torch.equal(rough, exact)


def test_samplers_with_everything_in_bfloat16(sampler: Run, kind: Any) -> None:
    make, event = kind
    out = sampler(grown(make()).bfloat16(), torch.randn(4, *event, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    assert bool(out.isfinite().all())


def test_losses_under_bfloat16_autocast(kind: Any) -> None:
    make, event = kind
    net, x0, noise = grown(make()), torch.randn(4, *event).clamp(-1, 1), torch.randn(4, *event)
    x0 = ((x0 + 1) * 127.5).round() / 127.5 - 1
    t = torch.tensor([1, 10, 500, T])
    with torch.autocast("cpu", torch.bfloat16):
        loss = simple_loss(LINEAR, net, x0, t, noise)
        bound = vlb_terms(LINEAR, net, x0, decoder="discrete", ts=[2, T]).bound
    assert (loss.dtype, bound.dtype) == (torch.float32, torch.float64)
    assert bool(loss.isfinite().all())
    assert bool(bound.isfinite().all())
    loss.mean().backward()  # type: ignore[no-untyped-call]
    assert {weights.grad.dtype for weights in net.parameters()} == {torch.float32}
    assert all(bool(weights.grad.isfinite().all()) for weights in net.parameters())


# ---- compiled ---------------------------------------------------------------------------------------------------

COMPARE = """
import torch
from diffnotes.ddim import ddim_step
from diffnotes.forward import q_sample
from diffnotes.objective import simple_loss
from diffnotes.reverse import p_mean
from diffnotes.schedule import NoiseSchedule
torch.manual_seed(0)
schedule = NoiseSchedule.linear(1000)  # no table of it has been asked for
x, eps, noise = torch.randn(3, 4, 1, 8, 8, dtype=torch.float64)
ts = torch.tensor([1000, 500, 2, 1]), torch.tensor([900, 499, 1, 0])  # on the CPU, where a t is looked at in eager mode
steps = [lambda x, t=t: [q_sample(schedule, x, t, noise)] for t in (500, ts[0])]
for jump in (500, 400), (1, 0), ts:
    for eta in (0.0, 0.5, "sigma_hat"):
        steps.append(lambda x, jump=jump, eta=eta: ddim_step(schedule, x, eps, *jump, eta, noise))
mean, loss = NoiseSchedule.linear(1000), NoiseSchedule.linear(1000)  # new ones
steps.append(lambda x: [p_mean(mean, x, ts[0], eps)])
steps.append(lambda x: [simple_loss(loss, lambda x_t, t: x_t / 2, x, ts[0], noise)])
for step in steps:
    compiled = torch.compile(step, fullgraph=True)  # a broken graph is an error
    print(max(float((a - b).abs().max()) for a, b in zip(compiled(x), step(x))))
"""


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_compiled_steps_are_one_graph_and_equal_eager() -> None:
    """In a process of its own, as the networks are in test_networks."""
    run = subprocess.run([sys.executable, "-c", COMPARE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    differences = [float(line) for line in run.stdout.split()]
    assert len(differences) == 13
    # The same dozen operations, where x_0 = (x - noise * eps) / signal is divided or multiplied by the reciprocal and
    # sums may be fused: 12 roundings of 2^-53, of numbers up to 5, or 5 / signal = 800 at t = 1000. The last two
    # ask for no x_0 and stay far below: p_mean is a few operations, and the loss a mean of squares up to 60
    assert max(differences) < 12 * 2**-53 * 800
    assert max(differences[:2]) < 3 * 2**-53 * 5  # forward: two products and a sum


# ---- on a real one ----------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # is a prototype, torch warns
def test_samplers_on_a_gpu_never_wait(sampler: Run, kind: Any) -> None:
    """CUDA itself raises where the host would wait."""
    make, event = kind
    net, y = grown(make()).to("cuda"), torch.tensor([0, 1, 2, 0], device="cuda")
    x = torch.randn(4, *event).to("cuda")
    model = guided(net, y, 2.0)
    sampler(model, x)  # libraries load themselves at first use, and may wait then
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = sampler(model, x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert out.device.type == "cuda"
    assert bool(out.isfinite().all())


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["ddim", "encode", "2m"])
def test_a_gpu_gives_the_sample_that_the_cpu_gives(name: str, kind: Any) -> None:
    make, event = kind
    net, x = grown(make()).double(), torch.randn(4, *event, dtype=torch.float64)
    here = SAMPLERS[name](net, x)
    there = SAMPLERS[name](net.to("cuda"), x.to("cuda")).cpu()
    # sums of at most 9 * 32 products in another order, through about 20 layers and 4 jumps, of which the first divides
    # by signal = 0.006: 288 * 20 * 4 * 2^-53 / 0.006 = 4e-10 of numbers of the sample's size
    torch.testing.assert_close(there, here, rtol=0, atol=4e-10 * float(here.abs().max()))
