"""Beside diffusers' own schedulers: the same chain, step by step, in float64; and what is refused."""

import copy
import json
import math
import re
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from diffnotes.ddim import ddim_encode, ddim_sample, ddim_step
from diffnotes.interop import PREDICTS, config_of, counted_from_zero, noise_predictor, schedule_of
from diffnotes.objective import bits_per_dim, vlb_terms
from diffnotes.reverse import ddpm_sample, predict_x0, q_posterior
from diffnotes.schedule import NoiseSchedule, timesteps

diffusers = pytest.importorskip("diffusers", reason="needs diffusers, of the extra `test`")

F64 = torch.float64
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact(scheduler, schedule):
    """The scheduler with its tables in float64, which it computes in float32."""
    scheduler.betas = schedule.betas[1:]
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = schedule.alpha_bars[1:]
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=F64)
    return scheduler


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    return net.double().eval().requires_grad_(False)


@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize("T", [50, 1000])
def test_schedules_are_diffusers_up_to_its_float32(name, T):
    """2e-7: the betas' rounding to float32, 6e-8 of at most 1, some of it twice; in alpha_bar it adds up over T."""
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=T, beta_schedule=name, beta_start=0.002, beta_end=0.03)
    ours = schedule_of(scheduler)
    assert torch.allclose(ours.betas[1:], scheduler.betas.double(), rtol=0, atol=2e-7)
    assert torch.allclose(ours.alpha_bars[1:], scheduler.alphas_cumprod.double(), rtol=0, atol=2e-6)


def test_there_and_back():
    schedule = NoiseSchedule.cosine(30)
    for predicts in PREDICTS.values():
        scheduler = diffusers.DDIMScheduler(**config_of(schedule, predicts))
        assert torch.equal(schedule_of(scheduler).betas, schedule.betas)
        assert PREDICTS[scheduler.config.prediction_type] == predicts
        scheduler.set_timesteps(10)
        assert (scheduler.timesteps + 1).tolist() == timesteps(30, 10)[::-1]


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("kind", list(PREDICTS))
@pytest.mark.parametrize("clip", [None, 0.7])
def test_ddim_is_diffusers_step_by_step(spacing, kind, clip, network):
    """Where the steps divide T and the stride is whole."""
    T, S, eta = 100, 10, 0.6
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=T, beta_end=0.2, prediction_type=kind, timestep_spacing=spacing,
        clip_sample=clip is not None, clip_sample_range=clip or 1.0,
    )  # fmt: skip
    schedule = schedule_of(scheduler)
    exact(scheduler, schedule).set_timesteps(S)
    x = torch.randn(2, 1, 8, 8, generator=seeded(), dtype=F64)
    model = noise_predictor(network, scheduler)
    times = (scheduler.timesteps + 1).tolist()
    assert times == timesteps(T, S, spacing)[::-1]
    ours = x
    for t, s in zip(times, [*times[1:], 0], strict=True):
        z = torch.randn(x.shape, generator=seeded(t), dtype=F64) if s else torch.zeros_like(x)
        answer = network(x, torch.tensor([t - 1, t - 1])).sample
        x = scheduler.step(answer, t - 1, x, eta=eta, use_clipped_model_output=True, variance_noise=z).prev_sample
        eps = model(ours, torch.tensor([t, t]))
        if clip is not None:
            x0 = predict_x0(schedule, ours, t, eps).clamp(-clip, clip)
            eps = (ours - schedule.sqrt_alpha_bars[t] * x0) / schedule.sqrt_one_minus_alpha_bars[t]
        ours = ddim_step(schedule, ours, eps, t, s, eta if s else 0.0, z).x_s
        assert torch.allclose(ours, x, rtol=1e-10, atol=1e-10)


def test_where_strides_are_not_whole_diffusers_leaves_the_sequence():
    """It takes t - T // steps for the next time. With linspace, or where steps do not divide T, that is another one."""
    for spacing, steps in (("linspace", 10), ("trailing", 30)):
        scheduler = diffusers.DDIMScheduler(num_train_timesteps=100, timestep_spacing=spacing)
        scheduler.set_timesteps(steps)
        times = (scheduler.timesteps + 1).tolist()
        assert [t - 100 // steps for t in times] != [*times[1:], 0]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize("steps", [10, 7])
def test_ddpm_is_diffusers_step_by_step(spacing, variance, steps, network):
    """Here diffusers walks the sequence itself, so the steps need not divide T.

    With "trailing" its last step, which is not from t = 0 of its own, adds noise once more, where the chain should end.
    """
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=100, beta_start=0.001, beta_end=0.2, timestep_spacing=spacing, clip_sample=False,
        variance_type={"posterior": "fixed_small", "beta": "fixed_large"}[variance],
    )  # fmt: skip
    schedule = schedule_of(scheduler)
    exact(scheduler, schedule).set_timesteps(steps)
    times = (scheduler.timesteps + 1).tolist()
    x = torch.randn(2, 1, 8, 8, generator=seeded(), dtype=F64)
    model, path, g = noise_predictor(network, scheduler), [x], seeded(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "leading" may start short of T
        ours = ddpm_sample(
            schedule, model, x, steps=times[::-1], variance=variance, generator=seeded(1), return_path=True
        )
    for t in times:
        answer = network(x, torch.tensor([t - 1, t - 1])).sample
        x = scheduler.step(answer, t - 1, x, generator=g).prev_sample
        path.append(x)
    same = len(path) - (spacing == "trailing")
    assert torch.allclose(ours[:same], torch.stack(path[:same]), rtol=1e-10, atol=1e-10)


def test_any_model_that_counts_from_zero():
    seen = []

    def model(x, t):
        seen.append(t.tolist())
        return 0 * x

    schedule = NoiseSchedule.linear(100)
    ddim_sample(schedule, counted_from_zero(model, 100), torch.zeros(2, 3), steps=2)
    assert seen == [[99, 99], [49, 49]]
    with pytest.raises(ValueError, match="model must be made for the schedule's T = 100, got one for T = 50"):
        ddim_sample(schedule, counted_from_zero(model, 50), torch.zeros(2, 3))


def test_a_network_from_elsewhere_meets_the_exact_tests(network):
    """Encoding and back comes home with an error that halves with twice the steps, and the bound is finite.

    The random network's answers are made small: as large as they come, its field is too rough for a few steps.
    """
    smooth = copy.deepcopy(network)
    smooth.conv_out.weight.mul_(0.03)
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=200, beta_end=0.1)
    schedule, model = schedule_of(scheduler), noise_predictor(smooth, scheduler)
    x0 = 0.3 * torch.randn(4, 1, 8, 8, generator=seeded(), dtype=F64)
    errors = []
    for steps in (25, 50, 100):
        x_T = ddim_encode(schedule, model, x0, steps)
        errors.append(float((ddim_sample(schedule, model, x_T, steps) - x0).abs().mean()))
    assert all(1.7 < a / b < 2.3 for a, b in pairwise(errors)), errors
    assert math.isfinite(float(vlb_terms(schedule, model, x0, ts=[2, 50, 200], generator=seeded()).bound.mean()))


# ---- "Your own network", in chapter 5 ---------------------------------------------------------------------------


CHAPTER = Path(__file__).resolve().parents[1] / "book" / "05-images.ipynb"
LOADS = re.compile(r"from diffusers import |(scheduler|network) = ")


def own_network() -> tuple[list[str], list[str]]:
    """The lines that are printed for a published network, and those of the cell below them, which run in the book."""
    cells = ["".join(cell["source"]) for cell in json.loads(CHAPTER.read_text("utf-8"))["cells"]]
    start = next(i for i, cell in enumerate(cells) if cell.startswith("## Your own network"))
    blocks = ((i, re.search(r"^```python\n(.*?)^```$", cell, re.DOTALL | re.MULTILINE)) for i, cell in enumerate(cells))
    i, block = next((i, block) for i, block in blocks if i >= start and block)
    return block[1].splitlines(), cells[i + 1].splitlines()


def test_the_book_runs_the_lines_that_it_prints_but_for_those_that_load_the_network():
    printed, run = own_network()
    loads = [line for line in printed if LOADS.match(line)]
    assert [line.split()[0] for line in loads] == ["from", "scheduler", "network"]
    assert all("from_pretrained(" in line for line in loads[1:])
    same = [[line for line in lines if line and not LOADS.match(line)] for lines in (printed, run)]
    assert same[0] == same[1]
    assert len(run) - len([line for line in run if not LOADS.match(line)]) == 2


def test_the_lines_that_the_book_prints_run_on_a_network_of_diffusers(network, capsys):
    """The printed lines as they stand, with a network of random weights in the place of the published one."""
    small = {"sample_size": 32, "in_channels": 3, "out_channels": 3, "block_out_channels": (4, 8)}
    smooth = diffusers.UNet2DModel.from_config({**network.config, **small}).eval()
    with torch.no_grad():
        smooth.conv_out.weight.mul_(0.003)  # as above; starting from white noise, its field is rougher still
    names = {
        "scheduler": diffusers.DDPMScheduler(num_train_timesteps=200, beta_end=0.1), "network": smooth,
        "torch": torch, "np": np, "pairwise": pairwise, "device": "cpu",
        "rms": lambda x: float(x.square().mean().sqrt()),
        "schedule_of": schedule_of, "noise_predictor": noise_predictor, "ddim_sample": ddim_sample,
        "ddim_encode": ddim_encode, "vlb_terms": vlb_terms, "bits_per_dim": bits_per_dim,
    }  # fmt: skip
    lines = [line for line in own_network()[0] if not LOADS.match(line)]
    exec("\n".join(lines), names)
    assert names["made"].shape == (4, 3, 32, 32)
    assert all(0.7 < order < 1.3 for order in names["orders"]), names["orders"]
    assert 8 < names["in_bits"] < 30
    assert len(capsys.readouterr().out.splitlines()) == 3


# ---- a second opinion on numbers --------------------------------------------------------------------------------


def test_the_bound_is_the_published_definition(network):
    """L_T, L_{t-1} and L_0 written out from Ho et al. 2020, eq. 5 to 8, with betas and products alone."""
    betas = torch.linspace(0.01, 0.3, 6, dtype=F64)
    alphas = 1 - betas
    schedule, model = NoiseSchedule(betas), counted_from_zero(lambda x, t: network(x, t).sample)
    x0 = 0.5 * torch.randn(2, 1, 8, 8, generator=seeded(), dtype=F64)
    found = vlb_terms(schedule, model, x0, variance="beta", generator=seeded(3))
    g = seeded(3)
    for t in (1, 2, 3, 4, 5, 6):
        bar, before = alphas[:t].prod(), alphas[: t - 1].prod()
        eps = torch.randn(x0.shape, generator=g, dtype=F64)
        x_t = bar.sqrt() * x0 + (1 - bar).sqrt() * eps
        predicted = network(x_t, torch.full((2,), t - 1)).sample
        mean = (x_t - betas[t - 1] / (1 - bar).sqrt() * predicted) / alphas[t - 1].sqrt()
        if t == 1:
            nats = ((x0 - mean) ** 2 / (2 * betas[0]) + torch.log(2 * math.pi * betas[0]) / 2).sum((1, 2, 3))
            assert torch.allclose(found.L_0, nats, rtol=1e-11)
            continue
        tilde = (1 - before) / (1 - bar) * betas[t - 1]
        of_x0, of_xt = (before.sqrt() * betas[t - 1] / (1 - bar), alphas[t - 1].sqrt() * (1 - before) / (1 - bar))
        apart = of_x0 * x0 + of_xt * x_t - mean
        ratio = tilde / betas[t - 1]
        kl = ((ratio - 1 - ratio.log()) / 2 + apart**2 / (2 * betas[t - 1])).sum((1, 2, 3))
        assert torch.allclose(found.L_t[:, t - 2], kl, rtol=1e-11)
    bar = alphas.prod()
    L_T = ((bar * x0**2 - bar - torch.log1p(-bar)) / 2).sum((1, 2, 3))
    assert torch.allclose(found.L_T, L_T, rtol=1e-11)


def test_the_ddim_chain_is_equation_12(network):
    """Song, Meng, Ermon 2021, eq. 12 and 16, with cumulative products alone."""
    betas = torch.linspace(0.01, 0.3, 8, dtype=F64)
    bars = [torch.tensor(1.0, dtype=F64), *(1 - betas).cumprod(0)]
    schedule, model = NoiseSchedule(betas), counted_from_zero(lambda x, t: network(x, t).sample)
    x_T = torch.randn(2, 1, 8, 8, generator=seeded(), dtype=F64)
    eta, x, g = 0.3, x_T, seeded(5)
    for t, s in ((8, 5), (5, 2), (2, 0)):
        a, b = bars[t], bars[s]
        eps = network(x, torch.full((2,), t - 1)).sample
        sigma = eta * ((1 - b) / (1 - a)).sqrt() * (1 - a / b).sqrt()
        z = torch.randn(x.shape, generator=g, dtype=F64) if s else 0.0
        x = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b - sigma**2).sqrt() * eps + sigma * z
    with pytest.warns(UserWarning, match="N\\(0, I\\) is not reached"):
        ours = ddim_sample(schedule, model, x_T, [2, 5, 8], eta, generator=seeded(5))
    assert torch.allclose(ours, x, rtol=1e-11, atol=1e-11)
    assert q_posterior(schedule, x_T, x_T, 3).mean.shape == x_T.shape


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr must be False, got True"),
        ({"beta_schedule": "exp"}, "beta_schedule must be 'linear', .* got 'exp'"),
        ({"variance_type": "learned_range"}, "variance_type must be fixed, got 'learned_range'"),
        ({"prediction_type": "flow_prediction"}, "prediction_type must be one of .* got 'flow_prediction'"),
        (None, "scheduler must be one of diffusers or its configuration, got None"),
        ({"num_train_timesteps": 2.5}, "num_train_timesteps must be a whole number, got 2.5"),
        ({"beta_start": "x"}, "beta_start must be a number in .*, got 'x'"),
        ({"beta_end": None}, "beta_end must be a number in .*, got None"),
        ({"trained_betas": "x"}, "trained_betas must be a tensor, array or list of numbers, got 'x'"),
    ],
)
def test_what_has_no_place_here_is_refused_by_name(config, said, network):
    with pytest.raises(ValueError, match=said):
        noise_predictor(network, config)
    if not re.match("variance|prediction", said):
        with pytest.raises(ValueError, match=said):
            schedule_of(config)


def test_only_what_the_book_predicts_is_told(no_shape_checks):
    with pytest.raises(ValueError, match=r"predicts must be one of .* got 'z'"):
        config_of(NoiseSchedule.linear(100), "z")
