"""The experiment of chapter 6: a small network trained on few images and on many, twice for each number.

    python -m diffnotes.book.generalisation    # about 25 minutes on one CPU core; a stopped run resumes

For each N there are two halves, A and B, of N images each and with none in common. Two networks, one for each half,
start from the same weights and are trained in the same way. Then both draw samples from the same x_T. Do the samples
copy training images? Do the two networks give the same picture, although they have seen no image in common? (The
question and the test are those of Kadkhodaie et al. 2024, section 2.2.) As a control, for N = 10 and N = 1000 a third
network is trained on half B, from other weights and with other noise.

All networks ship with the package, and so does the table of what was measured with them.

>>> table = results()["measured"]
>>> sorted(table, key=int)
['10', '100', '1000', '10000']
>>> table["10"]["own"]["mean"] < table["10"]["other"]["mean"]  # ten images are copied
True
"""

import json
import math
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from diffnotes.arguments import check_batch, per_example, usable_device, whole
from diffnotes.data import fashion_mnist
from diffnotes.ddim import ddim_sample
from diffnotes.forward import q_sample
from diffnotes.metrics import check_points
from diffnotes.reverse import predict_x0
from diffnotes.schedule import NoisePredictor, NoiseSchedule, flat
from diffnotes.training.checkpoint import SHIPPED, TORCH, Loaded, check_target, load_model, save_model
from diffnotes.training.loop import TrainConfig, draw_times, fit
from diffnotes.training.networks import UNet
from diffnotes.training.options import Parser, at_least, folder, one_line

Half = Literal["A", "B"]
Pictures = Float[Tensor, "n *picture"]
OtherPictures = Float[Tensor, "m *picture"]
Small = Float[Tensor, "n 1 14 14"]

HALVES: tuple[Half, Half] = get_args(Half)
SIZES = (10, 100, 1000, 10_000)
AGAIN = (10, 1000)  # the sizes for which B is trained a second time, with seed 1
FOLDER = SHIPPED / "halves"
TABLE = "measured.json"
SUMS = SHIPPED.parent / "fashion_mnist" / "train-10000-sums-of-2x2.npz"
SCHEDULE = NoiseSchedule.linear(T=1000)


# ---- the images and the runs ------------------------------------------------------------------------------------


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


def write_sums(path: Path = SUMS) -> None:
    """Make the file that `shipped_sums` reads, from the training set (see `fashion_mnist`)."""
    pixels = ((fashion_mnist("train").x[:10_000] + 1) * 127.5).round()
    sums = 4 * F.avg_pool2d(pixels, 2)  # exact: all are multiples of 1/4
    np.savez_compressed(path, sums=sums.squeeze(1).numpy().astype(np.uint16))


def half(n: int, which: Half) -> Small:
    """n images: every second one of the first 2 n, starting from the first ("A") or the second ("B").

    Raises:
        ValueError: n is not in 1 .. 35,000, or there is no such half.
    """
    n = whole("n", n, 1, 35_000)
    if which not in HALVES:
        raise ValueError(f"which must be one of {HALVES}, got {which!r}")
    return small_images(2 * n)[HALVES.index(which) :: 2]


def settings(n: int) -> TrainConfig:
    """How a network is trained on n images: 3000 steps of 64, but 400 for ten images, which it soon memorises."""
    return TrainConfig(steps=400 if n <= 10 else 3000, batch=64, rate=3e-3, warmup=40, ema=0.99)


def train_half(n: int, which: Half, device: torch.device | str = "cpu", seed: int = 0) -> tuple[UNet, float]:
    """The averaged network trained on one half, and its loss over the last eighth of the steps.

    A U-Net with 124,433 weights and two resolutions. Runs with the same seed share initial weights and noise.
    """
    config = replace(settings(n), seed=seed)
    torch.manual_seed(config.seed)  # for the initial weights
    net = UNet(channels=1, T=SCHEDULE.T, width=16, multipliers=(1, 2)).to(device)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = fit(SCHEDULE, net, half(n, which).to(device), config)
    return trained.ema, trained.final_loss


def load(n: int, which: Half, folder: Path = FOLDER, seed: int = 0) -> Loaded:
    """The shipped network for n images of one half (seed 1: only half B of the sizes `AGAIN`), or FileNotFoundError."""
    return load_model(_file(n, which, folder, seed))


def _file(n: int, which: Half, folder: Path, seed: int) -> Path:
    return folder / f"{n}-{which.lower()}{f'-{seed}' if seed else ''}.safetensors"


def _runs(n: int) -> list[tuple[Half, int]]:
    """The half and the seed of every network for n images."""
    runs: list[tuple[Half, int]] = [("A", 0), ("B", 0)]
    return [*runs, ("B", 1)] if n in AGAIN else runs


def results(folder: Path = FOLDER) -> dict[str, Any]:
    """What was measured with the networks in `folder`: "measured", by number of images, and the provenance."""
    table: dict[str, Any] = json.loads((folder / TABLE).read_text("utf-8"))
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
    a, b = flat(x).double(), flat(y).double()
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
def denoising_loss(model: NoisePredictor, x0: Small, count: int = 1000) -> Float[Tensor, " count"]:
    """The squared error of the predicted noise, averaged over pixels, for `count` draws of t and of the noise.

    It cycles through the images, which are on the CPU, in order. Times and noise are the same in every call.
    """
    check_batch(x0=x0)
    if len(x0) == 0:
        raise ValueError("x0 must hold at least one image, got none")
    count, generator = whole("count", count), Generator().manual_seed(1)
    x = x0[torch.arange(count) % len(x0)]
    t = draw_times(SCHEDULE.T, count, "stratified", generator)[torch.randperm(count, generator=generator)]
    noise = torch.randn(x.shape, generator=generator)
    eps = model(q_sample(SCHEDULE, x, t, noise), t)
    return flat(eps - noise).square().mean(1)


@torch.no_grad()
def guess(model: NoisePredictor, x_t: Small, t: int) -> Small:
    """The x_0 that a noise predictor predicts from x_t."""
    return predict_x0(SCHEDULE, x_t, t, model(x_t, per_example(t, SCHEDULE.T, x_t)))


def measure(
    n: int,
    model_a: NoisePredictor,
    model_b: NoisePredictor,
    again: NoisePredictor | None = None,
    count: int = 64,
) -> dict[str, Any]:
    """How the two networks for n images, and B trained again if there is one, compare from `count` common starts.

    Each entry holds a mean, its standard error and the number of values averaged. Distances are in units of the pixels
    (black is -1, white is 1):

    - own: from a sample to the nearest image of the half that its network was trained on;
    - other: from a sample to the nearest image of the half that its network has never seen;
    - nearer, copied: the share of samples with own < other, and with own <= other / 2;
    - unseen: from a real image of one half to the nearest in the other, as a yardstick for own and other;
    - between: from a sample of one network to that of the other from the same x_T;
    - strangers: from a sample of one network to that of the other from another x_T;
    - restart, apart: from a sample of B trained again to that of B, and to that of A, from the same x_T;
    - train_loss, test_loss: the simple loss per pixel, on the network's own half and on the other.

    Raises:
        ValueError: count < 2, which gives no standard error, or `half` refuses n.
    """
    count = whole("count", count, 2)
    own, x_T = {which: half(n, which) for which in HALVES}, starts(count)
    models = {"A": model_a, "B": model_b}
    x = {which: sample(model, x_T) for which, model in models.items()}
    pairs: list[tuple[Half, Half]] = [("A", "B"), ("B", "A")]

    def both(value: Any) -> Tensor:
        return torch.cat([value(mine, theirs) for mine, theirs in pairs])

    table = distances(x["A"], x["B"])
    to_own = both(lambda mine, _: nearest(x[mine], own[mine]).distance)
    to_other = both(lambda mine, theirs: nearest(x[mine], own[theirs]).distance)
    values = {
        "own": to_own,
        "other": to_other,
        "nearer": to_own < to_other,
        "copied": to_own <= to_other / 2,
        "unseen": both(lambda mine, theirs: nearest(own[theirs][:500], own[mine]).distance),
        "between": table.diagonal(),
        "strangers": table.roll(1, dims=0).diagonal(),
        "train_loss": both(lambda mine, _: denoising_loss(models[mine], own[mine])),
        "test_loss": both(lambda mine, theirs: denoising_loss(models[mine], own[theirs])),
    }
    if again is not None:
        x_again = sample(again, x_T)
        values["restart"] = distances(x_again, x["B"]).diagonal()
        values["apart"] = distances(x_again, x["A"]).diagonal()
    return {name: _summary(value.double()) for name, value in values.items()}


def _summary(values: Tensor) -> dict[str, float]:
    error = values.std() / math.sqrt(len(values))
    return {"mean": round(float(values.mean()), 5), "error": round(float(error), 5), "values": len(values)}


# ---- the command ------------------------------------------------------------------------------------------------


def main(argv: list[str]) -> None:
    """Train the networks that are missing in the folder, then measure."""
    parser = Parser(prog="python -m diffnotes.book.generalisation", description=__doc__)
    parser.add_argument("--folder", type=folder, default=FOLDER, help="where networks are read and written")
    parser.add_argument("--sizes", type=at_least(1), nargs="+", default=list(SIZES), help="numbers of images")
    parser.add_argument("--starts", type=at_least(2), default=64, help="samples from each network")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args(argv)
    device = usable_device(arguments.device, meta=False)
    check_target(arguments.folder / TABLE, ".json")
    for n in arguments.sizes:
        half(n, "A")  # raises if n is too large
    command = shlex.join(["python", "-m", "diffnotes.book.generalisation", *argv])
    for n in arguments.sizes:
        for which, seed in _runs(n):
            path = _file(n, which, arguments.folder, seed)
            if not path.exists():
                start = time.process_time()
                net, loss = train_half(n, which, device, seed)
                origin = {
                    "command": command,
                    "data": f"diffnotes.book.generalisation.half({n}, {which!r})",
                    "settings": asdict(replace(settings(n), seed=seed)),
                    "loss": round(loss, 5),
                    "seconds": round(time.process_time() - start),
                    "torch": TORCH,
                    "threads": torch.get_num_threads(),
                }
                save_model(path, net, SCHEDULE, origin, torch.float16)
                print(f"{path.name}: loss {loss:.4f}, {origin['seconds']} s of processor time", flush=True)
    measured = {}
    for n in arguments.sizes:
        model_a, model_b, *again = (load(n, which, arguments.folder, seed).model for which, seed in _runs(n))
        measured[str(n)] = measure(n, model_a, model_b, again[0] if again else None, arguments.starts)
    provenance = {str(n): load(n, "A", arguments.folder).provenance for n in arguments.sizes}
    table = {"command": command, "measured": measured, "provenance of half A": provenance}
    (arguments.folder / TABLE).write_text(json.dumps(table, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    with one_line("diffnotes.book.generalisation"):
        main(sys.argv[1:])
