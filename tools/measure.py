"""Measure what takes too long for a notebook, and save it in diffnotes/measured, where the chapters read it.

`python tools/measure.py images` writes images.json, the numbers for chapters 5 and 6, from the weights that ship with
the package: about three hours on one CPU core. The entries are measured one by one, each with its seed, its size and
the seconds it took. The file is rewritten after every entry, so a stopped run resumes; entries for other weights or
another size are measured again. The nearest training images, for which the training set is needed, go into images.npz
beside it. `--only REGEX` measures the entries with matching names, `--n` is the number of images per entry.

`python tools/measure.py curve --run runs/fashion-cpu` writes curve.json: the loss of a training run, from its last
checkpoint.
"""

import hashlib
import json
import re
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from diffnotes.data import fashion_mnist, to_bytes
from diffnotes.ddim import Eta, ddim_encode, ddim_sample
from diffnotes.guidance import guided
from diffnotes.metrics import Estimate, frechet_distance
from diffnotes.objective import vlb_terms
from diffnotes.schedule import NoisePredictor, NoiseSchedule, Spacing
from diffnotes.training.checkpoint import (
    SHIPPED,
    TORCH,
    list_checkpoints,
    load_model,
    read_checkpoint,
    write_file,
)
from diffnotes.training.classifier import Classifier, accuracy, load_classifier, predict
from diffnotes.training.networks import Network
from diffnotes.training.options import Parser, at_least, one_line

FOLDER = SHIPPED.parent / "measured"
WEIGHTS = ("fashion", "fashion_classifier")
COMMAND = "python tools/measure.py images"

HELD_OUT = 1000  # the first test images, for the floor; samples are compared with the other 9,000
CHUNK = 100  # images sampled together; chunk k has the seed SEED + k, so all entries share their x_T
SEED = 0
ETAS: tuple[Eta, ...] = (0.0, 0.2, 0.5, 1.0, "sigma_hat")
FEW = (10, 20, 50, 100)  # numbers of steps for all of them
ALL: tuple[Eta, ...] = (0.0, 1.0)  # for the long runs with all 1000 steps: 40 minutes each
CLIP = 1.0  # the predicted x_0 is clamped to the range of the pixels, and eps derived from it anew
SCALES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
STRIDES = (10, 20, 50, 100, 200, 500, 1000)
NEAR_DATA, FURTHER = 20, 60  # terms of the bound: all of t = 2 .. 20, and 60 of the others at random

Measured = dict[str, Any]


class Tools(NamedTuple):
    """The two networks, the real images, and the features of the reference images."""

    net: Network
    schedule: NoiseSchedule
    classifier: Classifier
    x: Tensor
    y: Tensor
    reference: Tensor


def load() -> Tools:
    """Everything that a measurement needs, from the package."""
    net, schedule, _ = load_model(WEIGHTS[0])
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    classifier, _ = load_classifier(WEIGHTS[1])
    x, y = fashion_mnist("test")
    return Tools(net, schedule, classifier, x, y, features(classifier, x[HELD_OUT:]))


@torch.no_grad()
def features(classifier: Classifier, x: Tensor) -> Tensor:
    """The features of images, 500 at a time, shape (n, 64)."""
    return torch.cat([classifier.features(part) for part in torch.split(x, 500)])


# ---- samples ----------------------------------------------------------------------------------------------------


def sample(
    tools: Tools,
    n: int,
    steps: int,
    eta: Eta,
    spacing: Spacing,
    scale: float = 0,
    bf16: bool = True,
    clip: float | None = CLIP,
) -> tuple[Tensor, Tensor]:
    """n images and the classes requested of them: 0, 1, .., 9, 0, 1 and so on.

    The network runs in bfloat16 under autocast, as it was trained, or in float32.
    """
    images, classes = [], []
    for k in range(-(-n // CHUNK)):
        generator = Generator().manual_seed(SEED + k)
        x_T = torch.randn(CHUNK, 1, 28, 28, generator=generator)[: n - k * CHUNK]
        y = torch.arange(len(x_T)) % 10
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            model: NoisePredictor = guided(tools.net, y, scale)
            x = ddim_sample(
                tools.schedule, model, x_T, steps, eta, spacing=spacing, generator=generator, clip=clip
            )
        images.append(x)
        classes.append(y)
    return torch.cat(images), torch.cat(classes)


def sampled(
    tools: Tools,
    n: int,
    steps: int,
    eta: Eta,
    spacing: Spacing = "linspace",
    scale: float = 0,
    bf16: bool = True,
    clip: float | None = CLIP,
    with_width: bool = False,
) -> Measured:
    """The Fréchet distance between samples and the reference, and the share classified as requested."""
    x, y = sample(tools, n, steps, eta, spacing, scale, bf16, clip)
    of = features(tools.classifier, x)
    right = (predict(tools.classifier, x) == y).double()
    return {
        "steps": steps,
        "eta": eta,
        "spacing": spacing,
        "scale": scale,
        "clip": clip,
        "dtype": "bfloat16" if bf16 else "float32",
        "frechet": _rounded(frechet_distance(of, tools.reference)),
        "agreement": _rounded(_mean(right)),
    } | ({"width": _rounded(width(of, y))} if with_width else {})


def real_width(tools: Tools, n: int) -> Measured:
    """The width of the classes for as many real images as there are samples."""
    n = min(n, HELD_OUT)
    return {"n": n, "width": _rounded(width(features(tools.classifier, tools.x[:n]), tools.y[:n]))}


def width(of: Tensor, y: Tensor) -> Estimate:
    """The width of the classes: the root mean square distance of features from the mean of their own class.

    Each square is multiplied by n / (n - 1), where n is the size of the class, so that the mean is unbiased.
    """
    squares = torch.cat(
        [
            (own - own.mean(0)).square().sum(1) * len(own) / (len(own) - 1)
            for own in (of[y == k].double() for k in range(10))
            if len(own) > 1
        ]
    )
    square = _mean(squares)
    root = square.value**0.5
    return Estimate(root, square.stderr / (2 * root))


# ---- the other measurements ---------------------------------------------------------------------------------------


def floor(tools: Tools, n: int) -> Measured:
    """The Fréchet distance between real images and the reference, at the sizes used for samples."""
    real = features(tools.classifier, tools.x[: min(n, HELD_OUT)])
    return {"n": len(real), "frechet": _rounded(frechet_distance(real, tools.reference))}


def classifier_accuracy(tools: Tools, n: int) -> Measured:
    """The share of all test images that are classified correctly."""
    return {"n": len(tools.x), "accuracy": accuracy(tools.classifier, fashion_mnist("test"))}


def bits(tools: Tools, n: int) -> Measured:
    """The variational bound of n real images without their labels, in bits per dimension, in float32.

    The terms near the data are large and differ from one t to the next, so all of t = 2 .. 20 are computed. Of the
    others, a new random set in each chunk represents all, without bias: see (img-levels-drawn) in chapter 5.
    """
    generator = Generator().manual_seed(SEED)
    T, unit = tools.schedule.T, 1 / (28 * 28 * np.log(2))
    near, totals, firsts, ends = range(2, NEAR_DATA + 1), [], [], []
    sums, counts = torch.zeros(T + 1).double(), torch.zeros(T + 1)
    for x0 in torch.split(tools.x[:n], 20):
        far = (torch.randperm(T - NEAR_DATA, generator=generator)[:FURTHER] + NEAR_DATA + 1).tolist()
        ts = [*near, *far]
        terms = vlb_terms(tools.schedule, tools.net, x0, decoder="discrete", ts=ts, generator=generator)
        steps = terms.L_t * unit
        part = steps[:, : len(near)].sum(1) + (T - NEAR_DATA) * steps[:, len(near) :].mean(1)
        totals.append(terms.L_T * unit + part + terms.L_0 * unit)
        firsts.append(terms.L_0 * unit)
        ends.append(terms.L_T * unit)
        sums[ts] += steps.sum(0)
        counts[ts] += len(x0)
    seen = counts > 0
    return {
        "bits_per_dim": _rounded(_mean(torch.cat(totals))),
        "L_0": _rounded(_mean(torch.cat(firsts))),
        "L_T": float(f"{torch.cat(ends).mean():.4g}"),
        "t": seen.nonzero().flatten().tolist(),
        "L_t": [float(f"{v:.3g}") for v in (sums / counts)[seen].tolist()],
    }


def round_trip(tools: Tools, n: int, steps: int) -> Measured:
    """The mean squared error per pixel, for pixels in [0, 1], of real images encoded and decoded in `steps` steps."""
    n = max(2, n // 20)
    x, y = tools.x[:n], tools.y[:n]
    model = guided(tools.net, y)
    code = ddim_encode(tools.schedule, model, x, steps)
    back = ddim_sample(tools.schedule, model, code, steps)
    error = ((back - x) / 2).square().flatten(1).mean(1).double()
    spread = code.flatten(1).double()
    return {
        "n": n,
        "steps": steps,
        "error": _rounded(_mean(error)),
        "code_mean": round(float(spread.mean()), 3),
        "code_std": round(float(spread.std()), 3),
    }


def neighbours(tools: Tools, n: int, path: Path) -> Measured:
    """Distances from samples, and from test images, to the nearest training images; ten of the pairs as pictures."""
    n = min(n, 500)
    train = fashion_mnist("train").x
    of_train = features(tools.classifier, train)
    samples, _ = sample(tools, n, 20, 0.0, "trailing")
    samples = samples.clamp(-1, 1)
    out, kept = {}, {"samples": samples[:10]}
    for name, x in (("samples", samples), ("test", tools.x[:n])):
        pixel, at_pixel = _nearest(x.flatten(1), train.flatten(1))
        feature, at_feature = _nearest(features(tools.classifier, x), of_train)
        pixel = pixel / 2 / 28  # root mean square per pixel, for pixels in [0, 1]
        kept |= {f"{name}_pixel_distance": pixel, f"{name}_feature_distance": feature}
        if name == "samples":
            kept |= {"by_pixel": train[at_pixel[:10]], "by_feature": train[at_feature[:10]]}
        quartiles = torch.tensor([0.0, 0.25, 0.5, 0.75])
        out[name] = {
            "pixel_quartiles": [round(v, 4) for v in pixel.quantile(quartiles).tolist()],
            "feature_quartiles": [round(v, 3) for v in feature.quantile(quartiles).tolist()],
        }
    arrays = {
        key: value.numpy().astype(np.float16) if value.ndim == 1 else to_bytes(value).numpy()
        for key, value in kept.items()
    }
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return {"n": n, "training_images": len(train), "steps": 20, "eta": 0.0, "quartiles": "0, 1, 2, 3", **out}


def _nearest(x: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """The distance from each point to the nearest one in `train`, and the index of that one."""
    found = [torch.cdist(part, train).min(1) for part in torch.split(x, 50)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def _mean(values: Tensor) -> Estimate:
    return Estimate(float(values.mean()), float(values.std() / len(values) ** 0.5))


def _rounded(estimate: Estimate) -> list[float]:
    """Value and standard error to six digits, more than another machine would reproduce."""
    return [float(f"{number:.6g}") for number in estimate]


# ---- the file ---------------------------------------------------------------------------------------------------


def entries(folder: Path) -> dict[str, Callable[[Tools, int], Measured]]:
    """Every measurement by name, quick ones first."""

    def cell(steps: int, eta: Eta, **more: Any) -> Callable[[Tools, int], Measured]:
        return partial(sampled, steps=steps, eta=eta, **more)

    found: dict[str, Callable[[Tools, int], Measured]] = {
        "accuracy": classifier_accuracy,
        "floor": floor,
        "width": real_width,
        "live/float32": lambda tools, n: {"n": CHUNK, **sampled(tools, CHUNK, 10, 0.0, bf16=False)},
        "live/bfloat16": lambda tools, n: {"n": CHUNK, **sampled(tools, CHUNK, 10, 0.0)},
        "neighbours": lambda tools, n: neighbours(tools, n, folder / "images.npz"),
    }
    found |= {f"sample/{steps}/{eta}": cell(steps, eta) for steps in FEW for eta in ETAS}
    for steps in FEW[:2]:
        found[f"trailing/{steps}/0.0"] = cell(steps, 0.0, spacing="trailing")
        found[f"trailing/{steps}/sigma_hat"] = cell(steps, "sigma_hat", spacing="trailing")
    for eta in (0.0, 1.0):
        found[f"unclamped/50/{eta}"] = cell(50, eta, clip=None)
    # with the defaults of `ddim_sample`
    found["default/50/0.0"] = cell(50, 0.0, spacing="trailing", clip=None)
    guidance = partial(cell, 20, 0.0, spacing="trailing", with_width=True)
    found |= {f"guidance/{w}": guidance(scale=w) for w in SCALES}
    found["bits"] = bits
    found |= {f"round-trip/{steps}": partial(round_trip, steps=steps) for steps in STRIDES}
    return found | {f"sample/1000/{eta}": cell(1000, eta) for eta in ALL}


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def images(folder: Path, n: int, only: str) -> None:
    """Measure what has not been measured yet, saving after every entry."""
    path = folder / "images.json"
    provenance = {
        "command": COMMAND,
        "weights": {name: sha256(SHIPPED / f"{name}.safetensors") for name in WEIGHTS},
        "torch": TORCH,
        "seed": SEED,
        "threads": 1,
        "reference": f"the test images from {HELD_OUT} on",
    }
    done: dict[str, Any] = {}
    if path.exists():
        old = json.loads(path.read_text("utf-8"))
        if old["provenance"]["weights"] == provenance["weights"]:
            done = {name: entry for name, entry in old["entries"].items() if entry["asked_n"] == n}
    tools = load()
    for name, measure in entries(folder).items():
        if name in done or not re.search(only, name):
            continue
        start = time.perf_counter()
        entry = {"n": n, "seed": SEED, **measure(tools, n), "asked_n": n}
        done[name] = entry | {"seconds": round(time.perf_counter() - start, 1)}
        ordered = {key: done[key] for key in entries(folder) if key in done}
        content = json.dumps({"provenance": provenance, "entries": ordered}, indent=1, ensure_ascii=False)
        write_file(path, (content + "\n").encode(), "measurements")
        print(name, {k: v for k, v in done[name].items() if k not in ("t", "L_t")}, flush=True)


def curve(folder: Path, run: Path, every: int = 100) -> None:
    """Save the loss of a run, averaged over `every` steps, from its last checkpoint."""
    _, tensors = read_checkpoint(list_checkpoints(run)[-1])
    losses = tensors["optimiser.safetensors"]["losses"].double()
    means = [float(f"{float(part.mean()):.4g}") for part in torch.split(losses, every)]
    content = json.dumps({"steps": len(losses), "every": every, "loss": means})
    write_file(folder / "curve.json", (content + "\n").encode(), "the loss")


def main() -> None:
    """Run the command line."""
    parser = Parser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["images", "curve"])
    parser.add_argument("--n", type=at_least(20), default=1000, help="images per entry (default 1000)")
    parser.add_argument("--only", default="", help="measure only entries whose names match")
    parser.add_argument("--run", type=Path, help="for curve: the folder of the run")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    if arguments.what == "curve" and (arguments.run is None or not list_checkpoints(arguments.run)):
        parser.error(f"curve needs --run, the folder of a training run with checkpoints, got {arguments.run}")
    try:
        re.compile(arguments.only)
    except re.error as error:
        parser.error(f"--only must be a regular expression, got {arguments.only!r}: {error}")
    torch.set_num_threads(1)  # the order of sums depends on it, and so do the last bits
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.what == "curve":
        curve(arguments.folder, arguments.run)
    else:
        images(arguments.folder, arguments.n, arguments.only)


if __name__ == "__main__":
    with one_line("measure"):
        main()
