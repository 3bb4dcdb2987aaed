"""tools/gpu.py: every part is bounded and leaves what it had, what is missing has a reason, and all of it runs tiny."""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from tools import gpu, gpu_checks

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
    monkeypatch.setitem(gpu.SHARES, "times", 0.05)
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
    child = "import time; time.sleep(3); open('late', 'w')"
    parent = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], cwd={str(tmp_path)!r})"
    )
    assert gpu.bounded([sys.executable, "-c", parent], 1.0, subprocess.DEVNULL) is None
    time.sleep(3)
    assert not (tmp_path / "late").exists()


def test_a_missing_package_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    import gpu_checks as found

    monkeypatch.setattr(
        found.importlib.util, "find_spec", lambda name: None if name == "nbclient" else object()
    )
    gpu.work(job(tmp_path, "notebooks"))
    of = gpu.read(tmp_path)["notebooks"]
    assert (of["state"], of["reason"]) == ("skipped", "not installed: nbclient")
    monkeypatch.setattr(found, "tests", lambda job: 1 / 0)
    gpu.work(job(tmp_path, "tests"))
    of = gpu.read(tmp_path)["tests"]
    assert (of["state"], of["reason"]) == ("failed", "ZeroDivisionError: division by zero")


def test_a_notebook_whose_packages_are_missing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setattr(
        gpu_checks.importlib.util, "find_spec", lambda name: None if name == "sympy" else object()
    )
    found = asyncio.run(gpu_checks.executed(ROOT / "book" / "01-forward.ipynb", 1))
    assert found == {"skipped": "not installed: sympy"}


def stream(text: str, name: str = "stdout") -> dict[str, str]:
    return {"output_type": "stream", "name": name, "text": text}


def display(**data: str) -> dict[str, object]:
    return {"output_type": "display_data", "data": {f"text/{kind}": text for kind, text in data.items()}}


@pytest.mark.parametrize(
    ("saved", "got", "said"),
    [
        ([stream("a\nb\n")], [stream("a\n"), stream("b\n")], []),
        ([stream("a\nb\nc\n")], [stream("a\nB\nc\n")], ["stdout: @@ -2 +2 @@\n-b\n+B"]),
        ([stream("a\n")], [stream("a\n"), stream("slow", "stderr")], ["stderr: @@ -0,0 +1 @@\n+slow"]),
        ([stream("a\n")], [stream("a")], ["stdout: only line ends differ"]),
        ([display(plain="x")], [], ["text/plain: @@ -1 +0,0 @@\n-x"]),
        (
            [display(html='<img src="data:image/png;base64,AAAA">')],
            [display(html='<img src="data:image/png;base64,BBBB">')],
            [],
        ),
        (
            [],
            [{"output_type": "error", "ename": "ValueError", "evalue": "no"}],
            ["error: @@ -0,0 +1 @@\n+ValueError: no"],
        ),
    ],
)
def test_texts_are_compared_line_by_line(saved: list[object], got: list[object], said: list[str]) -> None:
    assert list(gpu_checks.text_differences(saved, got)) == said


def test_long_differences_are_cut() -> None:
    (found,) = gpu_checks.text_differences([], [stream("x" * 5000)])
    assert len(found) < 800


def test_the_table_has_a_row_an_entry_and_the_lists_below() -> None:
    entries = {
        "a": {"ms": 1.5, "waits": ["train.py:3"]},
        "b": {"ms": 2.5, "waits": []},
        "c": {"failed": "a | b\nc"},
    }
    text = gpu.table({"times": {"state": "done", "entries": entries}})
    assert "| a | 1.5 | 1 of them |\n| b | 2.5 | none |" in text
    assert "| c | a \\| b c |" in text
    assert "a, waits:\n\n- train.py:3" in text


@pytest.mark.parametrize("words", [["--minutes", "0"], ["--data", "nowhere"], ["--device", "tpu"]])
def test_bad_options_are_refused(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_all_of_it_runs_tiny_on_a_cpu(tmp_path: Path) -> None:
    """In two minutes where two cores are free; there is more time, so that busy ones are no reason to fail."""
    command = [
        sys.executable,
        "tools/gpu.py",
        "--tiny",
        "--device",
        "cpu",
        "--minutes",
        "8",
        "--out",
        str(tmp_path),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=600)
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))
    log = (tmp_path / "log.txt").read_text("utf-8")
    assert list(found) == ["about", *gpu.SHARES]
    assert {part: found[part]["state"] for part in gpu.SHARES} == dict.fromkeys(gpu.SHARES, "done"), log
    entries = {part: found[part]["entries"] for part in gpu.SHARES}
    failed = [name for of in entries.values() for name, entry in of.items() if "failed" in entry]
    assert failed == [], log

    tests = [entry for name, entry in entries["tests"].items() if name != "pytest"]
    marked = sum(path.read_text("utf-8").count("\n@pytest.mark.gpu") for path in ROOT.glob("tests/test_*.py"))
    assert len(tests) >= marked
    assert all("CUDA" in entry["said"] for entry in tests)

    (notebook,) = entries["notebooks"].values()
    assert notebook["state"] == "done"
    assert notebook["texts that differ"] == []

    for kind in ("DDIM", "DDPM"):
        assert entries["times"][f"{kind} jump, 8x1x8x8, diffnotes"]["us a jump"] > 0
        assert entries["compiled"][f"{kind} jump, 8x1x8x8, compiled, ddim_step"]["us a jump"] > 0
    for name in ("fashion-gpu", "cifar10-gpu"):
        step = entries["times"][f"{name} step, Trainer.step"]
        assert step["pictures a second"] == pytest.approx(4e3 / step["ms"], rel=1e-3)
        assert step["TFLOP"] > 0
    assert entries["compiled"]["fashion-gpu step, compiled, Trainer.step"]["over the first"] > 0
    assert entries["times"]["sampling, shipped, 8 pictures"]["pictures"] == 8

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
    assert len(files) <= 8
    assert max(path.stat().st_size for path in files) < 16 * 2**20
