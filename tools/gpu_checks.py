"""The first two parts of `tools/gpu.py`: is what is right on a CPU right on a GPU, the tests and the notebooks.

`diffnotes` is not imported here: the tests import it themselves, under a hook that checks shapes.
"""

import asyncio
import copy
import difflib
import importlib.util
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu import Job

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests" / "notebooks"))  # for pictures
KERNEL = "diffnotes-gpu"


def need(*packages: str) -> None:
    """Raise ImportError, naming all of these packages that are not installed."""
    if lacking := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise ImportError(f"not installed: {', '.join(lacking)}")


# ---- the tests ----------------------------------------------------------------------------------------------------


class Outcomes:
    """A plugin of pytest that notes each test as soon as it has run."""

    def __init__(self, job: "Job") -> None:
        self.job = job

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            said = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            name = report.nodeid if report.when == "call" else f"{report.nodeid} ({report.when})"
            seconds = round(report.duration, 2)
            self.job.note(name, {"outcome": report.outcome, "seconds": seconds, "said": said[-1000:]})

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.job.note(report.nodeid, {"outcome": "not collected", "said": report.longreprtext[-1000:]})


def tests(job: "Job") -> None:
    """All tests marked `gpu`. Without a GPU they are collected, and skip."""
    need("torch", "pytest", "hypothesis", "scipy", "sympy", "PIL")
    import pytest

    every = sorted((ROOT / "tests").glob("test_*.py"))
    files = [str(path) for path in every if "pytest.mark.gpu" in path.read_text("utf-8")]
    # not the options of pyproject.toml, which ask for plugins that may be missing, and make warnings errors
    shapes = (
        ["--jaxtyping-packages=diffnotes,beartype.beartype"] if importlib.util.find_spec("beartype") else []
    )
    options = ["-o", "addopts=", "-p", "no:cacheprovider", "-W", "default", "--tb=short", "-v", *shapes]
    options += ["--continue-on-collection-errors", "-m", "gpu"]
    status = pytest.main([*options, *files], plugins=[Outcomes(job)])
    job.note("pytest", {"status": int(status), "files": len(files), "shapes checked": bool(shapes)})


# ---- the notebooks --------------------------------------------------------------------------------------------------


def notebooks(job: "Job") -> None:
    """Every notebook in a kernel of this Python, at the same time where there are cores for it."""
    need("torch", "nbclient", "nbformat", "ipykernel")
    paths = sorted((ROOT / "book").glob("*.ipynb"))[: 1 if job.tiny else None]
    os.environ["OMP_NUM_THREADS"] = "1"  # as when the outputs were saved
    if job.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"JUPYTER_PATH": folder, "JUPYTER_RUNTIME_DIR": folder, "IPYTHONDIR": folder}
        spec = Path(folder) / "kernels" / KERNEL / "kernel.json"
        spec.parent.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec.write_text(json.dumps({"argv": argv, "display_name": KERNEL, "language": "python"}))
        asyncio.run(_all(job, paths))


async def _all(job: "Job", paths: list[Path]) -> None:
    cores = asyncio.Semaphore(max(1, (os.cpu_count() or 1) // 2))

    async def one(path: Path) -> None:
        async with cores:
            job.note(path.name, await executed(path, job.left() - 5))

    await asyncio.gather(*[one(path) for path in paths])


async def executed(path: Path, seconds: float) -> dict[str, Any]:
    """Run a notebook for at most so long, and say in what its outputs are other than saved."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    names = imported(cell.source for cell in cells)
    if lacking := [name for name in names if importlib.util.find_spec(name) is None]:
        return {"skipped": f"not installed: {', '.join(lacking)}"}
    saved = copy.deepcopy(cells)
    for cell in cells:
        cell.outputs, cell.execution_count = [], None
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(
        notebook, timeout=None, kernel_name=KERNEL, resources=resources, coalesce_streams=True
    )
    start, state = time.perf_counter(), "done"
    try:
        await asyncio.wait_for(client.async_execute(), max(seconds, 1))
    except TimeoutError:
        state = f"cut after {seconds:.0f} s"
    except Exception as error:  # a cell failed, or the kernel
        state = f"failed: {type(error).__name__}: {error}"[-600:]
    ran = [(i, *pair) for i, pair in enumerate(zip(saved, cells, strict=True)) if pair[1].execution_count]
    return {
        "state": state,
        "seconds": round(time.perf_counter() - start, 1),
        "cells run": f"{len(ran)} of {len(cells)}",
        "texts that differ": [
            f"cell {i}, {d}" for i, a, b in ran for d in text_differences(a.outputs, b.outputs)
        ],
        "figures that differ": [
            f"cell {i}, {d}" for i, a, b in ran for d in figure_differences(a.outputs, b.outputs)
        ],
    }


def imported(sources: Iterable[str]) -> list[str]:
    """The packages that lines of code import, wherever they stand.

    >>> imported(["import os, sys", "if x:\\n    from torch.nn import Linear"])
    ['os', 'sys', 'torch']
    """
    found: set[str] = set()
    for line in "\n".join(sources).splitlines():
        if match := re.match(r"\s*(?:from ([\w.]+) import |import ([\w., ]+)$)", line):
            found |= {name.split()[0].split(".")[0] for name in (match[1] or match[2]).split(",")}
    return sorted(found)


def texts(outputs: list[Any]) -> dict[str, str]:
    """What a cell shows as text: its streams, each whole, and every kind of text, pictures inside left out."""
    found: dict[str, str] = {}
    for output in outputs:
        parts = {kind: text for kind, text in output.get("data", {}).items() if kind.startswith("text/")}
        if output["output_type"] == "stream":
            parts[output["name"]] = output["text"]
        if output["output_type"] == "error":
            parts["error"] = f"{output['ename']}: {output['evalue']}"
        for kind, text in parts.items():
            picture = r"data:image/(?:png|jpeg);base64,[A-Za-z0-9+/=\\\s]*"
            found[kind] = found.get(kind, "") + re.sub(picture, "a picture", "".join(text))
    return found


def text_differences(saved: list[Any], got: list[Any], most: int = 700) -> Iterator[str]:
    """The lines of a cell's texts that are other than saved, "-" saved and "+" now; one string a kind of text."""
    before, now = texts(saved), texts(got)
    for kind in sorted({*before, *now}):
        one, two = before.get(kind, ""), now.get(kind, "")
        if one != two:
            lines = list(difflib.unified_diff(one.splitlines(), two.splitlines(), lineterm="", n=0))[2:]
            found = "\n".join(lines) or "only line ends differ"
            yield f"{kind}: {found[:most]}{'…' if len(found) > most else ''}"


def figure_differences(saved: list[Any], got: list[Any]) -> Iterator[str]:
    """Which of a cell's pictures are not the saved figures, in words."""
    try:
        from pictures import difference, pictures  # type: ignore[import-not-found]
    except ImportError as error:
        yield f"not compared: {error}"
        return
    before, now = list(pictures(saved)), list(pictures(got))
    if len(before) != len(now):
        yield f"{len(before)} pictures are saved, {len(now)} were drawn"
    for number, pair in enumerate(zip(before, now, strict=False)):
        if found := difference(*pair):
            yield f"picture {number}: {found[0]}"
