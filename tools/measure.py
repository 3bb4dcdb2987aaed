"""Measure what takes too long for a notebook, and save it in diffnotes/measured, where the chapters read it.

`python tools/measure.py images` writes images.json: the numbers of chapters 5 and 6, from the weights that come with
the package, on one thread: about five hours on one CPU core. They are entries, measured one by one, each with its
seed, its size and the seconds it took. The file is written anew after every entry, so a stopped run goes on where it
was; entries of other weights, of another size, or against another reference are measured again. The nearest training
images go into images.npz beside it; for them the training set is needed. `--only REGEX` measures the entries whose
names it matches, `--n` is the number of images of an entry. With `--samples FOLDER` the samples are kept there, a
hundred per file, and read from there: then a stopped entry goes on where it was, too.

What is compared shares its draws: chunk k of a seed starts from the same x_T in every entry, and the bootstrap draws
the same places of each class. Each entry keeps its redrawn distances, so that the error of any difference or ratio of
entries can be had from the differences or ratios of theirs: paired, and stratified by class.

`python tools/measure.py curve --run runs/fashion-cpu` writes curve.json: the loss of a training run, from its last
checkpoint.
"""

import hashlib
import io
import json
import re
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from diffnotes.training.options import Parser, at_least, folder, one_line

if __name__ == "__main__":
    with one_line("measure"):
        import torch  # already here, as it takes seconds in which one may press Ctrl-C

import numpy as np
import torch
from torch import Generator, Tensor

from diffnotes.data import fashion_mnist, to_bytes
from diffnotes.ddim import Eta, ddim_encode, ddim_sample
from diffnotes.guidance import guided
from diffnotes.metrics import Estimate
from diffnotes.objective import vlb_terms
from diffnotes.schedule import NoisePredictor, NoiseSchedule, Spacing
from diffnotes.training.checkpoint import SHIPPED, TORCH, list_checkpoints, load_model, read_checkpoint, write_file
from diffnotes.training.classifier import Classifier, accuracy, load_classifier, predict
from diffnotes.training.loop import seed_of
from diffnotes.training.networks import Network

FOLDER = SHIPPED.parent / "measured"
WEIGHTS = ("fashion", "fashion_classifier")
COMMAND = "python tools/measure.py images"

CLASSES = 10
HELD_OUT = 100  # the first test images of each class; samples are compared with the other 9,000, 900 of each class
CHUNK = 100  # images sampled together; chunk k of a seed has the generator's seed 1000 seed + k
SEED = 0
SEEDS = (0, 1, 2)  # of the cells with few steps
ETAS: tuple[Eta, ...] = (0.0, 0.2, 0.5, 1.0, "sigma_hat")
FEW = (10, 20, 50, 100)  # numbers of steps for all of them
LONG: tuple[Eta, ...] = ("sigma_hat", 1.0, 0.0, 0.2, 0.5)  # for all 1000 steps, 25 minutes each, in this order
MANY = 5000  # images of two more cells: eta = 0 and 1, 50 steps
# The comparison that chapter 5 is about. Seed 0 was known when it was named; the seeds 1 and 2 were drawn after that.
PRIMARY = ("sample/50/0.0", "sample/1000/1.0")
FRESH = (1, 2)
REDRAWS = 100
SPLITS, SPLIT_SIZES = 200, (100, 200, 500, 1000, 2000, 5000)  # of the real images, for the floor
CLIP = 1.0  # the predicted x_0 is clamped to the range of the pixels, and eps derived again
SCALES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
STRIDES = (10, 20, 50, 100, 200, 500, 1000)
NEAR_DATA, FURTHER = 20, 60  # terms of the bound: all of t = 2 .. 20, and 60 of the others at random

LISTS = ("t", "L_t", "redrawn", "wrong", "parts", "errors")  # of an entry: too long to be printed

Measured = dict[str, Any]


class Moments(NamedTuple):
    """The mean and the covariance of features."""

    mean: Tensor
    covariance: Tensor


class Tools(NamedTuple):
    """The two networks, the real images, and the features of the reference images."""

    net: Network
    schedule: NoiseSchedule
    classifier: Classifier
    x: Tensor  # held out: the same number of each class, in turn
    y: Tensor
    reference: Moments
    redrawn: list[Moments]  # of the reference, redrawn: the same for all entries
    samples: Path | None  # the folder for samples


def load(samples: Path | None = None) -> Tools:
    """Everything that a measurement needs, all of it from the package."""
    net, schedule, _ = load_model(WEIGHTS[0])
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    classifier, _ = load_classifier(WEIGHTS[1])
    x, y = fashion_mnist("test")
    held, rest = held_out(y)
    of = features(classifier, x[rest]).double()
    redrawn = [moments(of[places]) for places in redraws(y[rest], "reference")]
    return Tools(net, schedule, classifier, x[held], y[held], moments(of), redrawn, samples)


def held_out(y: Tensor, each: int = HELD_OUT) -> tuple[Tensor, Tensor]:
    """Where the first `each` images of every class are, the classes in turn, and where all others are."""
    held = torch.stack([torch.where(y == k)[0][:each] for k in range(CLASSES)], 1).flatten()
    rest = torch.ones(len(y), dtype=torch.bool)
    rest[held] = False
    return held, rest.nonzero().flatten()


@torch.no_grad()
def features(classifier: Classifier, x: Tensor) -> Tensor:
    """The features of images, 500 at a time, shape (n, 64)."""
    return torch.cat([classifier.features(part) for part in torch.split(x, 500)])


# ---- distances and their errors ---------------------------------------------------------------------------------


def moments(of: Tensor) -> Moments:
    """The mean and the covariance of features, shape (n, k), in float64."""
    return Moments(of.double().mean(0), torch.cov(of.double().T))


def distance(a: Moments, b: Moments) -> float:
    """The Fréchet distance of two sets of features by their moments: that of `metrics.frechet_distance`."""
    root = torch.linalg.eigvals(a.covariance @ b.covariance).sqrt().real.sum()
    apart = (a.mean - b.mean).square().sum()
    return float(apart + (a.covariance + b.covariance).trace() - 2 * root)


def redraws(y: Tensor, key: object) -> Iterator[Tensor]:
    """Places to draw anew, as many of each class as there are, with replacement; alike for like classes and keys."""
    generator = Generator().manual_seed(seed_of("redraws", key))
    own = [torch.where(y == k)[0] for k in range(CLASSES)]
    for _ in range(REDRAWS):
        yield torch.cat([places[torch.randint(len(places), places.shape, generator=generator)] for places in own])


def frechet(tools: Tools, of: Tensor, y: Tensor, seed: int) -> Measured:
    """The distance of features to the reference, its stratified standard error, and the distances it is from."""
    of = of.double()
    places = redraws(y, seed)
    again = [distance(moments(of[p]), other) for p, other in zip(places, tools.redrawn, strict=True)]
    return {
        "frechet": _rounded(Estimate(distance(moments(of), tools.reference), float(np.std(again, ddof=1)))),
        "redrawn": [float(f"{value:.5g}") for value in again],
    }


def floor(tools: Tools, n: int, size: int) -> Measured:
    """The Fréchet distance of `size` real images to all the others, over random splits with equal classes."""
    x, y = fashion_mnist("test")
    of = features(tools.classifier, x).double()
    generator, found = Generator().manual_seed(SEED), []
    for _ in range(SPLITS):
        order = torch.randperm(len(x), generator=generator)
        held, rest = held_out(y[order], size // CLASSES)
        found.append(distance(moments(of[order[held]]), moments(of[order[rest]])))
    return {
        "n": size,
        "against": len(x) - size,
        "splits": SPLITS,
        "mean": float(f"{np.mean(found):.6g}"),
        "sd": float(f"{np.std(found, ddof=1):.6g}"),
    }


# ---- samples ----------------------------------------------------------------------------------------------------


class Recipe(NamedTuple):
    """How samples are made, all but their number and their seed."""

    steps: int
    eta: Eta
    spacing: Spacing = "linspace"
    scale: float = 0
    clip: float | None = CLIP
    bf16: bool = True  # the network runs in bfloat16 under autocast, as it was trained, or in float32

    @property
    def name(self) -> str:
        """Of the files that hold its samples: steps and eta, and what differs from most."""
        return "-".join(str(part) for i, part in enumerate(self) if i < 2 or part != _USUAL[i])


_USUAL = Recipe(0, 0.0)


def sample(tools: Tools, n: int, recipe: Recipe, seed: int = SEED) -> tuple[Tensor, Tensor]:
    """n images and the classes that they were asked for, 0 1 .. 9 0 1 and so on."""
    chunks = [chunk(tools, recipe, seed, k) for k in range(-(-n // CHUNK))]
    return torch.cat(chunks)[:n], torch.arange(n) % CLASSES


def chunk(tools: Tools, recipe: Recipe, seed: int, k: int) -> Tensor:
    """A hundred images, from the folder for samples where they are there; rounded to float16 where made in bfloat16."""
    path = tools.samples / f"{recipe.name}-{seed}-{k}.pt" if tools.samples else None
    if path and path.exists():
        kept: Tensor = torch.load(path)["x"]
        return kept.float()
    steps, eta, spacing, scale, clip, bf16 = recipe
    generator = Generator().manual_seed(1000 * seed + k)
    x_T = torch.randn(CHUNK, 1, 28, 28, generator=generator)
    y = torch.arange(CHUNK) % CLASSES
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model: NoisePredictor = guided(tools.net, y, scale)
        x = ddim_sample(tools.schedule, model, x_T, steps, eta, spacing=spacing, generator=generator, clip=clip)
    x = x.half() if bf16 else x
    if path:
        content = io.BytesIO()
        torch.save({"x": x, "seconds": time.perf_counter() - start}, content)
        write_file(path, content.getvalue(), "samples")
    return x.float()


def sampled(
    tools: Tools, n: int, recipe: Recipe, seed: int = SEED, size: int | None = None, with_width: bool = False
) -> Measured:
    """The Fréchet distance of samples to the reference, and which are not given the class they were asked for."""
    n = size or n
    x, y = sample(tools, n, recipe, seed)
    of = features(tools.classifier, x)
    right = predict(tools.classifier, x) == y
    wrong = (~right).nonzero().flatten().tolist()
    return {
        **recipe._asdict(),
        "n": n,
        "seed": seed,
        **frechet(tools, of, y, seed),
        "agreement": _rounded(share(right.double(), y)),
        "wrong": wrong,
    } | ({"width": _rounded(width(of, y))} if with_width else {})


def share(right: Tensor, y: Tensor) -> Estimate:
    """The mean of values, with the standard error of draws within classes of fixed sizes."""
    own = [right[y == k] for k in range(CLASSES)]
    variance = sum(float(part.var()) * len(part) for part in own if len(part) > 1) / len(right) ** 2
    return Estimate(float(right.mean()), variance**0.5)


def real_width(tools: Tools, n: int) -> Measured:
    """The width of the classes of real images, as many as there are samples."""
    n = min(n, len(tools.x))
    return {"n": n, "width": _rounded(width(features(tools.classifier, tools.x[:n]), tools.y[:n]))}


def width(of: Tensor, y: Tensor) -> Estimate:
    """The width of the classes: the root mean square distance of features from the mean of their own class.

    Each square is multiplied by n / (n - 1), where n is the size of the class, so that the mean is unbiased.
    """
    squares = torch.cat(
        [
            (own - own.mean(0)).square().sum(1) * len(own) / (len(own) - 1)
            for own in (of[y == k].double() for k in range(CLASSES))
            if len(own) > 1
        ]
    )
    square = _mean(squares)
    root = square.value**0.5
    return Estimate(root, square.stderr / (2 * root))


# ---- the other measurements ---------------------------------------------------------------------------------------


def classifier_accuracy(tools: Tools, n: int) -> Measured:
    """The share of all real test images that the classifier gives their class."""
    real = fashion_mnist("test")
    return {"n": len(real.x), "accuracy": accuracy(tools.classifier, real)}


def bits(tools: Tools, n: int) -> Measured:
    """The variational bound of n real images without their labels, in bits per dimension, in float32.

    The terms near the data are large and differ from one t to the next, so all of t = 2 .. 20 are taken. Of the others
    a new random set for each chunk stands for all: unbiased, see (img-levels-drawn) in chapter 5. The images of a
    chunk share its times, so the standard error is that of the chunks' means, `parts`, which are independent.
    """
    generator = Generator().manual_seed(SEED)
    T, unit = tools.schedule.T, 1 / (28 * 28 * np.log(2))
    near, totals, firsts, ends = range(2, NEAR_DATA + 1), [], [], []
    sums, counts = torch.zeros(T + 1).double(), torch.zeros(T + 1)
    for x0 in torch.split(fashion_mnist("test").x[:n], 20):
        far = (torch.randperm(T - NEAR_DATA, generator=generator)[:FURTHER] + NEAR_DATA + 1).tolist()
        ts = [*near, *far]
        terms = vlb_terms(tools.schedule, tools.net, x0, decoder="discrete", ts=ts, generator=generator)
        steps = terms.L_t * unit
        part = steps[:, : len(near)].sum(1) + (T - NEAR_DATA) * steps[:, len(near) :].mean(1)
        totals.append((terms.L_T * unit + part + terms.L_0 * unit).mean())
        firsts.append(terms.L_0 * unit)
        ends.append(terms.L_T * unit)
        sums[ts] += steps.sum(0)
        counts[ts] += len(x0)
    seen = counts > 0
    return {
        "bits_per_dim": _rounded(_mean(torch.stack(totals))),
        "parts": [float(f"{value:.5g}") for value in totals],
        "L_0": _rounded(_mean(torch.cat(firsts))),
        "L_T": float(f"{torch.cat(ends).mean():.4g}"),
        "t": seen.nonzero().flatten().tolist(),
        "L_t": [float(f"{v:.3g}") for v in (sums / counts)[seen].tolist()],
    }


def round_trip(tools: Tools, n: int, steps: int) -> Measured:
    """The mean squared error per pixel, for pixels in [0, 1], of real images encoded and decoded in `steps` steps."""
    n = max(2, n // 20)
    x, y = (part[:n] for part in fashion_mnist("test"))
    model = guided(tools.net, y)
    code = ddim_encode(tools.schedule, model, x, steps)
    back = ddim_sample(tools.schedule, model, code, steps)
    error = ((back - x) / 2).square().flatten(1).mean(1).double()
    spread = code.flatten(1).double()
    return {
        "n": n,
        "steps": steps,
        "error": _rounded(_mean(error)),
        "errors": [float(f"{value:.4g}") for value in error],
        "code_mean": round(float(spread.mean()), 3),
        "code_std": round(float(spread.std()), 3),
    }


def neighbours(tools: Tools, n: int, path: Path) -> Measured:
    """Distances from samples, and from test images, to the nearest training images; ten of the pairs as pictures."""
    n = min(n, 500)
    train = fashion_mnist("train").x
    of_train = features(tools.classifier, train)
    samples, _ = sample(tools, n, Recipe(20, 0.0, "trailing"))
    samples = samples.clamp(-1, 1)
    out, kept = {}, {"samples": samples[:10]}
    for name, x in (("samples", samples), ("test", fashion_mnist("test").x[:n])):
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
    """Every measurement by its name, in the order in which they are made: the quick ones first, the longest last."""

    def cell(recipe: Recipe, **more: Any) -> Callable[[Tools, int], Measured]:
        return partial(sampled, recipe=recipe, **more)

    def name(steps: int, eta: Eta, seed: int) -> str:
        return f"sample/{steps}/{eta}" + (f"/{seed}" if seed else "")

    found: dict[str, Callable[[Tools, int], Measured]] = {
        "accuracy": classifier_accuracy,
        "width": real_width,
        "live/float32": cell(Recipe(10, 0.0, bf16=False), size=CHUNK),
        "live/bfloat16": cell(Recipe(10, 0.0), size=CHUNK),
        "neighbours": lambda tools, n: neighbours(tools, n, folder / "images.npz"),
    }
    found |= {f"floor/{size}": partial(floor, size=size) for size in SPLIT_SIZES}
    found |= {name(S, eta, SEED): cell(Recipe(S, eta)) for S in FEW for eta in ETAS}
    found |= {f"trailing/{S}/{eta}": cell(Recipe(S, eta, "trailing")) for S in (10, 20) for eta in (0.0, "sigma_hat")}
    found |= {f"unclamped/50/{eta}": cell(Recipe(50, eta, clip=None)) for eta in (0.0, 1.0)}
    # as `ddim_sample` does without being asked
    found["default/50/0.0"] = cell(Recipe(50, 0.0, "trailing", clip=None))
    found |= {f"guidance/{w}": cell(Recipe(20, 0.0, "trailing", w), with_width=True) for w in SCALES}
    found |= {f"many/50/{eta}": cell(Recipe(50, eta), size=MANY) for eta in (0.0, 1.0)}
    found |= {name(1000, eta, SEED): cell(Recipe(1000, eta)) for eta in LONG[:3]}
    found |= {name(S, eta, seed): cell(Recipe(S, eta), seed=seed) for seed in SEEDS[1:] for S in FEW for eta in ETAS}
    found["bits"] = bits
    found |= {f"round-trip/{steps}": partial(round_trip, steps=steps) for steps in STRIDES}
    found |= {name(1000, 1.0, seed): cell(Recipe(1000, 1.0), seed=seed) for seed in FRESH}
    return found | {name(1000, eta, SEED): cell(Recipe(1000, eta)) for eta in LONG[3:]}


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def images(folder: Path, n: int, only: str, samples: Path | None = None) -> None:
    """Measure what is not measured yet, and write it after every entry."""
    path = folder / "images.json"
    provenance = {
        "command": COMMAND,
        "weights": {name: sha256(SHIPPED / f"{name}.safetensors") for name in WEIGHTS},
        "torch": TORCH,
        "seed": SEED,
        "threads": 1,
        "reference": f"the test images but the first {HELD_OUT} of each class",
    }
    done: dict[str, Any] = {}
    if path.exists():
        old = json.loads(path.read_text("utf-8"))
        if all(old["provenance"].get(key) == provenance[key] for key in ("weights", "reference")):
            against = provenance["reference"]
            done = {
                name: entry
                for name, entry in old["entries"].items()
                if entry["asked_n"] == n and entry.get("reference", against) == against
            }
    tools = load(samples)
    for name, measure in entries(folder).items():
        if name in done or not re.search(only, name):
            continue
        start = time.perf_counter()
        entry = {"n": n, "seed": SEED, **measure(tools, n), "asked_n": n}
        done[name] = entry | {"seconds": round(time.perf_counter() - start, 1)}
        ordered = {key: done[key] for key in entries(folder) if key in done}
        content = json.dumps({"provenance": provenance, "entries": ordered}, indent=1, ensure_ascii=False)
        # a list of numbers on one line
        content = re.sub(r"\[[^][{}\"]*\]", lambda found: " ".join(found[0].split()), content)
        write_file(path, (content + "\n").encode(), "measurements")
        print(name, {k: v for k, v in done[name].items() if k not in LISTS}, flush=True)


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
    parser.add_argument("what", choices=["images", "curve"], help="the file to write: images.json or curve.json")
    parser.add_argument("--n", type=at_least(20), default=1000, help="images per entry (default 1000)")
    parser.add_argument("--only", default="", help="measure entries whose names match this")
    parser.add_argument("--samples", type=folder, help="keep samples here, and take them from here")
    parser.add_argument("--run", type=Path, help="for curve: the folder of the run")
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where results are written (default diffnotes/measured)"
    )
    arguments = parser.parse_args()
    if arguments.what == "curve" and (arguments.run is None or not list_checkpoints(arguments.run)):
        parser.error(f"curve needs --run, the folder of a training run with checkpoints, got {arguments.run}")
    try:
        re.compile(arguments.only)
    except re.error as error:
        parser.error(f"--only must be a regular expression, got {arguments.only!r}: {error}")
    torch.set_num_threads(1)  # the order of sums, and so the last bits, depend on it
    for made in (arguments.folder, arguments.samples):
        if made:
            made.mkdir(parents=True, exist_ok=True)
    if arguments.what == "curve":
        curve(arguments.folder, arguments.run)
    else:
        images(arguments.folder, arguments.n, arguments.only, arguments.samples)


if __name__ == "__main__":
    with one_line("measure", "the same command measures what is left"):
        main()
