"""The experiment of chapter 6: a small network trained on few images and on many, twice for each number.

For each N there are two halves, A and B: N images each, and none in common. Two networks, one for each half, start
from the same weights and are trained in the same way. Then both are asked for samples from the same x_T. Do the
samples copy training images? Do the two networks give the same picture, though they have seen no image in common?
(The question and the test: Kadkhodaie et al. 2024, section 2.2.) As a control, for N = 10 and N = 1000 a third network
is trained: on half B once more, from other weights and with other noise. All these networks come with the package, and
so do the table of what was measured with them and that of a longer study. `tools/halves.py` made them all.

>>> table = results()["measured"]
>>> sorted(table, key=int)
['10', '100', '1000', '10000']
>>> table["10"]["own"]["mean"] < table["10"]["other"]["mean"]  # ten images are copied
True
"""

import json
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from diffnotes.arguments import check_batch, in_float64, per_example, whole
from diffnotes.data import fashion_mnist
from diffnotes.ddim import ddim_sample
from diffnotes.forward import q_sample
from diffnotes.metrics import check_points
from diffnotes.objective import simple_loss
from diffnotes.reverse import predict_x0
from diffnotes.schedule import NoisePredictor, NoiseSchedule, flat
from diffnotes.training.checkpoint import SHIPPED, Loaded, load_model
from diffnotes.training.loop import Loss, TrainConfig, draw_times, fit
from diffnotes.training.networks import UNet

Half = Literal["A", "B"]
Pictures = Float[Tensor, "n *picture"]
OtherPictures = Float[Tensor, "m *picture"]
Small = Float[Tensor, "n 1 14 14"]

HALVES: tuple[Half, Half] = get_args(Half)
SIZES = (10, 100, 1000, 10_000)
AGAIN = (10, 1000)  # the sizes for which B is trained a second time, with seed 1
FOLDER = SHIPPED / "halves"
TABLE = "measured.json"
STUDY = "study.json"
NEAR = 0.1  # the fixed threshold of a copy, beside the relative one: nearer than this to an image of the own half
DRAWS = 1000  # of t and of the noise, for a loss
SUMS = SHIPPED.parent / "fashion_mnist" / "train-10000-sums-of-2x2.npz"
SCHEDULE = NoiseSchedule.linear(T=1000)


# ---- the images and the networks --------------------------------------------------------------------------------


def small_images(n: int) -> Small:
    """The first n images of Fashion-MNIST, test set before training set, averaged over 2 x 2 pixels: 14 x 14.

    The first 20,000 ship with the package; for more, the training set is needed (see `fashion_mnist`).

    Raises:
        ValueError: n is not in 1 .. 70,000.
    """
    n = whole("n", n, 1, 70_000)
    x = F.avg_pool2d(fashion_mnist("test").x[:n], 2)
    if n > 10_000:
        x = torch.cat([x, shipped_sums() / 510 - 1])  # four pixels of 0 .. 255 become a mean in [-1, 1]
    if n > 20_000:
        x = torch.cat([x, F.avg_pool2d(fashion_mnist("train", progress=True).x[10_000:], 2)])
    return x[:n]


def shipped_sums() -> Small:
    """The sums over 2 x 2 pixels, 0 .. 1020, of the first 10,000 training images, whole numbers in float32."""
    with np.load(SUMS) as file:
        return torch.from_numpy(file["sums"].astype(np.float32)).unsqueeze(1)


def half(n: int, which: Half) -> Small:
    """n images: every second one of the first 2 n, starting from the first ("A") or the second ("B").

    Raises:
        ValueError: n is not in 1 .. 35,000, or there is no such half.
    """
    n = whole("n", n, 1, 35_000)
    if which not in HALVES:
        raise ValueError(f"which must be one of {HALVES}, got {which!r}")
    return small_images(2 * n)[HALVES.index(which) :: 2]


def settings(n: int, seed: int = 0, longer: int = 1) -> TrainConfig:
    """How a network is trained on n images: 3000 steps of 64, but 400 for ten images, which it soon memorises.

    `longer` is how many times as many steps are made.
    """
    steps = whole("longer", longer) * (400 if n <= 10 else 3000)
    return TrainConfig(steps=steps, batch=64, rate=3e-3, warmup=40, ema=0.99, seed=seed)


def fit_half(
    n: int, which: Half, seed: int = 0, longer: int = 1, loss: Loss = simple_loss, device: torch.device | str = "cpu"
) -> tuple[UNet, float]:
    """The averaged network for n images and one half, and its loss over the last eighth of the steps.

    A U-Net with 124,433 weights and two resolutions. Trainings with the same seed share initial weights and noise.
    `longer` is that of `settings`, `loss` that of `fit`.
    """
    config, x = settings(n, seed, longer), half(n, which).to(device)
    torch.manual_seed(seed)  # of the first weights
    net = UNet(channels=1, T=SCHEDULE.T, width=16, multipliers=(1, 2)).to(device)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = fit(SCHEDULE, net, x, config, loss=loss)
    return trained.ema, trained.final_loss


def path_of(n: int, which: Half, folder: Path = FOLDER, seed: int = 0) -> Path:
    """Where the network for n images and one half is: 10-a.safetensors, or with seed 1, 10-a-1.safetensors."""
    return folder / f"{n}-{which.lower()}{f'-{seed}' if seed else ''}.safetensors"


def load(n: int, which: Half, folder: Path = FOLDER, seed: int = 0) -> Loaded:
    """The network for n images and one half that comes with the package; seed 1: half B of the sizes `AGAIN`.

    Raises:
        FileNotFoundError: there is none for this n, half and seed.
    """
    return load_model(path_of(n, which, folder, seed))


def results(folder: Path = FOLDER, name: str = TABLE) -> dict[str, Any]:
    """What was measured with the networks in `folder`: "measured", by number of images, and the provenance.

    With `STUDY` as the name: what the longer study found.
    """
    table: dict[str, Any] = json.loads((folder / name).read_text("utf-8"))
    return table


# ---- what is measured -------------------------------------------------------------------------------------------


class Nearest(NamedTuple):
    """For each picture, the nearest one in a data set."""

    distance: Float[Tensor, " n"]  # root mean square over the pixels
    place: Int[Tensor, " n"]  # in the data set


def distances(x: Pictures, y: OtherPictures) -> Float[Tensor, "n m"]:
    """The root mean square difference per pixel between every picture in x and every picture in y, float64.

    Raises:
        ValueError: there is no picture, or the pictures differ in shape.
    """
    check_points(x, y, at_least=1)
    a, b = flat(in_float64("x", x)), flat(in_float64("y", y))
    table: Tensor = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")  # exact when near
    return table / math.sqrt(a.shape[1])


def nearest(x: Pictures, data: OtherPictures) -> Nearest:
    """The nearest picture in `data` for each in x, by `distances`."""
    return Nearest(*distances(x, data).min(dim=1))


def starts(n: int) -> Small:
    """The n starts x_T that all networks share, drawn on the CPU, where they are the same on every machine."""
    return torch.randn(whole("n", n), 1, 14, 14, generator=Generator().manual_seed(0))


def sample(model: NoisePredictor, x_T: Small, steps: int = 50) -> Small:
    """DDIM without noise, with the predicted x_0 clamped to the range of the pixels."""
    return ddim_sample(SCHEDULE, model, x_T, steps, clip=1.0)


@torch.no_grad()
def denoising_loss(model: NoisePredictor, x0: Small, count: int = DRAWS) -> Float[Tensor, " count"]:
    """The squared error of the predicted noise, averaged over pixels, for `count` draws of t and of the noise.

    The images, on the CPU, are gone through in order, again and again. Times and noise are the same at every call, so
    two networks' losses on the same images are paired.
    """
    check_batch(x0=x0)
    if len(x0) == 0:
        raise ValueError("x0 must hold at least one image, got none")
    count, generator = whole("count", count), Generator().manual_seed(1)
    x, t = x0[torch.arange(count) % len(x0)], loss_times(count, generator)
    noise = torch.randn(x.shape, generator=generator)
    eps = model(q_sample(SCHEDULE, x, t, noise), t)
    return flat(eps - noise).square().mean(1)


def loss_times(count: int, generator: Generator) -> Int[Tensor, " count"]:
    """The times of `denoising_loss`, spread evenly over 1 .. T, in random order."""
    t = draw_times(SCHEDULE.T, count, "stratified", generator)
    return t[torch.randperm(count, generator=generator)]


@torch.no_grad()
def guess(model: NoisePredictor, x_t: Small, t: int) -> Small:
    """The x_0 that a noise predictor predicts from x_t."""
    return predict_x0(SCHEDULE, x_t, t, model(x_t, per_example(t, SCHEDULE.T, x_t)))


def measure(
    n: int, model_a: NoisePredictor, model_b: NoisePredictor, again: NoisePredictor | None = None, count: int = 64
) -> dict[str, Any]:
    """How the two networks for n images, and B trained again if there is one, compare from `count` common starts.

    Each entry holds a mean, its standard error and the number of values it is the mean of. A start is one value, the
    mean over both networks, and so is an image, the mean over its draws. Distances are in the units of the pixels
    (black is -1, white is 1):

    - own: from a sample to the nearest image of the half that its network was trained on;
    - other: from a sample to the nearest image of the half that its network has never seen;
    - gap: other less own, sample by sample;
    - nearer, copied, near: the share of samples that are nearer to the own half than to the other; at most half as far;
      and nearer than `NEAR` to the own half;
    - unseen: from a real image of one half to the nearest of the other, as a measure for own and other;
    - between: from the sample of one network to that of the other from the same x_T;
    - strangers: from the sample of one to that of the other from another x_T;
    - restart, apart: from the sample of B trained again to that of B, and to that of A, from the same x_T;
    - train_loss, test_loss: of the simple loss per pixel, on the own half and on the other;
    - trace: on the same images, with the same noise, the loss of the network that has not seen them less the loss of
      the one that has.

    Raises:
        ValueError: count < 2, which gives no standard error, or `half` refuses n.
    """
    count = whole("count", count, 2)
    own, x_T = {which: half(n, which) for which in HALVES}, starts(count)
    models = {"A": model_a, "B": model_b}
    x = {which: sample(model, x_T) for which, model in models.items()}
    pairs: list[tuple[Half, Half]] = [("A", "B"), ("B", "A")]

    def both(value: Any) -> Tensor:
        return torch.stack([value(mine, theirs) for mine, theirs in pairs]).double()

    table = distances(x["A"], x["B"])
    to_own = both(lambda mine, _: nearest(x[mine], own[mine]).distance)
    to_other = both(lambda mine, theirs: nearest(x[mine], own[theirs]).distance)
    loss = {
        (by, on): by_image(denoising_loss(model, own[on], DRAWS), n) for by, model in models.items() for on in HALVES
    }
    values = {
        "own": to_own.mean(0),
        "other": to_other.mean(0),
        "gap": (to_other - to_own).mean(0),
        "nearer": (to_own < to_other).double().mean(0),
        "copied": (to_own <= to_other / 2).double().mean(0),
        "near": (to_own < NEAR).double().mean(0),
        "unseen": both(lambda mine, theirs: nearest(own[theirs][:500], own[mine]).distance).flatten(),
        "between": table.diagonal(),
        "strangers": table.roll(1, dims=0).diagonal(),
        "train_loss": both(lambda mine, _: loss[mine, mine]).flatten(),
        "test_loss": both(lambda mine, theirs: loss[mine, theirs]).flatten(),
        "trace": both(lambda mine, theirs: loss[theirs, mine] - loss[mine, mine]).flatten(),
    }
    if again is not None:
        x_again = sample(again, x_T)
        values["restart"] = distances(x_again, x["B"]).diagonal()
        values["apart"] = distances(x_again, x["A"]).diagonal()
    return {name: summary(value) for name, value in values.items()}


def by_image(loss: Float[Tensor, " count"], n: int) -> Float[Tensor, " images"]:
    """The means of `denoising_loss` over the draws of each image, float64."""
    place = torch.arange(len(loss)) % n
    return place.bincount(loss.double()) / place.bincount()


def summary(values: Tensor) -> dict[str, float]:
    """The mean of the values, its standard error, and how many there are."""
    error = values.double().std() / math.sqrt(len(values))
    return {"mean": round(float(values.mean()), 5), "error": round(float(error), 5), "values": len(values)}
