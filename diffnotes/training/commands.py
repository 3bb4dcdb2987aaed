"""Train the networks of this book, draw samples from them, evaluate them. Add --help to a command to list its options.

    python -m diffnotes train --preset fashion-cpu --folder run --out weights.safetensors
    python -m diffnotes sample weights.safetensors --classes 0 1 2 3 4 5 6 7 8 9 --out grid.png
    python -m diffnotes evaluate weights.safetensors --count 1000 --every 27

Under `torchrun --nproc-per-node N -m diffnotes ...`, N processes do the same, each on its own GPU if there are GPUs.
"""

import argparse
import dataclasses
import io
import json
import math
import shlex
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from diffnotes.arguments import whole
from diffnotes.data import cifar10, fashion_mnist
from diffnotes.metrics import frechet_distance
from diffnotes.reverse import Variance
from diffnotes.schedule import Spacing
from diffnotes.training import distributed, run
from diffnotes.training.checkpoint import check_target, load_model, write_file
from diffnotes.training.classifier import load_classifier, predict
from diffnotes.training.loop import TrainConfig
from diffnotes.training.networks import MLP, Network
from diffnotes.training.options import Parser, at_least, finite, folder, one_line, seed
from diffnotes.training.presets import PRESETS
from diffnotes.training.watch import png

BY_CHANNELS: dict[int, tuple[Callable[..., Any], int]] = {1: (fashion_mnist, 28), 3: (cifar10, 32)}


def train(arguments: Namespace, device: torch.device, command: str) -> None:
    """Train the network of a preset."""
    preset = PRESETS[arguments.preset]()
    if arguments.save_every is not None and arguments.folder is None:
        raise ValueError(f"save_every must be left out without a folder, got {arguments.save_every}")
    config = dataclasses.replace(preset.config, **_given(arguments, TrainConfig))
    try:
        where = {"folder": arguments.folder, "data": arguments.data, "grid_every": arguments.grid_every}
        loss = run.train_preset(preset, config, arguments.out, device=device, command=command, progress=True, **where)
    except KeyboardInterrupt as stop:
        if arguments.folder is None:
            raise
        raise KeyboardInterrupt(f"the same command goes on from the last checkpoint in {arguments.folder}") from stop
    if distributed.rank() == 0:
        print(f"{arguments.out}: loss {loss:.4f} over the last eighth of {config.steps} steps")


def sample(arguments: Namespace, device: torch.device, command: str) -> None:
    """Draw samples, and save them as a picture or as an array."""
    for path in arguments.out if distributed.rank() == 0 else ():
        check_target(path, ".png", ".npz")
    net, schedule, _ = load_model(arguments.weights, device)
    shape = _shape(net)
    if len(shape) != 3 and any(path.suffix == ".png" for path in arguments.out):
        raise ValueError(f"out must be an .npz file: samples of shape {shape} are not images")
    x = run.samples(schedule, net, arguments.count, shape, progress=True, **_how(arguments, net))
    classes = arguments.classes or ()
    for path in arguments.out if distributed.rank() == 0 else ():
        if path.suffix == ".png":
            write_file(path, png(x, len(classes) or math.ceil(math.sqrt(len(x)))))
        else:
            content = io.BytesIO()
            np.savez_compressed(content, x=x.numpy(), y=run.labels(len(x), classes).numpy())
            write_file(path, content.getvalue())
        print(f"{path}: {len(x)} samples")


def _given(arguments: Namespace, kind: type[TrainConfig] | type[run.Sampling]) -> dict[str, Any]:
    """The fields of `kind` that the command line sets."""
    values = {field.name: getattr(arguments, field.name, None) for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if value is not None}


def _how(arguments: Namespace, net: Network) -> dict[str, Any]:
    """The options of `run.Sampling`; images are clipped."""
    return {**_given(arguments, run.Sampling), "clip": 1.0 if len(_shape(net)) == 3 else None}


def evaluate(arguments: Namespace, device: torch.device, command: str) -> None:
    """Print as JSON the bits per dimension of test images, with a standard error, and the terms of the bound.

    With --frechet N, also the Fréchet distance between N samples and the test images, in the features of the shipped
    classifier; with --classes, also the share of samples that it assigns to the requested class.
    """
    for name, value in _given(arguments, run.Sampling).items():
        if not arguments.frechet and name not in ("seed", "batch"):  # which the likelihood takes, too
            raise ValueError(f"{name} must be left out without --frechet, as no samples are drawn, got {value}")
    net, schedule, _ = load_model(arguments.weights, device)
    if len(_shape(net)) != 3:
        raise ValueError(f"weights must belong to a network for images, got an {type(net).__name__}")
    load, _ = BY_CHANNELS[_shape(net)[0]]
    if arguments.frechet and load is not fashion_mnist:
        raise ValueError("frechet must be left out except for Fashion-MNIST, the only data set with a classifier")
    if arguments.frechet:  # fail now, not after hours
        run.Sampling(**_how(arguments, net)).checked(schedule, net)
    if arguments.data is not None and load is fashion_mnist:
        raise ValueError(f"data must be left out for Fashion-MNIST, whose test images ship, got {arguments.data}")
    if arguments.conditional and not net.classes:
        raise ValueError("conditional must be left out for a network without classes")
    whole("every", arguments.every, 1, schedule.T)
    with distributed.first_here():
        real, y = load("test", folder=arguments.data)
    if arguments.count is not None and arguments.count > len(real):
        raise ValueError(f"count must be at most {len(real)}, the number of test images, got {arguments.count}")
    x = real[: arguments.count]
    given = y[: arguments.count] if arguments.conditional else None
    how = {"variance": arguments.variance, "every": arguments.every, "seed": arguments.seed}
    found = run.likelihood(schedule, net, x, given, **how, batch=arguments.batch, progress=True)
    report: dict[str, Any] = {
        "weights": str(arguments.weights),
        "data": f"{load.__name__}, test",
        "images": len(x),
        "conditional": arguments.conditional,
        **how,
        **{name: round(value, 6) for name, value in found.items()},
    }
    try:
        if arguments.frechet:
            drawn = run.samples(schedule, net, arguments.frechet, _shape(net), progress=True, **_how(arguments, net))
            report["frechet"] = _compared(drawn, real, arguments.classes) if distributed.rank() == 0 else None
    finally:  # whatever happens to the samples, the likelihood is reported
        if distributed.rank() == 0:
            print(json.dumps(report))


def _compared(x: Tensor, real: Tensor, classes: Sequence[int] | None) -> dict[str, Any]:
    """How far samples are from real images, and how many show the class they were asked for."""
    classifier, _ = load_classifier("fashion_classifier")
    found = frechet_distance(x, real, classifier.features)
    report = {"samples": len(x), "distance": round(found.value, 6), "stderr": round(found.stderr, 6)}
    if classes:
        right = predict(classifier, x) == run.labels(len(x), classes)
        report["agreement"] = round(float(right.double().mean()), 6)
    return report


def _shape(net: Network) -> tuple[int, ...]:
    """The shape of an example: a point, or an image of this book's data set with that many channels."""
    if isinstance(net, MLP):
        return (net.dim,)
    channels: int = net.config["channels"]
    if channels not in BY_CHANNELS:
        raise ValueError(f"weights must belong to a network for images with 1 or 3 channels, got {channels}")
    return (channels, *2 * (BY_CHANNELS[channels][1],))


def _eta(text: str) -> Any:
    return text if text == "sigma_hat" else finite(text)


def parser() -> ArgumentParser:
    """The three commands and their options."""
    both = Parser(prog="python -m diffnotes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = both.add_subparsers(dest="what", required=True)
    for what, add_options in ((train, _train_options), (sample, _sample_options), (evaluate, _evaluate_options)):
        sub = commands.add_parser(what.__name__, help=str(what.__doc__).split("\n")[0], description=what.__doc__)
        sub.set_defaults(work=what)
        usual = "cuda" if torch.cuda.is_available() else "cpu"
        sub.add_argument("--device", default=usual, help=f"where to compute: cpu or cuda (default: {usual})")
        add_options(sub)
    return both


def _train_options(sub: ArgumentParser) -> None:
    sub.add_argument("--preset", choices=sorted(PRESETS), required=True, help="the network, its data and the settings")
    sub.add_argument("--out", type=Path, required=True, help="the weights file to write (.safetensors)")
    saved = "save checkpoints, metrics and pictures here, and resume from here (default: none are saved)"
    sub.add_argument("--folder", type=folder, help=saved)
    sub.add_argument("--data", type=folder, help="the folder where the images are, or are downloaded to")
    pictures = "save a picture of samples every GRID_EVERY steps (needs --folder)"
    sub.add_argument("--grid-every", type=at_least(1), help=pictures)
    group = sub.add_argument_group("settings that override the preset")
    group.add_argument("--steps", type=at_least(1), help="the number of training steps")
    group.add_argument("--batch", type=at_least(1), help="examples per step")
    group.add_argument("--accumulate", type=at_least(1), help="split each batch into this many parts, to save memory")
    group.add_argument("--save-every", type=at_least(1), help="steps between checkpoints")
    group.add_argument("--warmup", type=at_least(0), help="steps in which the learning rate rises")
    group.add_argument("--seed", type=seed, help="the seed of all random numbers")
    group.add_argument("--bf16", action=BooleanOptionalAction, help="run the network in bfloat16")
    group.add_argument("--compile", action=BooleanOptionalAction, help="run the network through torch.compile")


def _sample_options(sub: ArgumentParser) -> None:
    sub.add_argument("--out", type=Path, nargs="+", required=True, help="a .png file, an .npz file, or both")
    sub.add_argument("--count", type=at_least(1), default=100, help="the number of samples (default 100)")
    _sampling_options(sub, "sampling")


def _sampling_options(sub: ArgumentParser, title: str) -> None:
    sub.add_argument("weights", type=Path, help="a file, or the name of weights that ship with the package")
    sub.add_argument("--seed", type=seed, default=0, help="the seed of all random numbers (default 0)")
    sub.add_argument("--batch", type=at_least(1), default=50, help="images per batch (default 50)")
    group = sub.add_argument_group(title)
    group.add_argument("--sampler", choices=get_args(run.Sampler), help="2m is DPM-Solver++(2M) (default ddim)")
    group.add_argument("--steps", type=at_least(1), help="how many steps (default: 50 for ddim, 20 for 2m, T for ddpm)")
    spacing = "how the steps are chosen from 1..T (default trailing)"
    group.add_argument("--spacing", choices=get_args(Spacing), help=spacing)
    group.add_argument("--eta", type=_eta, help="the noise of ddim: in [0, 1], or sigma_hat (default 0)")
    group.add_argument("--classes", type=at_least(0), nargs="+", help="draw these classes in turn (default: none)")
    group.add_argument("--guidance", type=finite, help="the scale w of guidance (default 0: none)")
    group.add_argument("--bf16", action=BooleanOptionalAction, help="run the network in bfloat16")


def _evaluate_options(sub: ArgumentParser) -> None:
    sub.add_argument("--data", type=folder, help="the folder where CIFAR-10 is, or is downloaded to")
    sub.add_argument("--count", type=at_least(1), help="use the first COUNT test images (default: all)")
    terms = "estimate the bound from about 2/EVERY of its terms, unbiased (default 1: compute all)"
    sub.add_argument("--every", type=at_least(1), default=1, help=terms)
    variance = "the variance of the reverse steps (default posterior)"
    sub.add_argument("--variance", choices=get_args(Variance), default="posterior", help=variance)
    sub.add_argument("--conditional", action="store_true", help="give the network the labels")
    sub.add_argument("--frechet", type=at_least(2), help="compare this many samples with the images (default: none)")
    _sampling_options(sub, "sampling, for --frechet")


def main(argv: list[str]) -> None:
    """Run the command line; an error becomes one line on stderr, see `options.one_line`."""
    with one_line("diffnotes"):
        arguments = parser().parse_args(argv)
        with distributed.job(arguments.device) as device:
            arguments.work(arguments, device, shlex.join(["python", "-m", "diffnotes", *argv]))
