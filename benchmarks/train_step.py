"""What a step of training costs beyond its network, how it compares with other U-Nets, and what a second process gives.

    python benchmarks/train_step.py [--batch N] [--rounds N] [--scaling]

The network is that of the preset fashion-cpu, in bfloat16, on Fashion-MNIST's test images. The *bare* step is what
must be done in any case: x_t from a batch that lies ready, forward, backward, clipping, AdamW and the running average.
Beyond it `Trainer.step` takes the batch out of the data, draws times, noise and labels to drop, keeps the losses and
looks at them. Times are processor time, so that other work on the machine does not count. All tasks take turns, and
ratios are taken within a round.

Where diffusers or denoising-diffusion-pytorch is installed, its U-Net does the bare step in the same rounds, at the
width that brings its weights closest to ours in number, and with attention where ours has it, at the lowest resolution.

`--scaling` times `Trainer.step` of one process and of two, one thread each, at the same batch. It needs two idle cores.
"""

import argparse
import copy
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timing import all_rounds
from torch import Tensor, nn

from diffnotes.data import fashion_mnist
from diffnotes.training import distributed
from diffnotes.training.loop import TrainConfig, Trainer, ema_decay, learning_rate
from diffnotes.training.networks import UNet
from diffnotes.training.presets import PRESETS

PRESET = PRESETS["fashion-cpu"]()


def network() -> UNet:
    torch.manual_seed(0)
    net = PRESET.network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert isinstance(net, UNet)
    return net


def config(batch: int) -> TrainConfig:
    return TrainConfig(steps=100_000, batch=batch, warmup=500, label_drop=0.1, bf16=True)


def bare(net: nn.Module, batch: int, predict: Callable[..., Tensor]) -> Callable[[], None]:
    """A step without a trainer: all that is random is drawn beforehand."""
    settings, k = config(batch), 0
    average = copy.deepcopy(net).requires_grad_(False)
    weights, averaged = list(net.parameters()), list(average.parameters())
    optimiser = torch.optim.AdamW(weights, lr=settings.rate, weight_decay=0.0)
    x0, noise = torch.randn(2, batch, 1, 28, 28)
    t, y = torch.randint(1, 1001, (batch,)), torch.randint(0, 11, (batch,))
    a = PRESET.schedule.sqrt_alpha_bars[t].float().reshape(-1, 1, 1, 1)
    b = PRESET.schedule.sqrt_one_minus_alpha_bars[t].float().reshape(-1, 1, 1, 1)

    def step() -> None:
        nonlocal k
        net.train()
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.mse_loss(predict(net, a * x0 + b * noise, t, y), noise)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.param_groups[0]["lr"] = learning_rate(settings, k)
        optimiser.step()
        torch._foreach_lerp_(averaged, weights, 1 - ema_decay(settings, k))
        k += 1

    return step


def closest(make: Callable[[int], nn.Module], wanted: int) -> tuple[nn.Module, int]:
    """Of the widths 8, 12, .. 128 the network that comes closest to so many weights, and its width."""

    def count(width: int) -> int:
        with torch.device("meta"):
            return sum(weights.numel() for weights in make(width).parameters())

    width = min(range(8, 129, 4), key=lambda width: abs(count(width) - wanted))
    return make(width).to(memory_format=torch.channels_last), width  # type: ignore[call-overload]


def peers(wanted: int) -> dict[str, tuple[nn.Module, int, Callable[..., Tensor]]]:
    """Other U-Nets that are installed: by name the network, its width, and how it is called."""
    found: dict[str, tuple[nn.Module, int, Callable[..., Tensor]]] = {}
    if importlib.util.find_spec("diffusers"):
        from diffusers import UNet2DModel

        def diffusers(width: int) -> nn.Module:
            down = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")
            up = ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
            return UNet2DModel(  # type: ignore[no-any-return]
                28,
                1,
                1,
                block_out_channels=(width, 2 * width, 4 * width),
                down_block_types=down,
                up_block_types=up,
                layers_per_block=1,
                norm_num_groups=4,
                num_class_embeds=11,
            )

        found["diffusers"] = *closest(diffusers, wanted), lambda net, x, t, y: net(x, t, y).sample
    if importlib.util.find_spec("denoising_diffusion_pytorch"):
        from denoising_diffusion_pytorch import Unet

        def lucidrains(width: int) -> nn.Module:
            return Unet(width, dim_mults=(1, 2, 4), channels=1, full_attn=(False, False, True))  # type: ignore[no-any-return]

        found["denoising-d."] = *closest(lucidrains, wanted), lambda net, x, t, y: net(x, t)
    return found


def spread(ratios: list[float]) -> str:
    """The median, and between which two numbers the middle half lies."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} (middle half {low:.3f} .. {high:.3f})"


def overhead(batch: int, rounds: int) -> None:
    net = network()
    wanted = sum(weights.numel() for weights in net.parameters())
    trainer = Trainer(PRESET.schedule, network(), tuple(fashion_mnist("test")), config(batch))
    tasks: dict[str, Callable[[], object]] = {
        "bare": bare(net, batch, lambda net, x, t, y: net(x, t, y)),
        "Trainer.step": trainer.step,
        "bare again": bare(network(), batch, lambda net, x, t, y: net(x, t, y)),  # what noise there is
    }
    sizes: dict[str, str] = {}
    for name, (peer, width, call) in peers(wanted).items():
        tasks[name] = bare(peer, batch, call)
        sizes[name] = f"width {width}, {sum(w.numel() for w in peer.parameters()) / 1e6:.2f} million weights"
    threads, version = torch.get_num_threads(), torch.__version__
    print(
        f"torch {version}, {threads} thread(s), batch {batch}, bfloat16, {wanted / 1e6:.2f} million weights"
    )
    print(f"milliseconds a step, and the ratio to bare in the same round; medians of {rounds} rounds\n")
    times = all_rounds(tasks, rounds, time.process_time)
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, times["bare"], strict=True)]
        print(
            f"  {name:<13}{statistics.median(seconds) * 1e3:8.1f}   {spread(ratios)}  {sizes.get(name, '')}"
        )


def worker(batch: int, rounds: int) -> None:
    """What `scaling` starts: prints the median of the seconds that a step takes."""
    torch.set_num_threads(1)
    with distributed.job("cpu"):
        trainer = Trainer(PRESET.schedule, network(), tuple(fashion_mnist("test")), config(batch))
        times = []
        for _ in range(rounds + 2):
            start = time.perf_counter()
            trainer.step()
            times.append(time.perf_counter() - start)
        if distributed.rank() == 0:
            print(statistics.median(times[2:]))


def scaling(batch: int, rounds: int) -> None:
    times: dict[int, list[float]] = {1: [], 2: []}
    for n in (1, 2, 1, 2):
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
        command = [*run, __file__, "--worker", "--batch", str(batch), "--rounds", str(rounds)]
        shown: Any = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        times[n].append(float(shown))
    for n, seconds in times.items():
        print(f"  {n} process(es): {' and '.join(f'{s * 1e3:.0f}' for s in seconds)} ms a step")
    print(
        f"  two are {min(times[1]) / min(times[2]):.2f} times as fast as one, at the better of two runs each"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    work = worker if arguments.worker else scaling if arguments.scaling else overhead
    work(arguments.batch, arguments.rounds)


if __name__ == "__main__":
    main()
