"""Measure on a GPU all that this repository says of GPUs, in one command and a bounded time.

    python tools/gpu.py --minutes 8 --out DIR --data FOLDER

It needs a CUDA device and no network. In this order, each part in a process of its own, which is stopped when its
share of the time is over:

    tests        all tests marked `gpu`
    notebooks    every notebook on the device, its texts and figures compared with the saved ones
    times        the card; jumps of the samplers, training steps and 10,000 pictures, against their floors
    compiled     jumps and training steps under CUDA graphs and torch.compile
    training     in the minutes left, `fashion-gpu` is trained, then judged beside the network that is shipped

DIR/results.json and DIR/table.md are written anew after each measurement, so a run that is cut keeps what it had.
Beside them lie log.txt, two pictures, and the trained weights in pieces below 16 MB: `cat weights.safetensors.*` puts
them together. FOLDER holds the four .gz files of Fashion-MNIST; without it the usual places are searched. Run it from a
clone, with any Python whose PyTorch sees the card. Nothing is installed. What is missing is left out, with the reason:

    all          torch, numpy, jaxtyping, safetensors, tqdm, pillow
    tests        pytest, hypothesis, scipy, sympy, torchmetrics; beartype, for the checks of shapes
    notebooks    pytest, nbval, matplotlib, sympy, scipy, ipywidgets, POT, pyyaml; pytest-xdist, for many at a time
    compiled     triton, which comes with torch, and a C compiler
    peers        diffusers

Where there is a network, `pip install -e ".[test]"` brings all of it. Where there is none, `pip download` the
missing wheels elsewhere, for its Python and system, and there `pip install --no-index --no-deps` them.

`--only PART ...` measures these parts and keeps the results of the others. `--tiny --device cpu --minutes 2` goes
through all of it on a CPU, at sizes whose numbers mean nothing.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# of the time, at most; the last has all that is left but 2 %, in which it is stopped
SHARES = {"tests": 0.12, "notebooks": 0.22, "times": 0.2, "compiled": 0.28, "training": 1.0}
Entry = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """Where a part runs, until when, and where its results go."""

    part: str
    out: Path
    device: str
    data: Path | None
    tiny: bool
    until: float  # seconds since 1970

    def left(self) -> float:
        """The seconds that this part still has."""
        return self.until - time.time()

    def note(self, name: str, entry: Entry) -> None:
        """Write one measurement, now."""
        print(f"{self.part}: {name}: {entry}", flush=True)
        write(self.out, self.part, entries={name: entry})


def read(out: Path) -> dict[str, Any]:
    """All results so far."""
    path = out / "results.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def write(out: Path, part: str, *, entries: Entry | None = None, **about: Any) -> None:
    """Add to the results of a part, on the disk, where they and their table appear whole or not at all."""
    found = read(out)
    of = found.setdefault(part, {})
    of.update(about)
    of.setdefault("entries", {}).update(entries or {})
    texts = {"results.json": json.dumps(found, indent=1, ensure_ascii=False), "table.md": table(found)}
    for name, text in texts.items():
        (out / f".{name}").write_text(text + "\n", "utf-8")
        os.replace(out / f".{name}", out / name)


def table(found: dict[str, Any]) -> str:
    """The results for people: a section a part, a table for the entries with the same columns, then their lists."""
    lines = ["# Measured on a GPU"]
    for part, of in found.items():
        lines += ["", f"## {part}", ""]
        lines += [f"- {name}: {shown(value, 400)}" for name, value in of.items() if name != "entries"]
        entries, lists = of["entries"].items(), []
        for columns in dict.fromkeys(tuple(entry) for _, entry in entries):
            lines += ["", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
            for name, entry in [(name, entry) for name, entry in entries if tuple(entry) == columns]:
                lines.append(f"| {name} | {' | '.join(map(shown, entry.values()))} |")
                for column, value in entry.items():
                    if isinstance(value, list) and value:
                        lists += ["", f"{name}, {column}:", "", *(f"- {shown(v, 400)}" for v in value[:20])]
        lines += lists
    return "\n".join(lines)


def shown(value: Any, most: int = 120) -> str:
    """A value in a cell of the table."""
    if isinstance(value, list):
        return f"{len(value)} of them" if value else "none"
    text = " ".join(str(value).split()).replace("|", "\\|")
    return text if len(text) <= most else text[: most - 1] + "…"


class Outcomes:
    """A plugin of pytest that notes each test, and each notebook after each of its cells, as soon as it has run."""

    def __init__(self, job: Job) -> None:
        self.job, self.books = job, dict[str, Entry]()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        said = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        said = re.sub(r"\x1b\[[\d;]*m", "", said)[-1000:]
        path, _, cell = report.nodeid.rpartition("::")
        if path.endswith(".ipynb"):
            book = self.books.setdefault(path, {"cells": 0, "seconds": 0.0, "cells that differ": []})
            book["cells"] += 1
            book["seconds"] = round(book["seconds"] + report.duration, 2)
            book["cells that differ"] += [f"{cell}: {said}"] if report.failed else []
            return self.job.note(Path(path).name, book)
        name = report.nodeid if report.when == "call" else f"{report.nodeid} ({report.when})"
        self.job.note(name, {"outcome": report.outcome, "seconds": round(report.duration, 2), "said": said})

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.job.note(report.nodeid, {"outcome": "not collected", "said": report.longreprtext[-1000:]})


def lacking(*packages: str) -> list[str]:
    """Those of these packages that are not installed."""
    return [name for name in packages if util.find_spec(name) is None]


def run_pytest(job: Job, needed: Sequence[str], *arguments: object) -> None:
    """pytest without the options of pyproject.toml, which ask for plugins that may be missing, and for no warning."""
    if missing := lacking("torch", "pytest", *needed):
        raise ImportError(f"not installed: {', '.join(missing)}")
    import pytest

    options = ["-o", "addopts=", "-p", "no:cacheprovider", "-W", "default", "--tb=short", "-v"]
    status = pytest.main([*options, *map(str, arguments)], plugins=[Outcomes(job)])
    job.note("pytest", {"status": int(status)})


def tests(job: Job) -> None:
    """All tests marked `gpu`. Without a GPU they are collected, and skip."""
    every = sorted(ROOT.glob("tests/**/test_*.py"))
    files = [path for path in every if "mark.gpu" in path.read_text("utf-8")]
    shapes = [] if lacking("beartype") else ["--jaxtyping-packages=diffnotes,beartype.beartype"]
    options = [*shapes, "--continue-on-collection-errors", "-m", "gpu"]
    run_pytest(job, ["hypothesis", "scipy", "sympy", "PIL"], *options, *files)


def notebooks(job: Job) -> None:
    """Every notebook, as `make test` runs it; many at a time, where there are cores and pytest-xdist for it."""
    os.environ["OMP_NUM_THREADS"] = "1"  # as when the outputs were saved
    if job.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    which = "01-forward-deeper" if job.tiny else "*"
    paths = sorted(ROOT.glob(f"book/{which}.ipynb"), key=lambda path: path.stem)
    at_once = (os.cpu_count() or 1) // 2
    many = [] if at_once < 2 or lacking("xdist") else ["-n", at_once, "--dist", "loadscope"]
    needed = ["nbval", "ipykernel", "matplotlib", "sympy", "scipy", "ipywidgets", "ot", "yaml"]
    run_pytest(job, needed, *many, "--nbval", "--nbval-current-env", *paths)


def work(job: Job) -> None:
    """Measure a part, in a process of its own, and write how that went."""
    start, state, reason = time.time(), "done", ""
    try:  # gpu_times imports torch, and what is missing is a reason to skip
        part = {"tests": tests, "notebooks": notebooks}.get(job.part)
        (part or getattr(import_module("gpu_times"), job.part))(job)
    except (ImportError, FileNotFoundError) as error:
        state, reason = "skipped", str(error)
    except Exception as error:
        traceback.print_exc()
        state, reason = "failed", f"{type(error).__name__}: {error}"
    write(job.out, job.part, state=state, reason=reason[-1000:], seconds=round(time.time() - start, 1))


def bounded(command: Sequence[str], seconds: float, log: Any) -> int | None:
    """The exit status of a command, or None where it had to be stopped, with all that it started."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        return process.wait(max(seconds, 0))
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def command(arguments: argparse.Namespace, part: str, until: float) -> list[str]:
    """What measures one part, in any folder."""
    words = [sys.executable, __file__, "--part", part, "--until", str(until), "--device", arguments.device]
    words += ["--out", str(arguments.out.resolve()), *(["--tiny"] if arguments.tiny else [])]
    return [*words, *(["--data", str(arguments.data.resolve())] if arguments.data else [])]


def measure(arguments: argparse.Namespace, argv: Sequence[str]) -> None:
    """All parts, one after the other, within the minutes that there are."""
    out, total, start = arguments.out, 60 * arguments.minutes, time.time()
    asked = arguments.only or list(SHARES)
    out.mkdir(parents=True, exist_ok=True)
    kept = {part: of for part, of in read(out).items() if arguments.only and part not in asked}
    (out / "results.json").write_text(json.dumps(kept), "utf-8")
    write(out, "about", command=shlex.join(["python", "tools/gpu.py", *argv]), **machine())
    with open(out / "log.txt", "w", encoding="utf-8") as log:
        for part in asked:
            began = time.time()
            until = min(start + 0.98 * total, began + SHARES[part] * total)
            write(out, part, state="began", share=round(until - began, 1))
            status = bounded(command(arguments, part, until), until - began, log)
            seconds = round(time.time() - began, 1)
            if status is None:
                write(out, part, state="cut", reason="its time was over", seconds=seconds)
            elif status:
                reason = f"its process ended with status {status}, see log.txt"
                write(out, part, state="failed", reason=reason, seconds=seconds)
            print(f"{part}: {read(out)[part]['state']} after {seconds:.0f} s", flush=True)
    write(out, "about", seconds=round(time.time() - start, 1))
    (out / "log.txt").write_bytes((out / "log.txt").read_bytes()[-2_000_000:])
    print((out / "table.md").read_text("utf-8"))


def machine() -> Entry:
    """What can be said of this machine without PyTorch."""

    def said(*command: str) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
            return done.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return "unknown"

    found = {"when": time.strftime("%Y-%m-%d %H:%M:%S %z"), "python": platform.python_version()}
    asked = "--query-gpu=name,driver_version,memory.total"
    found["card"] = said("nvidia-smi", asked, "--format=csv,noheader")
    found["commit"] = said("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    for name in ("torch", "triton", "numpy", "jaxtyping", "pytest", "nbval", "diffusers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found | {"cores": os.cpu_count()}


def main(argv: Sequence[str]) -> None:
    """Read the command line and measure."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together (8)")
    parser.add_argument("--out", type=Path, required=True, help="the folder for the results")
    parser.add_argument("--data", type=Path, help="the folder with the four .gz files of Fashion-MNIST")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--only", nargs="+", choices=list(SHARES), help="measure these parts alone")
    parser.add_argument("--tiny", action="store_true", help="sizes that take no time and say nothing")
    parser.add_argument("--part", choices=list(SHARES), help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    if a.minutes <= 0:
        parser.error(f"--minutes must be positive, got {a.minutes}")
    if a.part is not None:
        return work(Job(a.part, a.out, a.device, a.data, a.tiny, a.until))
    if a.data is not None and not a.data.is_dir():
        parser.error(f"--data must be a folder, got {a.data}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and the part with it, see `bounded`
    measure(a, argv)


if __name__ == "__main__":
    main(sys.argv[1:])
