"""The experiment of chapter 6: a small network trained on few images and on many, twice for each number.

    python -m diffnotes.book.generalisation    # about 25 minutes on one CPU core; a stopped run resumes

For each N there are two halves, A and B: N images each, and none in common. Two networks, one for each half, start
from the same weights and are trained in the same way. Then both are asked for samples from the same x_T. Do the
samples copy training images? Do the two networks give the same picture, though they have seen no image in common?
(The question and the test: Kadkhodaie et al. 2024, section 2.2.) As a control, for N = 10 and N = 1000 a third network
is trained: on half B once more, from other weights and with other noise. All these networks come with the package, and
so does the table of what was measured with them.

    python -m diffnotes.book.generalisation --study --folder FOLDER    # about two hours more

trains what the first command leaves open: three seeds for each half at N = 100, 1000 and 3000, ten times the steps at
N = 1000, and at N = 1000 networks that predict v, or the velocity of flow matching, in the place of the noise. Networks
that FOLDER holds are not trained again. Of these the table comes with the package, the networks do not.

>>> table = results()["measured"]
>>> sorted(table, key=int)
['10', '100', '1000', '10000']
>>> table["10"]["own"]["mean"] < table["10"]["other"]["mean"]  # ten images are copied
True
"""

import itertools
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
from diffnotes.data import fashion_mnist, to_bytes
from diffnotes.ddim import ddim_sample
from diffnotes.forward import q_sample
from diffnotes.metrics import check_points
from diffnotes.objective import simple_loss
from diffnotes.reverse import as_noise_predictor, predict_x0, v_from
from diffnotes.schedule import NoisePredictor, NoiseSchedule, flat
from diffnotes.training.checkpoint import SHIPPED, TORCH, Loaded, check_target, load_model, save_model
from diffnotes.training.loop import Loss, TrainConfig, draw_times, fit
from diffnotes.training.networks import UNet
from diffnotes.training.options import Parser, at_least, folder, one_line

Half = Literal["A", "B"]
Target = Literal["eps", "v", "flow"]
Pictures = Float[Tensor, "n *picture"]
OtherPictures = Float[Tensor, "m *picture"]
Small = Float[Tensor, "n 1 14 14"]

HALVES: tuple[Half, Half] = get_args(Half)
SIZES = (10, 100, 1000, 10_000)
AGAIN = (10, 1000)  # the sizes for which B is trained a second time, with seed 1
FOLDER = SHIPPED / "halves"
TABLE = "measured.json"
STUDY = "study.json"
STUDY_SIZES, STUDY_SEEDS = (100, 1000, 3000), (0, 1, 2)
LONG_SIZE, LONGER = 1000, 10  # N for longer trainings and for other targets, and how much longer
NEAR = 0.1  # the fixed threshold of a copy, beside the relative one: nearer than this to an image of the own half
DRAWS = 1000  # of t and of the noise, for a loss
BANDS = ((1, 100), (101, 500), (501, 1000))  # of t, for the losses of networks with different targets
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
    pixels = to_bytes(fashion_mnist("train").x[:10_000]).float()
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


class Run(NamedTuple):
    """One training: N and the half, the seed, how many times the usual steps, and what the network predicts."""

    n: int
    half: Half
    seed: int = 0
    longer: int = 1
    target: Target = "eps"

    @property
    def name(self) -> str:
        """Such as A0, B1, "A0, 10 times the steps" or "B0, v"."""
        more = [f"{self.longer} times the steps"] * (self.longer > 1) + [self.target] * (self.target != "eps")
        return ", ".join([f"{self.half}{self.seed}", *more])

    @property
    def config(self) -> TrainConfig:
        usual = settings(self.n)
        return replace(usual, seed=self.seed, steps=self.longer * usual.steps)

    def path(self, folder: Path) -> Path:
        parts = [str(self.n), self.half.lower(), *[str(self.seed)] * bool(self.seed)]
        parts += [f"x{self.longer}"] * (self.longer > 1) + [self.target] * (self.target != "eps")
        return folder / f"{'-'.join(parts)}.safetensors"


def fit_run(run: Run, device: torch.device | str = "cpu") -> tuple[UNet, float]:
    """The averaged network of a run, and its loss over the last eighth of the steps.

    A U-Net with 124,433 weights and two resolutions. Runs with the same seed share initial weights and noise.
    """
    torch.manual_seed(run.seed)  # of the first weights
    net = UNet(channels=1, T=SCHEDULE.T, width=16, multipliers=(1, 2)).to(device)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = fit(SCHEDULE, net, half(run.n, run.half).to(device), run.config, loss=LOSSES[run.target])
    return trained.ema, trained.final_loss


def v_loss(schedule: NoiseSchedule, model: NoisePredictor, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """`simple_loss` for a network that predicts v."""
    v = model(q_sample(schedule, x0, t, noise), t)
    return flat(v_from(schedule, x0, noise, t) - v).square().mean(1)


def flow_loss(schedule: NoiseSchedule, model: NoisePredictor, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """`simple_loss` for a network that predicts the velocity eps - x_0 of flow matching, at its own times."""
    t = flow_times(t)
    velocity = model(q_sample(schedule, x0, t, noise), t)
    return flat(noise - x0 - velocity).square().mean(1)


LOSSES: dict[Target, Loss] = {"eps": simple_loss, "v": v_loss, "flow": flow_loss}


def flow_times(t: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Times uniform on 1 .. T become times whose tau, sqrt(1 - abar) / (sqrt(abar) + sqrt(1 - abar)), is uniform."""
    signal, noise = SCHEDULE.sqrt_alpha_bars, SCHEDULE.sqrt_one_minus_alpha_bars
    levels = (noise / (signal + noise)).to(t.device)
    wanted = (t.double() - 0.5) / SCHEDULE.T
    return torch.searchsorted(levels, wanted).clamp(1, SCHEDULE.T)


def as_noise(net: NoisePredictor, target: Target) -> NoisePredictor:
    """The noise predictor made of a network with this target."""
    if target != "flow":
        return as_noise_predictor(SCHEDULE, net, target)

    def predictor(x_t: Tensor, t: Tensor) -> Tensor:
        signal = SCHEDULE.at(SCHEDULE.sqrt_alpha_bars, t, x_t)
        noise = SCHEDULE.at(SCHEDULE.sqrt_one_minus_alpha_bars, t, x_t)
        eps: Tensor = (x_t + signal * net(x_t, t)) / (signal + noise)  # x_t = signal x_0 + noise eps
        return eps

    return predictor


def load(n: int, which: Half, folder: Path = FOLDER, seed: int = 0) -> Loaded:
    """The network for n images and one half that comes with the package; seed 1: half B of the sizes `AGAIN`.

    Raises:
        FileNotFoundError: there is none for this n, half and seed.
    """
    return load_model(Run(n, which, seed).path(folder))


def _runs(n: int) -> list[Run]:
    """Every network for n images that comes with the package."""
    runs = [Run(n, "A"), Run(n, "B")]
    return [*runs, Run(n, "B", 1)] if n in AGAIN else runs


def study_runs() -> list[Run]:
    """Every network of the study."""
    return [
        *[Run(n, which, seed) for n in STUDY_SIZES for seed in STUDY_SEEDS for which in HALVES],
        Run(LONG_SIZE, "B", target="v"),
        Run(LONG_SIZE, "B", target="flow"),
        *[Run(LONG_SIZE, which, longer=LONGER) for which in HALVES],
    ]


def results(folder: Path = FOLDER, name: str = TABLE) -> dict[str, Any]:
    """What was measured with the networks in `folder`: "measured", by number of images, and the provenance.

    With `STUDY` as the name: what `study` found.
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
def denoising_loss(model: NoisePredictor, x0: Small, count: int = DRAWS) -> Float[Tensor, " count"]:
    """The squared error of the predicted noise, averaged over pixels, for `count` draws of t and of the noise.

    The images, on the CPU, are gone through in order, again and again. Times and noise are the same at every call, so
    two networks' losses on the same images are paired.
    """
    check_batch(x0=x0)
    if len(x0) == 0:
        raise ValueError("x0 must hold at least one image, got none")
    count, generator = whole("count", count), Generator().manual_seed(1)
    x, t = x0[torch.arange(count) % len(x0)], _loss_times(count, generator)
    noise = torch.randn(x.shape, generator=generator)
    eps = model(q_sample(SCHEDULE, x, t, noise), t)
    return flat(eps - noise).square().mean(1)


def _loss_times(count: int, generator: Generator) -> Int[Tensor, " count"]:
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
    return {name: _summary(value) for name, value in values.items()}


def by_image(loss: Float[Tensor, " count"], n: int) -> Float[Tensor, " images"]:
    """The means of `denoising_loss` over the draws of each image, float64."""
    place = torch.arange(len(loss)) % n
    return place.bincount(loss.double()) / place.bincount()


def _summary(values: Tensor) -> dict[str, float]:
    error = values.double().std() / math.sqrt(len(values))
    return {"mean": round(float(values.mean()), 5), "error": round(float(error), 5), "values": len(values)}


def study(folder: Path, count: int = 64) -> dict[str, Any]:
    """What is measured with the networks of `study_runs` that the folder holds.

    - seeds: for each N and seed what `measure` finds;
    - pairs: for each N the mean distance, with its error, of two runs' samples from the same starts, by their names;
    - kinds: the mean over all pairs of a kind: the same half and two seeds, two halves and one seed, or two of each.
      With the seed both the first weights and the noise change;
    - longer: `measure` for ten times the steps;
    - bands: for runs on half B at N = 1000 the loss on half A, of the noise whatever the target, in three bands of t.
    """
    x_T = starts(count)
    there = {
        run: as_noise(load_model(run.path(folder)).model, run.target)
        for run in study_runs()
        if run.path(folder).exists()
    }
    made = {run: sample(model, x_T) for run, model in there.items()}
    table: dict[str, Any] = {"seeds": {}, "pairs": {}, "kinds": {}, "longer": {}, "bands": {}}
    for n in STUDY_SIZES:
        for seed in STUDY_SEEDS:
            if {a := Run(n, "A", seed), b := Run(n, "B", seed)} <= set(there):
                table["seeds"].setdefault(str(n), {})[str(seed)] = measure(n, there[a], there[b], count=count)
        runs = [run for run in there if run.n == n]
        found = {(a, b): distances(made[a], made[b]).diagonal() for a, b in itertools.combinations(runs, 2)}
        table["pairs"][str(n)] = {f"{a.name} to {b.name}": _summary(value) for (a, b), value in found.items()}
        kinds: dict[str, list[Tensor]] = {}
        for (a, b), value in found.items():
            if a[3:] == b[3:] == Run(n, "A")[3:]:
                kind = f"{'same' if a.half == b.half else 'other'} half, {'same' if a.seed == b.seed else 'other'} seed"
                kinds.setdefault(kind, []).append(value)
        table["kinds"][str(n)] = {
            kind: _summary(torch.stack(values).mean(0)) | {"pairs": len(values)} for kind, values in kinds.items()
        }
    if {a := Run(LONG_SIZE, "A", longer=LONGER), b := Run(LONG_SIZE, "B", longer=LONGER)} <= set(there):
        table["longer"] = measure(LONG_SIZE, there[a], there[b], count=count)
    t = _loss_times(DRAWS, Generator().manual_seed(1))
    for run, model in there.items():
        if run.n == LONG_SIZE and run.half == "B":
            loss = denoising_loss(model, half(LONG_SIZE, "A"), DRAWS)
            table["bands"][run.name] = {
                f"{low}..{high}": _summary(loss[(t >= low) & (t <= high)]) for low, high in BANDS
            }
    return table


# ---- the command ------------------------------------------------------------------------------------------------


def main(argv: list[str]) -> None:
    """Train the networks that are missing in the folder, then measure."""
    parser = Parser(prog="python -m diffnotes.book.generalisation", description=__doc__)
    parser.add_argument("--folder", type=folder, default=FOLDER, help="where networks are read and written")
    usual = " ".join(map(str, SIZES))
    parser.add_argument("--sizes", type=at_least(1), nargs="+", help=f"numbers of images (default {usual})")
    parser.add_argument("--starts", type=at_least(2), default=64, help="samples from each network (default 64)")
    parser.add_argument("--study", action="store_true", help="train the networks of the study, and write study.json")
    parser.add_argument("--device", default="cpu", help="where to train: cpu or cuda (default cpu)")
    arguments = parser.parse_args(argv)
    if arguments.study and arguments.sizes:
        raise ValueError(f"sizes must be left out with --study, which has its own, got {arguments.sizes}")
    sizes = arguments.sizes or SIZES
    device = usable_device(arguments.device, meta=False)
    check_target(arguments.folder / (STUDY if arguments.study else TABLE), ".json")
    for n in sizes:
        half(n, "A")  # raises if n is too large
    command = shlex.join(["python", "-m", "diffnotes.book.generalisation", *argv])
    runs = study_runs() if arguments.study else [run for n in sizes for run in _runs(n)]
    for run in runs:
        path = run.path(arguments.folder)
        if not path.exists():
            start = time.process_time()
            net, loss = fit_run(run, device)
            origin = {
                "command": command,
                "data": f"diffnotes.book.generalisation.half({run.n}, {run.half!r})",
                "target": run.target,
                "settings": asdict(run.config),
                "loss": round(loss, 5),
                "seconds": round(time.process_time() - start),
                "torch": TORCH,
                "threads": torch.get_num_threads(),
            }
            save_model(path, net, SCHEDULE, origin, torch.float16)
            print(f"{path.name}: loss {loss:.4f}, {origin['seconds']} s of processor time", flush=True)
    if arguments.study:
        table = {"command": command, **study(arguments.folder, arguments.starts)}
        (arguments.folder / STUDY).write_text(json.dumps(table, indent=1) + "\n", "utf-8")
        return
    measured = {}
    for n in sizes:
        model_a, model_b, *again = (load_model(run.path(arguments.folder)).model for run in _runs(n))
        measured[str(n)] = measure(n, model_a, model_b, again[0] if again else None, arguments.starts)
    provenance = {str(n): load(n, "A", arguments.folder).provenance for n in sizes}
    table = {"command": command, "measured": measured, "provenance of half A": provenance}
    (arguments.folder / TABLE).write_text(json.dumps(table, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    with one_line("diffnotes.book.generalisation", "the same command trains what is left"):
        main(sys.argv[1:])
