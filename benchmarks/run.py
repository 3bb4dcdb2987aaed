"""`make bench`: what diffnotes costs beside floors and a peer, as ratios, into benchmarks/results/cpu.json and cpu.md.

    python -m benchmarks.run [--out FOLDER] [--tiny]

All tasks of a comparison take turns. A ratio is that of two times of the same round. The sentence in README.md and
CONTRIBUTING.md is written anew from the results, unless `--out` sends them elsewhere. Where diffusers is not installed
its rows are left out, and those of two threads where others use the cores. `--tiny` takes sizes that say nothing.
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.floors import bare_step, in_turns, jumps, quartiles
from diffnotes.data import fashion_mnist
from diffnotes.ddim import ddim_sample, dpmpp_2m_sample, ode_jump
from diffnotes.guidance import guided
from diffnotes.mixture import GaussianMixture
from diffnotes.reverse import ddpm_sample
from diffnotes.schedule import NoiseSchedule
from diffnotes.training.checkpoint import load_model
from diffnotes.training.loop import Trainer
from diffnotes.training.presets import PRESETS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
QUOTE = re.compile("(?<=<!-- bench -->).*(?=<!-- /bench -->)")  # in a document, one line
PEER = importlib.util.find_spec("diffusers") is not None
Row = dict[str, Any]


def row(what: str, over: list[float], under: list[float], count: int = 1, goal: str = "") -> Row:
    """The ratio of two times, one of each a round, of `count` of the thing; a goal is such as "<= 1.5"."""
    low, middle, high = (round(q, 3) for q in quartiles([a / b for a, b in zip(over, under, strict=True)]))
    if goal:
        limit = float(goal[2:])
        goal += ", met" if (middle <= limit if goal[0] == "<" else middle >= limit) else ", missed"
    micro = [float(f"{quartiles(times)[1] / count * 1e6:.3g}") for times in (over, under)]
    found = {"what": what, "threads": torch.get_num_threads(), "ratio": middle, "quartiles": [low, high]}
    return found | {"goal": goal, "microseconds": micro, "rounds": len(over)}


def jump_rows(tiny: bool) -> Iterator[Row]:
    """A jump on 128 images of 1 x 28 x 28, float32, with a model that costs nothing: 125 jumps less 25, over 100.

    Bare is `(a * x).add_(eps, alpha=b)`, and for DDPM a draw and its addition. diffusers' scheduler is called as its
    documentation shows, or in the cheapest way (an int for the time, `return_dict=False`). The goal of 5
    is that of the documented call; the cheapest one has none.
    """
    shape, short, long = ((8, 1, 8, 8), 2, 5) if tiny else ((128, 1, 28, 28), 25, 125)
    x_T, eps = torch.randn(2, *shape)
    for kind, rounds, near, far in ("DDIM", 150, "<= 1.5", ">= 5"), ("DDPM", 30, "", ""):
        tasks = {(name, n): task for n in (short, long) for name, task in jumps(kind, x_T, eps, n, PEER).items()}
        times, steps = in_turns(tasks, 4 if tiny else rounds), long - short
        jump = {name: [b - a for a, b in zip(times[name, short], times[name, long], strict=True)] for name, _ in tasks}
        bare, ours = jump.pop("bare"), jump.pop("diffnotes")
        yield row(f"{kind} jump / bare", ours, bare, steps, near)
        for peer in jump:
            if kind == "DDIM":  # the same work
                torch.testing.assert_close(tasks[peer, long](), tasks["diffnotes", long](), rtol=1e-4, atol=1e-3)
            yield row(f"{peer} / {kind} jump", jump[peer], ours, steps, far if peer == "diffusers" else "")


def sampling_rows(tiny: bool) -> Iterator[Row]:
    """16 pictures of the shipped network in 10 clipped steps, over the time spent in the network in the same run."""
    net, schedule, _ = load_model("fashion")
    model, shape, inside = guided(net, torch.arange(16) % 10), (16, 1, 28, 28), [0.0]

    def clocked(x: Tensor, t: Tensor) -> Tensor:
        start = time.process_time()
        eps = model(x, t)
        inside[-1] += time.process_time() - start
        return eps

    for name, sample in {"DDIM": ddim_sample, "DDPM": ddpm_sample, "2M": dpmpp_2m_sample}.items():
        whole = []
        inside.clear()
        for _ in range(2 if tiny else 15):
            inside.append(0.0)
            x_T, start = torch.randn(shape), time.process_time()
            sample(schedule, clocked, x_T, steps=1 if tiny else 10, clip=1.0)  # type: ignore[operator]
            whole.append(time.process_time() - start)
        yield row(f"{name} sample / its network", whole, inside)


def training_rows(tiny: bool) -> Iterator[Row]:
    """A step of the preset fashion-cpu, 64 pictures; bare is forward, backward, clipping, AdamW and the average."""
    preset = PRESETS["fashion-cpu"]()
    preset = dataclasses.replace(preset, config=dataclasses.replace(preset.config, batch=2 if tiny else 64))
    one, two = (preset.network().to(memory_format=torch.channels_last) for _ in range(2))  # type: ignore[call-overload]
    trainer = Trainer(preset.schedule, one, tuple(fashion_mnist("test")), preset.config)
    tasks = {"bare": bare_step(preset, two, two), "ours": trainer.step}
    times = in_turns(tasks, 2 if tiny else 25)
    yield row("Trainer.step / bare", times["ours"], times["bare"])


def error_rows(tiny: bool) -> Iterator[Row]:
    """DDIM and 2M, each in the fewest steps that come that close to the ODE's end; the exact model of eight modes."""
    schedule, angle = NoiseSchedule.linear(1000), torch.arange(8, dtype=torch.float64) * torch.pi / 4
    means, narrow = 1.4 * torch.stack([angle.cos(), angle.sin()], 1), 0.01 * torch.eye(2, dtype=torch.float64)
    data = GaussianMixture(torch.arange(1, 9).double() / 36, means, narrow.repeat(8, 1, 1))
    x_T = torch.randn(20 if tiny else 400, 2, dtype=torch.float64)
    end = ode_jump(schedule, data.eps, x_T, schedule.T)
    for most in (0.1,) if tiny else (0.03, 0.01, 0.003):
        tasks = {}
        for name, sample in {"DDIM": ddim_sample, "2M": dpmpp_2m_sample}.items():
            run = partial(sample, schedule, data.eps(schedule), x_T, spacing="quadratic")
            counts = (round(5 * 2 ** (k / 4)) for k in range(31))
            steps = next(n for n in counts if (run(steps=n) - end).norm(dim=1).mean() <= most)
            tasks[f"{name} in {steps}"] = partial(run, steps=steps)
        (slow, over), (fast, under) = in_turns(tasks, 2 if tiny else 15).items()
        yield row(f"{slow} / {fast} steps: {most} off the ODE", over, under)


ROWS = (jump_rows, sampling_rows, training_rows, error_rows)


def about() -> dict[str, Any]:
    """When, where, and with which versions."""
    cpu = platform.processor()
    if (info := Path("/proc/cpuinfo")).exists():
        cpu = next(re.finditer("model name\\s*: (.*)", info.read_text("utf-8")), ["", cpu])[1]
    found = {"date": time.strftime("%Y-%m-%d"), "cpu": cpu, "cores": os.cpu_count()}
    found |= {"load": round(os.getloadavg()[0], 1), "python": platform.python_version()}
    found |= {"torch": torch.__version__}
    return found | ({"diffusers": importlib.metadata.version("diffusers")} if PEER else {})


def table(found: dict[str, Any]) -> str:
    """The results for people."""
    heads = ["slower / faster", "threads", "ratio", "quartiles", "goal", "µs of each", "rounds"]
    lines = ["# Measured on a CPU, by `make bench`", ""]
    lines += [", ".join(f"{name} {value}" for name, value in found.items() if name != "rows"), ""]
    lines += [" | ".join(["", *heads, ""]).strip(), "|---" * len(heads) + "|"]
    for r in found["rows"]:
        low, high = r["quartiles"]
        micro = " / ".join(f"{m:,g}" for m in r["microseconds"])
        cells = [r["what"], r["threads"], f"**{r['ratio']:g}**", f"{low:g} .. {high:g}", r["goal"], micro]
        lines.append("| " + " | ".join(map(str, [*cells, r["rounds"]])) + " |")
    lines += ["", "Each ratio is of two times of the same round; the table has the median and quartiles of all rounds."]
    lines += ["Two threads are timed only if the load at the start is below half the number of cores.", ""]
    return "\n".join([*lines, *(f"- {' '.join(str(of.__doc__).split())}" for of in ROWS)]) + "\n"


def quote(found: dict[str, Any]) -> str:
    """The sentence for the documents."""
    quoted = (
        "DDIM jump / bare",
        "diffusers / DDIM jump",
        "diffusers, cheapest call / DDIM jump",
        "Trainer.step / bare",
    )
    ratios = {row["what"]: f"{row['ratio']:.2f}" for row in reversed(found["rows"])}  # those of one thread come first
    ddim, peer, cheapest, train = (ratios[what] for what in quoted)
    return (
        "On one CPU thread, a DDIM jump (one update of the sampler, without the network) takes "
        f"{ddim} times as long as the two tensor operations that it consists of. A step of diffusers' scheduler takes "
        f"{peer} times as long as our jump ({cheapest} when called in the cheapest way), and `Trainer.step` takes "
        f"{train} times as long as a bare training step ([table](benchmarks/results/cpu.md))."
    )


def save(found: dict[str, Any], out: Path) -> None:
    """The numbers and their table."""
    (out / "cpu.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (out / "cpu.md").write_text(table(found), "utf-8")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {**about(), "rows": []}
    torch.manual_seed(0)
    free = asked.tiny or found["load"] < found["cores"] / 2  # two threads that wait for a core say nothing
    for threads in (1, 2) if free else (1,):
        torch.set_num_threads(threads)
        for rows in ROWS if threads == 1 else ROWS[:1]:
            for found_row in rows(asked.tiny):
                print(found_row, flush=True)
                found["rows"].append(found_row)
    save(found, asked.out)
    for name in DOCUMENTS if asked.out == RESULTS else ():
        text = (ROOT / name).read_text("utf-8")
        (ROOT / name).write_text(QUOTE.sub(lambda _: quote(found), text), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
