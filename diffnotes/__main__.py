"""`python -m diffnotes train --preset swiss-roll`: the training runs of this book, each by its name.

A preset is everything that decides the result. The weights it makes are a function of it alone, on one machine.
"""

import argparse
import dataclasses
import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffnotes.data import fashion_mnist, swiss_roll
from diffnotes.nets import MLP, Network, UNet
from diffnotes.schedule import NoiseSchedule
from diffnotes.train import TrainConfig, fit, save_model


@dataclass(frozen=True)
class Preset:
    """One run: a schedule, a network for it, the data and their name, the settings, how the weights are stored."""

    schedule: NoiseSchedule
    network: Callable[[], Network]
    data: Callable[[], Any]
    data_name: str
    config: TrainConfig
    dtype: torch.dtype = torch.float32


def _swiss_roll() -> Preset:
    """Chapter 2's figure. The betas grow by one factor a step, so that at T/2 the roll can still be made out.

    (With the linear schedule alpha_bar is 0.08 there, and the middle column looks like the last.)
    """
    schedule = NoiseSchedule(torch.logspace(math.log10(1e-5), math.log10(0.06), 1000, dtype=torch.float64))
    config = TrainConfig(steps=4000, batch=1024, rate=3e-3, warmup=100)
    return Preset(
        schedule, lambda: MLP(dim=2, T=1000), lambda: swiss_roll, "diffnotes.data.swiss_roll", config
    )


def _fashion_cpu() -> Preset:
    """Chapter 5's network: 1.1 million weights, 13 times over the training set, about 90 minutes on one CPU core."""
    config = TrainConfig(
        steps=12_000, batch=64, rate=1e-3, warmup=500, label_drop=0.1, bf16=True, save_every=500
    )
    return Preset(
        NoiseSchedule.linear(T=1000),
        lambda: UNet(channels=1, T=1000, width=24, classes=10),
        lambda: fashion_mnist("train", progress=True),
        "diffnotes.data.fashion_mnist",
        config,
        torch.float16,
    )


PRESETS: dict[str, Callable[[], Preset]] = {"fashion-cpu": _fashion_cpu, "swiss-roll": _swiss_roll}


def train(arguments: argparse.Namespace, command: str) -> None:
    """Run a preset, with checkpoints to resume from if a folder is given, and write the averaged weights."""
    preset = PRESETS[arguments.preset]()
    changes = {
        name: getattr(arguments, name) for name in ("steps", "seed") if getattr(arguments, name) is not None
    }
    config = dataclasses.replace(preset.config, **changes)
    torch.manual_seed(config.seed)  # of the first weights
    model = preset.network().to(arguments.device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = fit(preset.schedule, model, preset.data(), config, folder=arguments.folder, progress=True)
    loss = round(float(trained.losses[-config.steps // 8 :].mean()), 5)
    provenance = {
        "command": command,
        "data": preset.data_name,
        "schedule": repr(preset.schedule),
        "settings": dataclasses.asdict(config),
        "loss": loss,
        "loss is": "the mean over the last eighth of the training steps",
        "torch": str(torch.__version__).split("+")[0],
    }
    save_model(arguments.out, trained.ema, preset.schedule, provenance, preset.dtype)
    print(f"{arguments.out}: loss {loss:.4f} over the last eighth of {config.steps} steps")


def main(argv: list[str]) -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m diffnotes", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    sub = commands.add_parser("train", help="train a network and write its weights")
    sub.add_argument("--preset", choices=sorted(PRESETS), required=True)
    sub.add_argument("--out", type=Path, required=True, help="the weights file to write (.safetensors)")
    sub.add_argument("--folder", type=Path, help="where checkpoints go; a stopped run goes on from there")
    sub.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    sub.add_argument("--steps", type=int, help="instead of the preset's")
    sub.add_argument("--seed", type=int, help="instead of the preset's")
    train(parser.parse_args(argv), shlex.join(["python", "-m", "diffnotes", *argv]))


if __name__ == "__main__":
    main(sys.argv[1:])
