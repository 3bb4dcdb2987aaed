"""Train the small networks of chapter 6 and measure them: what `diffnotes.book.generalisation` reads.

    python tools/halves.py    # about 25 minutes on one CPU core; a stopped run resumes

makes the networks and the table in diffnotes/weights/halves. The larger halves hold training images, whose sums over
2 x 2 pixels come with the package; `write_sums` made that file.

    python tools/halves.py --study --folder FOLDER    # about two hours more

trains what the first command leaves open: three seeds for each half at N = 100, 1000 and 3000, ten times the steps at
N = 1000, and at N = 1000 networks that predict v, or the velocity of flow matching, in the place of the noise. Networks
that FOLDER holds are not trained again. Of these the table comes with the package, the networks do not.
"""

import itertools
import json
import shlex
import sys
import time
from argparse import RawDescriptionHelpFormatter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

from diffnotes.training.options import Parser, at_least, folder, one_line

if __name__ == "__main__":
    with one_line("halves"):
        import torch  # already here, as it takes seconds in which one may press Ctrl-C

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Generator, Tensor

from diffnotes.arguments import usable_device
from diffnotes.book.generalisation import (
    AGAIN,
    DRAWS,
    FOLDER,
    HALVES,
    SCHEDULE,
    SIZES,
    STUDY,
    SUMS,
    TABLE,
    Half,
    denoising_loss,
    distances,
    fit_half,
    half,
    load,
    loss_times,
    measure,
    path_of,
    sample,
    settings,
    starts,
    summary,
)
from diffnotes.data import fashion_mnist, to_bytes
from diffnotes.forward import q_sample
from diffnotes.objective import simple_loss
from diffnotes.reverse import as_noise_predictor, v_from
from diffnotes.schedule import NoisePredictor, NoiseSchedule, flat
from diffnotes.training.checkpoint import TORCH, check_target, load_model, save_model
from diffnotes.training.loop import Loss, TrainConfig

Target = Literal["eps", "v", "flow"]

STUDY_SIZES, STUDY_SEEDS = (100, 1000, 3000), (0, 1, 2)
LONG_SIZE, LONGER = 1000, 10  # N for longer trainings and for other targets, and how much longer
BANDS = ((1, 100), (101, 500), (501, 1000))  # of t, for the losses of networks with different targets


# ---- the runs ---------------------------------------------------------------------------------------------------


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
        return settings(self.n, self.seed, self.longer)

    def path(self, folder: Path) -> Path:
        usual = path_of(self.n, self.half, folder, self.seed)
        more = [f"x{self.longer}"] * (self.longer > 1) + [self.target] * (self.target != "eps")
        return usual.with_stem("-".join([usual.stem, *more]))


def package_runs(n: int) -> list[Run]:
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


# ---- targets other than the noise -------------------------------------------------------------------------------


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


# ---- what is measured -------------------------------------------------------------------------------------------


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
        table["pairs"][str(n)] = {f"{a.name} to {b.name}": summary(value) for (a, b), value in found.items()}
        kinds: dict[str, list[Tensor]] = {}
        for (a, b), value in found.items():
            if a[3:] == b[3:] == Run(n, "A")[3:]:
                kind = f"{'same' if a.half == b.half else 'other'} half, {'same' if a.seed == b.seed else 'other'} seed"
                kinds.setdefault(kind, []).append(value)
        table["kinds"][str(n)] = {
            kind: summary(torch.stack(values).mean(0)) | {"pairs": len(values)} for kind, values in kinds.items()
        }
    if {a := Run(LONG_SIZE, "A", longer=LONGER), b := Run(LONG_SIZE, "B", longer=LONGER)} <= set(there):
        table["longer"] = measure(LONG_SIZE, there[a], there[b], count=count)
    t = loss_times(DRAWS, Generator().manual_seed(1))
    for run, model in there.items():
        if run.n == LONG_SIZE and run.half == "B":
            loss = denoising_loss(model, half(LONG_SIZE, "A"), DRAWS)
            table["bands"][run.name] = {
                f"{low}..{high}": summary(loss[(t >= low) & (t <= high)]) for low, high in BANDS
            }
    return table


# ---- the commands -----------------------------------------------------------------------------------------------


def write_sums(path: Path = SUMS) -> None:
    """Make the file that `shipped_sums` reads, from the training set (see `fashion_mnist`)."""
    pixels = to_bytes(fashion_mnist("train").x[:10_000]).float()
    sums = 4 * F.avg_pool2d(pixels, 2)  # exact: all are multiples of 1/4
    np.savez_compressed(path, sums=sums.squeeze(1).numpy().astype(np.uint16))


def main(argv: list[str]) -> None:
    """Train the networks that are missing in the folder, then measure."""
    parser = Parser(prog="python tools/halves.py", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
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
    command = shlex.join(["python", "tools/halves.py", *argv])
    runs = study_runs() if arguments.study else [run for n in sizes for run in package_runs(n)]
    for run in runs:
        path = run.path(arguments.folder)
        if not path.exists():
            start = time.process_time()
            net, loss = fit_half(run.n, run.half, run.seed, run.longer, LOSSES[run.target], device)
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
        model_a, model_b, *again = (load_model(run.path(arguments.folder)).model for run in package_runs(n))
        measured[str(n)] = measure(n, model_a, model_b, again[0] if again else None, arguments.starts)
    provenance = {str(n): load(n, "A", arguments.folder).provenance for n in sizes}
    table = {"command": command, "measured": measured, "provenance of half A": provenance}
    (arguments.folder / TABLE).write_text(json.dumps(table, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    with one_line("halves", "the same command trains what is left"):
        main(sys.argv[1:])
