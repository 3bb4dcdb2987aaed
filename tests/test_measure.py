"""tools/measure.py: entries are measured once, written as they come, and measured again where they no longer hold."""

import json
import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from diffnotes.data import two_moons
from diffnotes.schedule import NoiseSchedule
from diffnotes.training.loop import TrainConfig, fit
from diffnotes.training.networks import MLP
from tools import measure


class Bench:
    """Three entries that cost nothing; which were measured, in order, and which raise."""

    def __init__(self) -> None:
        self.measured: list[str] = []
        self.broken: set[str] = set()

    def entries(self, folder: Path) -> dict[str, Callable[..., measure.Measured]]:
        return {name: partial(self.measure, name) for name in ("a", "bb", "ccc")}

    def measure(self, name: str, tools: object, n: int) -> measure.Measured:
        if name in self.broken:
            raise RuntimeError("the power went out")
        self.measured.append(name)
        return {"value": len(name)}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench()
    monkeypatch.setattr(measure, "entries", bench.entries)
    monkeypatch.setattr(measure, "load", lambda: None)
    monkeypatch.setattr(measure, "sha256", lambda path: f"of {path.name}")
    return bench


def values(folder: Path) -> dict[str, int]:
    entries = json.loads((folder / "images.json").read_text("utf-8"))["entries"]
    return {name: entry["value"] for name, entry in entries.items()}


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, bench: Bench) -> None:
    bench.broken.add("bb")
    with pytest.raises(RuntimeError, match="power"):
        measure.images(tmp_path, 20, "")
    assert values(tmp_path) == {"a": 1}
    bench.broken.clear()
    measure.images(tmp_path, 20, "")
    measure.images(tmp_path, 20, "")
    assert bench.measured == ["a", "bb", "ccc"]
    assert list(values(tmp_path)) == ["a", "bb", "ccc"]


def test_only_what_is_asked_for_is_measured_and_the_order_stays(tmp_path: Path, bench: Bench) -> None:
    measure.images(tmp_path, 20, "c+")
    measure.images(tmp_path, 20, "a")
    assert bench.measured == ["ccc", "a"]
    assert list(values(tmp_path)) == ["a", "ccc"]


def test_another_size_and_other_weights_are_measured_again(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure.images(tmp_path, 20, "a")
    measure.images(tmp_path, 30, "a")
    monkeypatch.setattr(measure, "sha256", lambda path: "another")
    measure.images(tmp_path, 30, "a")
    measure.images(tmp_path, 30, "a")
    assert bench.measured == ["a"] * 3


def test_every_entry_has_its_own_settings() -> None:
    found = measure.entries(Path())
    assert {"floor", "bits", "live/float32", "sample/10/0.0", "sample/1000/1.0"} <= set(found)
    settings = [repr((f.keywords, f.func)) for f in found.values() if hasattr(f, "keywords")]
    assert len(set(settings)) == len(settings)


def test_the_width_is_the_root_of_the_mean_variance_of_the_classes() -> None:
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(4000) % 2
    scale = torch.where(y == 0, 1.0, 3.0)[:, None]
    points = scale * torch.randn(4000, 5, generator=draw) + 100.0 * y[:, None]  # the means do not count
    found = measure.width(points, y)
    assert abs(found.value - (5 * (1 + 9) / 2) ** 0.5) < 4 * found.stderr
    assert (
        found.stderr < 0.06
    )  # the root of var(squares) / n over twice the width: sqrt((820 / 2 + 400) / 4000) / 10


def test_the_width_of_two_points_is_that_of_their_own_deviation() -> None:
    points, y = torch.tensor([[0.0], [2.0], [5.0], [7.0], [40.0]]), torch.tensor([0, 0, 1, 1, 2])
    assert measure.width(points, y).value == pytest.approx(2**0.5)  # variances 2 and 2; one point has none


@pytest.mark.parametrize(
    "words",
    [
        "account.py",
        "account.py <account>",
        "notebooks.py --help",
        "notebooks.py nothing.ipynb",
        "pdf.py a b",
        "pdf.py a.html",
        "picture.py a",
    ],
)
def test_wrong_arguments_are_one_line(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool, *arguments = words.split()
    monkeypatch.setattr(sys, "argv", [tool, *arguments])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(Path(measure.__file__).with_name(tool)), run_name="__main__")
    assert isinstance(caught.value.code, str)
    assert "\n" not in caught.value.code


@pytest.mark.parametrize("words", ["images --n 19", "images --only (", "curve", "curve --run nowhere"])
def test_what_cannot_be_measured(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["measure.py", *words.split()])
    with pytest.raises(SystemExit, match="2"):
        measure.main()
    assert capsys.readouterr().err.count("\n") == 1


def test_the_curve_of_a_run_is_its_loss_in_means(tmp_path: Path) -> None:
    config = TrainConfig(steps=5, batch=4, save_every=5)
    schedule, net = NoiseSchedule.linear(100), MLP(2, 100, width=8)
    losses = fit(schedule, net, two_moons, config, folder=tmp_path / "run").losses
    measure.curve(tmp_path, tmp_path / "run", every=2)
    written = json.loads((tmp_path / "curve.json").read_text())
    assert written["steps"] == 5
    means = torch.stack([losses[:2].mean(), losses[2:4].mean(), losses[4]])
    assert written["loss"] == pytest.approx(means.tolist(), rel=1e-3)  # four digits are written
