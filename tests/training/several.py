"""What two processes do together, for test_distributed.py: `torchrun --nproc-per-node 2 several.py FOLDER`.

Rank 0 leaves what came of it in FOLDER, and the test does the same with one process. `run` is also what a test calls
with a preset that takes no time: `torchrun --nproc-per-node 2 several.py cli train --preset tiny ...`.
"""

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))  # for devices, when run as a command

from devices import grown

from diffnotes.schedule import NoiseSchedule
from diffnotes.training import commands as cli
from diffnotes.training import distributed, run
from diffnotes.training.loop import TrainConfig, Trainer, fit
from diffnotes.training.networks import UNet
from diffnotes.training.presets import PRESETS, Preset

SCHEDULE = NoiseSchedule.linear(T=50)
CONFIG = TrainConfig(steps=10, batch=8, label_drop=0.3, warmup=2, save_every=4)


def network(dtype: torch.dtype = torch.float64, dropout: float = 0.0) -> UNet:
    """No layer of it starts at zero, so that no gradient is."""
    torch.manual_seed(0)
    return grown(UNet(channels=1, T=50, width=4, multipliers=(1, 2), classes=3, dropout=dropout).to(dtype))


def data() -> tuple[Tensor, Tensor]:
    """21 examples: epochs end in the middle of batches."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(21, 1, 4, 4, generator=generator), torch.randint(0, 3, (21,), generator=generator)


def trainer(config: TrainConfig = CONFIG, **how: Any) -> Trainer[UNet]:
    return Trainer(SCHEDULE, network(**how), data(), config)


def gradient(**how: Any) -> Tensor:
    """Of the first step, in one row, and its loss at the end."""
    dtype = how.pop("dtype", torch.float64)
    worker = trainer(dataclasses.replace(CONFIG, clip=None, **how), dtype=dtype)
    worker.step()
    parts = [weights.grad.flatten() for weights in worker.model.parameters() if weights.grad is not None]
    return torch.cat([*parts, worker.losses[:1].to(dtype)])


def samples() -> Tensor:
    """Seven batches and a short one, with fresh noise at every step."""
    how = {"steps": 5, "eta": 1.0, "classes": (2, 0), "guidance": 0.5, "batch": 3}
    return run.samples(SCHEDULE, network(torch.float32), 23, (1, 4, 4), **how)


def likelihood() -> dict[str, float]:
    pixels = torch.randint(0, 256, (10, 1, 4, 4), generator=torch.Generator().manual_seed(2))
    return run.likelihood(SCHEDULE, network(torch.float32), pixels / 127.5 - 1, every=5, batch=3)


class OneBad:
    """Data of which one example is bad: it is among those of rank 1."""

    def batch(self, step: int, size: int, seed: int) -> tuple[Tensor, None]:
        x = torch.zeros(size, 1, 4, 4)
        x[1] = torch.inf
        return x, None


def refused(work: Any) -> str:
    try:
        work()
    except ValueError as error:
        return str(error)
    return "not refused"


def together(folder: Path) -> None:
    """Everything that the tests compare."""
    found: dict[str, Any] = {}
    for name, how in GRADIENTS.items():
        found[f"gradient, {name}"] = gradient(**how)
    found["dropout"], found["seeds"] = [], []
    for _ in range(2):
        worker = trainer(dropout=0.5)
        worker.step()
        found["dropout"].append(worker.model.stem.weight.detach())
        found["seeds"].append(torch.initial_seed())
    found["samples"], found["likelihood"] = samples(), likelihood()
    found["weights"] = fit(SCHEDULE, network(), data(), CONFIG, folder=folder / "two").model.state_dict()
    found["resumed"] = fit(SCHEDULE, network(), data(), CONFIG, folder=folder / "one first").model.state_dict()
    found["bad batch"] = refused(lambda: gradient(batch=9))
    found["bad loss"] = refused(lambda: Trainer(SCHEDULE, network(), OneBad(), CONFIG).step())
    found["at odds"] = refused(lambda: distributed.agree("the rank", distributed.rank()))
    found["rank"], found["size"] = distributed.rank(), distributed.size()
    torch.save(found, folder / f"found-{distributed.rank()}.pt")


GRADIENTS: dict[str, dict[str, Any]] = {
    "float64": {},
    "float32": {"dtype": torch.float32},
    "in parts": {"accumulate": 2},
    "antithetic": {"times": "antithetic"},
}


class Slow:
    """Data that take their time, so that a test can come in between."""

    def batch(self, step: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
        time.sleep(0.01)
        x, y = data()
        return x[:size], y[:size]


def tiny(folder: Path | None) -> Slow:
    """The data of a preset; and whoever reads them leaves the id of its process."""
    if where := os.environ.get("PIDS"):
        (Path(where) / str(distributed.rank())).write_text(str(os.getpid()))
    return Slow()


TINY = TrainConfig(steps=120, batch=8, warmup=10, save_every=10)


def preset() -> Preset:
    """What takes no time; only a process that needs it puts it on the package's list."""
    return Preset(SCHEDULE, lambda: network(torch.float32), tiny, "tiny", TINY)


if __name__ == "__main__":
    torch.set_num_threads(1)
    PRESETS["tiny"] = preset
    if sys.argv[1] == "cli":
        cli.main(sys.argv[2:])
    else:
        with distributed.job("cpu"):
            together(Path(sys.argv[1]))
