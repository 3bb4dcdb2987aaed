"""Processes that are killed while they train; `killed.py random|everywhere FOLDER` prints what came of it.

A process of its own, because it forks: one import of torch serves all the children, and the parent never runs a
backward pass, which a fork would not survive.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1]))  # for devices, when run as a command

from devices import grown

from diffnotes.schedule import NoiseSchedule
from diffnotes.training.checkpoint import list_checkpoints
from diffnotes.training.loop import TrainConfig, Trainer, fit
from diffnotes.training.networks import UNet

SCHEDULE = NoiseSchedule.linear(T=50)
CONFIG = TrainConfig(steps=30, batch=8, accumulate=2, label_drop=0.3, warmup=5, save_every=2, keep=2)


def network() -> UNet:
    """All that can be random is: labels are dropped, and so are activations, by torch's global generator."""
    torch.manual_seed(0)
    return grown(UNet(channels=1, T=50, width=4, multipliers=(1, 2), classes=3, dropout=0.2))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """21 examples: epochs end in the middle of batches."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(21, 1, 4, 4, generator=generator), torch.randint(0, 3, (21,), generator=generator)


def train(folder: Path) -> None:
    fit(SCHEDULE, network(), data(), CONFIG, folder=folder)


def trainer() -> Trainer[UNet]:
    return Trainer(SCHEDULE, network(), data(), CONFIG)


def sums(folder: Path) -> str:
    """SHA-256 of every file of the newest checkpoint: weights, average, moments, generators, losses, settings."""
    return (list_checkpoints(folder)[-1] / "SHA256SUMS").read_text()


def fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def wait(pid: int) -> bool:
    """True for a child that finished, False for one that was killed; one that failed ends everything."""
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("the training process failed")
    return os.WIFEXITED(status)


def at_random_moments(folder: Path, kills: int = 20) -> dict[str, Any]:
    """Train to the end again and again, each time killed and resumed, until `kills` processes have been killed."""
    start = time.monotonic()
    wait(fork(lambda: train(folder / "whole")))
    life, expected = (time.monotonic() - start) / 6, sums(folder / "whole")
    killed = while_writing = runs = in_vain = 0
    chance = random.Random(0)
    while killed < kills or not runs:
        place = folder / f"run-{runs}"
        before = list_checkpoints(place)
        pid = fork(lambda place=place: train(place))
        time.sleep(chance.uniform(0, life))
        os.kill(pid, signal.SIGKILL)  # a child that has finished is a zombie: it takes the signal and stays finished
        if wait(pid):
            runs += 1
            if sums(place) != expected:
                sys.exit(f"after {killed} kills, the files differ from those of the run that was left alone")
        else:
            killed += 1
            while_writing += any(place.glob(".tmp-*"))
            in_vain = in_vain + 1 if list_checkpoints(place) == before else 0
            if in_vain == 4:  # too short a life to get anywhere on this machine
                life, in_vain = 1.5 * life, 0
    return {"killed": killed, "while_writing": while_writing, "runs": runs}


def at_every_file_operation(folder: Path) -> dict[str, Any]:
    """Kill a process at the first, second, .. operation on a file that writing one checkpoint takes."""
    first = trainer()
    for step in (2, 4):
        first.done = step
        first.losses[:step] = 1.0
        first.save(folder)

    def work(fatal: int) -> None:
        run = trainer()
        run.resume(folder)
        run.step()
        run.done = 6
        run.losses[:6] = 1.0
        save(run, fatal)

    def save(run: Trainer[UNet], fatal: int) -> None:
        count = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event.split(".")[0] in ("open", "os", "shutil") and str(folder) in str(arguments):
                count += 1
                if count == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        run.save(folder)

    found: list[int] = []
    while not wait(fork(lambda: work(len(found) + 1))):
        run = trainer()
        run.resume(folder)  # a damaged checkpoint would warn, and warnings are errors
        found.append(run.done)
        if run.done == 6:  # the folder is as after a whole write: take the new one away for the next child
            for path in list_checkpoints(folder):
                path.rename(folder / f"was-{len(found)}-{path.name}")
            for step in (2, 4):
                first.done = step
                first.save(folder)
    replaced: list[int] = []
    run = trainer()
    run.resume(folder)
    while not wait(fork(lambda: save(run, len(replaced) + 1))):  # now there is a checkpoint of step 6 already
        run.resume(folder)
        replaced.append(run.done)
    return {
        "found": found,
        "replaced": replaced,
        "left": sorted(path.name for path in folder.iterdir() if not path.name.startswith("was")),
    }


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("error")
    torch.set_num_threads(1)
    what = {"random": at_random_moments, "everywhere": at_every_file_operation}[sys.argv[1]]
    print(json.dumps(what(Path(sys.argv[2]))))
