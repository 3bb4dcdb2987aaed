"""What is timed, and against what: jumps and training steps, the bare operations that they come to, and diffusers'."""

import importlib
import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from diffnotes.ddim import ddim_sample
from diffnotes.forward import q_sample
from diffnotes.reverse import ddpm_sample
from diffnotes.schedule import NoiseSchedule
from diffnotes.training.networks import Network
from diffnotes.training.presets import Preset

Task = Callable[[], Any]
Name = TypeVar("Name", bound=Hashable)


def in_turns(tasks: Mapping[Name, Task], rounds: int, seconds: float = 60.0) -> dict[Name, list[float]]:
    """The seconds of each task in each round, in which all take their turn, after a call of each to warm up.

    A slow spell of the machine hits all alike, so two times of one round can be compared. On one thread without a GPU
    they are processor time, which leaves out what others did meanwhile. After so many seconds there is no new round.
    """
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    clock, end = time.process_time if alone else time.perf_counter, time.monotonic() + seconds
    for task in tasks.values():
        task()
    times: dict[Name, list[float]] = {name: [] for name in tasks}
    for k in range(rounds):
        if k > 1 and time.monotonic() > end:
            break
        for name, task in tasks.items():
            start = clock()
            task()
            times[name].append(clock() - start)
    return times


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def jumps(kind: str, x_T: Tensor, eps: Tensor, steps: int, theirs: bool) -> dict[str, Task]:
    """Whole runs of a "DDIM" (eta = 0) or "DDPM" sampler at T = 1000, with a free model, which always returns `eps`.

    diffusers' scheduler (`theirs`) is called as its documentation shows, and in the cheapest way that it allows.
    """
    schedule, sample = NoiseSchedule.linear(1000), ddim_sample if kind == "DDIM" else ddpm_sample

    @torch.no_grad()
    def bare() -> Tensor:
        x = x_T
        for _ in range(steps):
            x = (0.999 * x).add_(eps, alpha=0.001)  # into a new tensor: x_t belongs to the model
            if kind == "DDPM":
                x.add_(torch.randn(x.shape, device=x.device), alpha=0.01)
        return x

    def diffusers(documented: bool) -> Tensor:
        scheduler.set_timesteps(steps)
        x = x_T
        for t in scheduler.timesteps if documented else scheduler.timesteps.tolist():
            found = scheduler.step(eps, t, x, return_dict=documented)
            x = found.prev_sample if documented else found[0]
        return x

    tasks: dict[str, Task] = {"bare": bare}
    tasks["diffnotes"] = partial(sample, schedule, lambda x, t: eps, x_T, steps=steps)
    if theirs:
        of_kind = getattr(importlib.import_module("diffusers"), f"{kind}Scheduler")
        scheduler = of_kind(1000, 1e-4, 0.02, clip_sample=False, timestep_spacing="trailing")
        tasks["diffusers"] = partial(diffusers, True)
        tasks["diffusers, cheapest call"] = partial(diffusers, False)
    return tasks


def bare_step(preset: Preset, net: nn.Module, call: Callable[..., Tensor], device: str = "cpu", **adam: Any) -> Task:
    """What a step of training must do in any case: forward, backward, clipping, AdamW and the average of the weights.

    All that is random is drawn beforehand. `call(x_t, t, y)` asks the network.
    """
    config, schedule, weights = preset.config, preset.schedule.to(device), list(net.parameters())
    averaged, average = [value.detach().clone() for value in weights], get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
    optimiser = torch.optim.AdamW(weights, lr=config.rate, weight_decay=config.weight_decay, **adam)
    x0, noise = torch.randn(2, config.batch, *(preset.shape or ()), device=device)
    t = torch.randint(1, schedule.T + 1, (config.batch,), device=device)
    y = torch.randint(0, 11, (config.batch,), device=device)

    def step() -> None:
        net.train()
        optimiser.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            loss = F.mse_loss(call(q_sample(schedule, x0, t, noise), t, y), noise)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        average(averaged, weights, None)  # under no_grad, as torch has it

    return step


def their_network(ours: Network, side: int) -> Any:
    """diffusers' U-Net with the levels and blocks of `ours`, and nearly as many weights."""
    config, multipliers, levels = ours.config, ours.config["multipliers"], len(ours.config["multipliers"])

    def make(width: int) -> Any:
        return importlib.import_module("diffusers").UNet2DModel(
            side,
            config["channels"],
            config["channels"],
            block_out_channels=[width * m for m in multipliers],
            down_block_types=["DownBlock2D"] * levels,
            up_block_types=["UpBlock2D"] * levels,
            layers_per_block=config["blocks"],
            attention_head_dim=math.gcd(width * multipliers[-1], 64),
            norm_num_groups=4,
            dropout=config["dropout"],
            num_class_embeds=11,
        )

    def off(width: int) -> int:
        with torch.device("meta"):
            return abs(weights_of(make(width)) - weights_of(ours))

    return make(min(range(4, 257, 4), key=off))


def weights_of(net: nn.Module) -> int:
    """How many weights a network has."""
    return sum(value.numel() for value in net.parameters())
