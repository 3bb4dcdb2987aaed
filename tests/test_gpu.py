"""tools/gpu.py: every part is bounded and leaves what it had, what is missing has a reason, and all of it runs tiny."""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tools import gpu

ROOT = Path(__file__).resolve().parent.parent


def asked(out: Path, **more: object) -> argparse.Namespace:
    plain = {"out": out, "minutes": 1.0, "only": None, "data": None, "device": "cpu", "tiny": True}
    return argparse.Namespace(**plain | more)


def job(out: Path, part: str, seconds: float = 60.0) -> gpu.Job:
    return gpu.Job(part, out, "cpu", None, True, time.time() + seconds)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What each part runs in the place of its measurements: a program, given the folder for the results."""
    programs = dict.fromkeys(gpu.SHARES, "")

    def command(arguments: argparse.Namespace, part: str, until: float) -> Sequence[str]:
        begin = f"import sys, time; sys.path.insert(0, {str(ROOT / 'tools')!r}); import gpu; from pathlib import Path\n"
        begin += f"job = gpu.Job({part!r}, Path({str(arguments.out)!r}), 'cpu', None, True, {until})\n"
        return [sys.executable, "-c", begin + programs[part] + "\ngpu.write(job.out, job.part, state='done')"]

    monkeypatch.setattr(gpu, "command", command)
    monkeypatch.setattr(gpu, "machine", lambda: {"card": "none"})
    return programs


def test_a_part_that_takes_too_long_is_cut_and_the_others_still_run(
    tmp_path: Path, scripts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gpu.SHARES, "times", 0.1)
    scripts["times"] = "job.note('first', {'ms': 1.5}); time.sleep(600)"
    scripts["compiled"] = "sys.exit(3)"
    start = time.monotonic()
    gpu.measure(asked(tmp_path), ["--tiny"])
    assert time.monotonic() - start < 60
    found = gpu.read(tmp_path)
    assert {part: found[part]["state"] for part in gpu.SHARES} == {
        "tests": "done",
        "notebooks": "done",
        "times": "cut",
        "compiled": "failed",
        "training": "done",
    }
    assert found["times"]["entries"] == {"first": {"ms": 1.5}}
    assert found["times"]["reason"] == "its time was over"
    assert "status 3" in found["compiled"]["reason"]


def test_only_what_is_asked_for_is_measured_again(tmp_path: Path, scripts: dict[str, str]) -> None:
    scripts |= {"tests": "job.note('old', {'ms': 1})", "times": "job.note('kept', {'ms': 2})"}
    gpu.measure(asked(tmp_path), [])
    scripts["tests"] = "job.note('new', {'ms': 3})"
    gpu.measure(asked(tmp_path, only=["tests"]), [])
    found = gpu.read(tmp_path)
    assert list(found["tests"]["entries"]) == ["new"]
    assert list(found["times"]["entries"]) == ["kept"]
    gpu.measure(asked(tmp_path), [])
    assert found.keys() == gpu.read(tmp_path).keys()


def test_what_a_part_starts_is_stopped_with_it(tmp_path: Path) -> None:
    """The child would write once more as soon as the part is over."""
    child = "import os, time\nopen('begun', 'w')\nwhile not os.path.exists('over'): time.sleep(0.01)\nopen('late', 'w')"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], cwd={str(tmp_path)!r})"
    assert gpu.bounded([sys.executable, "-c", parent], 3.0, subprocess.DEVNULL) is None
    assert (tmp_path / "begun").exists()
    (tmp_path / "over").touch()
    time.sleep(1)
    assert not (tmp_path / "late").exists()


def test_a_missing_package_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.util, "find_spec", lambda name: None if name in ("nbval", "ot") else object())
    gpu.work(job(tmp_path, "notebooks"))
    of = gpu.read(tmp_path)["notebooks"]
    assert (of["state"], of["reason"]) == ("skipped", "not installed: nbval, ot")
    monkeypatch.setattr(gpu, "tests", lambda job: 1 / 0)
    gpu.work(job(tmp_path, "tests"))
    of = gpu.read(tmp_path)["tests"]
    assert (of["state"], of["reason"]) == ("failed", "ZeroDivisionError: division by zero")


def report(nodeid: str, outcome: str, said: str = "", when: str = "call") -> SimpleNamespace:
    found = SimpleNamespace(nodeid=nodeid, outcome=outcome, when=when, duration=1.5, longrepr=None)
    found.longreprtext, found.failed = said, outcome == "failed"
    return found


def test_each_test_and_each_cell_that_differs_is_noted(tmp_path: Path) -> None:
    plugin = gpu.Outcomes(job(tmp_path, "tests"))
    plugin.pytest_runtest_logreport(report("tests/test_a.py::test_b", "passed", when="setup"))
    plugin.pytest_runtest_logreport(report("tests/test_a.py::test_b", "failed", "x" * 5000))
    plugin.pytest_runtest_logreport(report("book/a.ipynb::Cell 0", "passed"))
    plugin.pytest_runtest_logreport(report("book/a.ipynb::Cell 1", "failed", "\x1b[91m1 != 2\x1b[0m"))
    plugin.pytest_runtest_logreport(report("book/a.ipynb::Cell 2", "passed"))
    plugin.pytest_collectreport(report("tests/test_c.py", "failed", "no module"))
    assert gpu.read(tmp_path)["tests"]["entries"] == {
        "tests/test_a.py::test_b": {"outcome": "failed", "seconds": 1.5, "said": "x" * 1000},
        "a.ipynb": {"cells": 3, "seconds": 4.5, "cells that differ": ["Cell 1: 1 != 2"]},
        "tests/test_c.py": {"outcome": "not collected", "said": "no module"},
    }


def test_the_table_has_a_row_an_entry_and_the_lists_below() -> None:
    entries = {"a": {"ms": 1.5, "waits": ["train.py:3"]}, "b": {"ms": 2.5, "waits": []}, "c": {"failed": "a | b\nc"}}
    text = gpu.table({"times": {"state": "done", "entries": entries}})
    assert "| a | 1.5 | 1 of them |\n| b | 2.5 | none |" in text
    assert "| c | a \\| b c |" in text
    assert "a, waits:\n\n- train.py:3" in text


@pytest.mark.parametrize("words", [["--minutes", "0"], ["--data", "nowhere"], ["--device", "tpu"]])
def test_bad_options_are_refused(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


def test_a_training_that_takes_too_long_is_judged_as_far_as_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import gpu_times

    class Late(gpu_times.Keep):
        def __init__(self, *args: object, **more: object) -> None:
            super().__init__(*args, **more | {"every": 2, "seconds": 0.0})  # type: ignore[arg-type]

    monkeypatch.setattr(gpu_times, "Keep", Late)
    with gpu_times.attempt(mine := job(tmp_path, "training"), "end"):
        gpu_times.train(mine, path := tmp_path / "weights.safetensors")
    entries = gpu.read(tmp_path)["training"]["entries"]
    assert "stopped after 2 of 6 steps" in entries["end"]["failed"]
    assert entries["fashion-gpu, trained"]["steps"] == 2
    assert path.read_bytes() == (tmp_path / "weights.safetensors.0").read_bytes()


@pytest.mark.slow
def test_all_of_it_runs_tiny_on_a_cpu(tmp_path: Path) -> None:
    """In two minutes where two cores are free; there is more time, so that busy ones are no reason to fail."""
    command = [sys.executable, "tools/gpu.py", "--tiny", "--device", "cpu", "--minutes", "30", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=1800)
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))
    log = (tmp_path / "log.txt").read_text("utf-8")
    assert list(found) == ["about", *gpu.SHARES]
    assert {part: found[part]["state"] for part in gpu.SHARES} == dict.fromkeys(gpu.SHARES, "done"), log
    entries = {part: found[part]["entries"] for part in gpu.SHARES}
    failed = [name for of in entries.values() for name, entry in of.items() if "failed" in entry]
    assert failed == [], log

    tests = [entry for name, entry in entries["tests"].items() if name != "pytest"]
    every = [path.read_text("utf-8") for path in ROOT.glob("tests/**/test_*.py")]
    assert len(tests) >= sum(text.count("\n@pytest.mark.gpu") for text in every)
    assert all("CUDA" in entry["said"] for entry in tests)

    notebook, done = entries["notebooks"].values()
    assert notebook["cells"] > 10
    assert notebook["cells that differ"] == []
    assert done == {"status": 0}

    for kind in ("DDIM", "DDPM"):
        assert entries["times"][f"{kind} jump, 8x1x8x8, diffnotes"]["us a jump"] > 0
        assert entries["compiled"][f"{kind} jump, 8x1x8x8, compiled, ddim_step"]["us a jump"] > 0
    for name in ("fashion-gpu", "cifar10-gpu"):
        step = entries["times"][f"{name} step, Trainer.step"]
        assert step["pictures a second"] == pytest.approx(4e3 / step["ms"], rel=1e-3)
        assert step["TFLOP"] > 0
    assert entries["compiled"]["fashion-gpu step, compiled, Trainer.step"]["over the first"] > 0
    for part, group in ("times", "fashion-gpu step"), ("compiled", "fashion-gpu step, compiled"):
        theirs, ours = entries[part][f"{group}, diffusers"], entries[part][f"{group}, Trainer.step"]
        assert theirs["million weights"] == pytest.approx(ours["million weights"], rel=0.5)  # so small, few widths
        assert theirs["TFLOP"] > 0
    for name in ("shipped", "of the size of fashion-gpu"):
        assert entries["times"][f"sampling, {name}, 8 pictures"]["pictures"] == 8

    training = entries["training"]
    assert training["fashion-gpu, trained"]["steps"] == 6
    for name in ("shipped", "fashion-gpu"):
        assert 0 < training[f"{name}, bits per dimension"]["bits_per_dim"] < 30
        assert training[f"{name}, 10 steps, eta 0.5"]["stderr"] > 0
        with Image.open(tmp_path / f"grid-{name}.png") as image:
            assert image.size == (10 * 30 - 2, 10 * 30 - 2)

    table = (tmp_path / "table.md").read_text("utf-8")
    assert re.findall("^## (.+)$", table, re.MULTILINE) == ["about", *gpu.SHARES]
    files = list(tmp_path.iterdir())
    losses = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in losses] == [1, 2, 3, 4, 5, 6]
    assert len(files) <= 9
    assert max(path.stat().st_size for path in files) < 16 * 2**20
