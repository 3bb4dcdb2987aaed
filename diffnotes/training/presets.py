"""The training runs of this book, by name.

A preset is everything that decides the result: on one machine, the weights are a function of it alone.

>>> sorted(PRESETS)
['cifar10-gpu', 'fashion-cpu', 'fashion-gpu', 'swiss-roll']
>>> PRESETS["fashion-cpu"]().network().config["width"]
24
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffnotes.data import Images, cifar10, fashion_mnist, swiss_roll, to_bytes
from diffnotes.schedule import NoiseSchedule
from diffnotes.training.loop import Shuffled, TrainConfig
from diffnotes.training.networks import MLP, Network, UNet


@dataclass(frozen=True)
class Preset:
    """One run: a schedule, a network, the data and their name, the settings, and the dtype of the stored weights."""

    schedule: NoiseSchedule
    network: Callable[[], Network]
    data: Callable[[Path | None], Any]  # from their folder; None: the usual places
    data_name: str
    config: TrainConfig
    dtype: torch.dtype = torch.float32
    shape: tuple[int, ...] | None = None  # of an image, if the data are images


def _swiss_roll() -> Preset:
    """For chapter 2's figure. The betas grow by one factor per step, so that at T/2 the roll is still visible.

    (With the linear schedule alpha_bar is 0.08 there, and the middle column looks like the last.)
    """
    schedule = NoiseSchedule(torch.logspace(math.log10(1e-5), math.log10(0.06), 1000, dtype=torch.float64))
    config = TrainConfig(steps=4000, batch=1024, rate=3e-3, warmup=100)
    return Preset(schedule, lambda: MLP(dim=2, T=1000), lambda folder: swiss_roll, "diffnotes.data.swiss_roll", config)


def _fashion_cpu() -> Preset:
    """Chapter 5's network: 1.1 million weights, 13 epochs, about 90 minutes on one CPU core."""
    config = TrainConfig(steps=12_000, batch=64, rate=1e-3, warmup=500, label_drop=0.1, bf16=True, save_every=500)
    return Preset(
        NoiseSchedule.linear(T=1000),
        lambda: UNet(channels=1, T=1000, width=24, classes=10),
        lambda folder: fashion_mnist("train", folder=folder, progress=True),
        "diffnotes.data.fashion_mnist",
        config,
        torch.float16,
        (1, 28, 28),
    )


def _fashion_gpu() -> Preset:
    """The same with 12 million weights and 170 epochs; its weights do not ship with the package."""
    config = TrainConfig(
        steps=40_000, batch=256, rate=4e-4, warmup=1000, label_drop=0.1, ema=0.9995, bf16=True, save_every=2000
    )
    return Preset(
        NoiseSchedule.linear(T=1000),
        lambda: UNet(channels=1, T=1000, width=64, blocks=2, classes=10, dropout=0.1),
        lambda folder: _in_bytes(fashion_mnist("train", folder=folder, progress=True)),
        "diffnotes.data.fashion_mnist",
        config,
        shape=(1, 28, 28),
    )


def _cifar10_gpu() -> Preset:
    """After Ho et al. 2020, appendix B: their width, blocks, dropout, flips, batch, rate and steps, with labels added.

    28 million weights to their 36: they have one more block on the way up, and attention at 16 x 16, not at 4 x 4.
    """
    config = TrainConfig(
        steps=800_000, rate=2e-4, warmup=5000, decay="constant", label_drop=0.1, ema=0.9999, bf16=True, save_every=5000
    )
    return Preset(
        NoiseSchedule.linear(T=1000),
        lambda: UNet(channels=3, T=1000, width=128, multipliers=(1, 2, 2, 2), blocks=2, classes=10, dropout=0.1),
        lambda folder: _in_bytes(cifar10("train", folder=folder, progress=True), flip=True),
        "diffnotes.data.cifar10",
        config,
        shape=(3, 32, 32),
    )


def _in_bytes(images: Images, flip: bool = False) -> Shuffled:
    """The images as bytes, which take a quarter of the memory and copying; the trainer scales them back to [-1, 1]."""
    return Shuffled(to_bytes(images.x), images.y, flip=flip)


PRESETS: dict[str, Callable[[], Preset]] = {
    "cifar10-gpu": _cifar10_gpu,
    "fashion-cpu": _fashion_cpu,
    "fashion-gpu": _fashion_gpu,
    "swiss-roll": _swiss_roll,
}
