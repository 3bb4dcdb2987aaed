"""tools/measure.py: entries are measured once, written as they come, and measured again where they no longer hold."""

import json
import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffnotes import metrics
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
    monkeypatch.setattr(measure, "load", lambda samples: None)
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
    assert {"floor/1000", "bits", "live/float32", "sample/10/0.0/2", "sample/1000/0.5"} <= set(found)
    assert {f"{name}/{seed}" for name in measure.PRIMARY for seed in measure.FRESH} <= set(found)
    settings = [repr((f.keywords, f.func)) for f in found.values() if hasattr(f, "keywords")]
    assert len(set(settings)) == len(settings)


def test_an_entry_against_another_reference_is_measured_again(tmp_path: Path, bench: Bench) -> None:
    measure.images(tmp_path, 20, "a")
    path = tmp_path / "images.json"
    path.write_text(path.read_text("utf-8").replace("the first 100 of each class", "none"), "utf-8")
    measure.images(tmp_path, 20, "a")
    assert bench.measured == ["a"] * 2
    content = json.loads(path.read_text("utf-8"))
    content["entries"]["a"]["reference"] = "another"  # an entry of its own
    path.write_text(json.dumps(content), "utf-8")
    measure.images(tmp_path, 20, "a")
    assert bench.measured == ["a"] * 3


# ---- distances, and what their errors are from ------------------------------------------------------------------


def clouds(n: int, m: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two sets of features in ten classes that lie far apart, and their classes."""
    shape, draw = (torch.Generator().manual_seed(s) for s in (0, seed + 1))
    y, y_ = torch.arange(n) % 10, torch.arange(m) % 10
    mix = torch.randn(4, 4, generator=shape)
    centres = 20 * torch.randn(10, 4, generator=shape)
    x, x_ = (centres[k] + torch.randn(len(k), 4, generator=draw) @ mix for k in (y, y_))
    return x, y, x_, y_


def judge(x_: torch.Tensor, y_: torch.Tensor) -> measure.Tools:
    """Tools with a reference, and nothing else."""
    redrawn = [measure.moments(x_[p]) for p in measure.redraws(y_, "reference")]
    nothing: Any = None
    return measure.Tools(nothing, nothing, nothing, x_, y_, measure.moments(x_), redrawn, None)


def test_the_distance_is_that_of_the_package() -> None:
    x, _, x_, _ = clouds(50, 80)
    there = metrics.frechet_distance(x, x_, resamples=2).value
    assert measure.distance(measure.moments(x), measure.moments(x_)) == pytest.approx(there, rel=1e-9)


def test_redraws_keep_every_class_and_are_shared_by_key() -> None:
    y = torch.arange(30) % 10
    first, again, other = (list(measure.redraws(y, key)) for key in (0, 0, 1))
    assert len(first) == measure.REDRAWS
    assert all(torch.equal(y[p].sort().values, y.sort().values) for p in first)
    assert all(torch.equal(p, q) for p, q in zip(first, again, strict=True))
    assert any(not torch.equal(p, q) for p, q in zip(first, other, strict=True))
    assert any(p.unique().numel() < len(y) for p in first)  # with replacement


def test_the_stratified_error_is_about_that_of_fresh_samples() -> None:
    """Classes far apart: an error that let their shares vary would be many times as large."""
    found = []
    for seed in range(30):
        x, y, x_, y_ = clouds(400, 4000, seed)
        found.append(measure.frechet(judge(x_, y_), x + 0.5, y, seed)["frechet"])
    values, errors = torch.tensor(found).T
    assert 0.6 < errors.mean() / values.std() < 1.7


def test_paired_redraws_give_a_difference_its_own_error() -> None:
    x, y, x_, y_ = clouds(400, 4000)
    tools = judge(x_, y_)
    a, b = (measure.frechet(tools, part, y, 0) for part in (x + 0.5, 1.01 * (x + 0.5)))
    alone = max(np.std(e["redrawn"]) for e in (a, b))
    assert np.std(np.subtract(a["redrawn"], b["redrawn"])) < alone / 2


def test_held_out_images_have_equal_classes_in_turn() -> None:
    y = torch.tensor([1, 0, 1, 0, 0, *range(2, 10), *range(10)])
    held, rest = measure.held_out(y, each=2)
    assert y[held].tolist() == [*range(10), *range(10)]
    assert held[:2].tolist() == [1, 0]
    assert sorted([*held.tolist(), *rest.tolist()]) == list(range(len(y)))


def test_a_share_has_the_error_of_draws_within_classes() -> None:
    y = torch.arange(1000) % 10
    assert measure.share((y < 5).double(), y) == (0.5, 0.0)  # each class knows its own value for sure
    right = torch.rand(1000, generator=torch.Generator().manual_seed(0)) < 0.5
    assert measure.share(right.double(), y).stderr == pytest.approx(0.25**0.5 / 1000**0.5, rel=0.02)


# ---- samples ----------------------------------------------------------------------------------------------------


class Still:
    """A noise predictor with classes that counts its calls."""

    classes, T = 10, 1000

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x_t


def test_samples_are_kept_by_the_hundred_and_made_once(tmp_path: Path) -> None:
    nothing: Any = None
    net: Any = Still()
    schedule = NoiseSchedule.linear(1000)
    tools = measure.Tools(net, schedule, nothing, nothing, nothing, nothing, nothing, tmp_path)
    recipe = measure.Recipe(2, 1.0)
    x, y = measure.sample(tools, 120, recipe, seed=3)
    assert x.shape == (120, 1, 28, 28)
    assert y[:11].tolist() == [*range(10), 0]
    assert {path.name for path in tmp_path.iterdir()} == {"2-1.0-3-0.pt", "2-1.0-3-1.pt"}
    (tmp_path / "2-1.0-3-1.pt").unlink()  # as if stopped there
    calls = net.calls
    again, _ = measure.sample(tools, 120, recipe, seed=3)
    assert torch.equal(again, x)
    assert net.calls - calls == 2
    assert not torch.equal(measure.sample(tools, 20, recipe, seed=4)[0], x[:20])


def test_recipes_have_names_of_their_own() -> None:
    found = [f.keywords for f in measure.entries(Path()).values() if "recipe" in getattr(f, "keywords", {})]
    recipes = {f["recipe"] for f in found}
    assert len({recipe.name for recipe in recipes}) == len(recipes)
    assert measure.Recipe(1000, "sigma_hat").name == "1000-sigma_hat"
    assert measure.Recipe(50, 0.0, "trailing", clip=None).name == "50-0.0-trailing-None"


# ---- the width, and the command -----------------------------------------------------------------------------------


def test_the_width_is_the_root_of_the_mean_variance_of_the_classes() -> None:
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(4000) % 2
    scale = torch.where(y == 0, 1.0, 3.0)[:, None]
    points = scale * torch.randn(4000, 5, generator=draw) + 100.0 * y[:, None]  # the means do not count
    found = measure.width(points, y)
    assert abs(found.value - (5 * (1 + 9) / 2) ** 0.5) < 4 * found.stderr
    assert found.stderr < 0.06  # the root of var(squares) / n over twice the width: sqrt((820 / 2 + 400) / 4000) / 10


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


def test_the_page_compares_what_was_planned() -> None:
    """With the seeds that were fresh then."""
    page = Path(measure.__file__).parents[1] / "book/05-images.ipynb"
    code = "".join(line for cell in json.loads(page.read_text("utf-8"))["cells"] for line in cell["source"])
    assert f"PRIMARY = {measure.PRIMARY}".replace("'", '"') in code
    assert f"FRESH = {measure.FRESH}" in code


def test_the_curve_of_a_run_is_its_loss_in_means(tmp_path: Path) -> None:
    config = TrainConfig(steps=5, batch=4, save_every=5)
    schedule, net = NoiseSchedule.linear(100), MLP(2, 100, width=8)
    losses = fit(schedule, net, two_moons, config, folder=tmp_path / "run").losses
    measure.curve(tmp_path, tmp_path / "run", every=2)
    written = json.loads((tmp_path / "curve.json").read_text())
    assert written["steps"] == 5
    means = torch.stack([losses[:2].mean(), losses[2:4].mean(), losses[4]])
    assert written["loss"] == pytest.approx(means.tolist(), rel=1e-3)  # four digits are written
