"""tools/halves.py: targets, runs and their files, and two commands that go on where they were."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diffnotes.book import generalisation
from diffnotes.book.generalisation import SCHEDULE
from diffnotes.data import Images
from diffnotes.forward import q_sample
from diffnotes.reverse import v_from
from diffnotes.training.loop import TrainConfig
from tools import halves
from tools.halves import main


@pytest.fixture
def two_steps(monkeypatch):
    """Trainings that take no time."""

    def settings(n, seed=0, longer=1):
        return TrainConfig(steps=2 * longer, batch=4, seed=seed)

    for module in (generalisation, halves):
        monkeypatch.setattr(module, "settings", settings)


def test_the_sums_that_come_with_the_package_are_those_of_the_training_images(monkeypatch, tmp_path):
    """The function that made the file, on images of which every pixel is known; and the file is the one it made."""
    pixels = torch.arange(10_002 * 28 * 28).reshape(-1, 1, 28, 28) * 7 % 256
    monkeypatch.setattr(halves, "fashion_mnist", lambda _: Images(pixels / 127.5 - 1, torch.zeros(10_002)))
    halves.write_sums(tmp_path / "sums.npz")
    with np.load(tmp_path / "sums.npz") as file:
        sums = file["sums"]
    assert sums.shape == (10_000, 14, 14)
    assert sums[4321, 5, 6] == pixels[4321, 0, 10:12, 12:14].sum()
    digest = hashlib.sha256(np.load(generalisation.SUMS)["sums"].tobytes()).hexdigest()
    assert digest == "674a81706e7a9c04468824ce08ca00aad2270ce7c79cb785294dbcb9f1685a78"


def test_the_command_trains_what_is_missing_and_measures(tmp_path, monkeypatch, capsys, two_steps):
    monkeypatch.setattr(halves, "AGAIN", (4,))
    arguments = ["--folder", str(tmp_path), "--sizes", "4", "--starts", "2"]
    main(arguments)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(written) == {"4-a.safetensors", "4-b.safetensors", "4-b-1.safetensors", "measured.json"}
    assert capsys.readouterr().out.count("loss") == 3
    row = json.loads(written["measured.json"])["measured"]["4"]
    assert row["restart"]["mean"] > 0  # not the same run a second time
    (tmp_path / "4-b.safetensors").unlink()  # as if the run had been stopped there
    main(arguments)
    assert "4-a" not in capsys.readouterr().out
    assert (tmp_path / "4-a.safetensors").read_bytes() == written["4-a.safetensors"]
    assert (
        json.loads((tmp_path / "measured.json").read_text())["measured"]
        == json.loads(written["measured.json"])["measured"]
    )  # on one machine a run makes the same bits again


# ---- the study ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["eps", "v", "flow"])
def test_the_loss_of_a_target_is_least_at_the_truth(target):
    """It is 0 for the true target at the times that it draws, and the mean square of what is added to it."""
    draw = torch.Generator().manual_seed(0)
    x0, noise, off = torch.randn(3, 40, 1, 3, 3, generator=draw, dtype=torch.float64)
    truth = {"eps": noise, "v": v_from(SCHEDULE, x0, noise, torch.arange(1, 1001, 25)), "flow": noise - x0}[target]
    t, seen = torch.arange(1, 1001, 25), []

    def model(x_t, times):
        seen.append((x_t, times))
        return truth + off

    loss = halves.LOSSES[target](SCHEDULE, model, x0, t, noise)
    assert torch.allclose(loss, off.square().flatten(1).mean(1), rtol=1e-12)
    [(x_t, times)] = seen
    assert torch.equal(times, halves.flow_times(t) if target == "flow" else t)
    assert torch.equal(x_t, q_sample(SCHEDULE, x0, times, noise))


@pytest.mark.parametrize("target", ["eps", "v", "flow"])
def test_a_network_with_another_target_stands_for_the_noise(target):
    """Told the true target, the noise predictor gives the true noise."""
    draw = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 40, 1, 3, 3, generator=draw, dtype=torch.float64)
    t = torch.arange(1, 1001, 25)
    signal, rest = (SCHEDULE.at(c, t, x0) for c in (SCHEDULE.alpha_bars.sqrt(), (1 - SCHEDULE.alpha_bars).sqrt()))
    truth = {"eps": noise, "v": signal * noise - rest * x0, "flow": noise - x0}[target]
    got = halves.as_noise(lambda x, t: truth, target)(q_sample(SCHEDULE, x0, t, noise), t)
    assert torch.allclose(got, noise, atol=1e-9)


def test_times_for_flow_matching_have_a_uniform_tau():
    signal, noise = SCHEDULE.alpha_bars.sqrt(), (1 - SCHEDULE.alpha_bars).sqrt()
    tau = noise / (signal + noise)
    t = halves.flow_times(torch.arange(1, 1001))
    wanted = (torch.arange(1000).double() + 0.5) / 1000
    within = (wanted > tau[1]) & (wanted < tau[1000])
    assert within.float().mean() > 0.98
    assert (tau[t] - wanted)[within].abs().max() < 0.01
    assert t.min() == 1
    assert t.max() == 1000


def test_runs_have_files_of_their_own():
    runs = halves.study_runs()
    names = [run.path(Path()).name for run in runs]
    assert len(set(names)) == len(runs) == 22
    assert {"100-a.safetensors", "1000-b-1.safetensors", "1000-b-v.safetensors", "1000-a-x10.safetensors"} <= set(names)
    assert halves.Run(1000, "A", longer=10).config.steps == 30_000


def test_the_study_goes_on_where_it_was_and_measures_what_is_there(tmp_path, monkeypatch, capsys, two_steps):
    monkeypatch.setattr(halves, "STUDY_SIZES", (4,))
    monkeypatch.setattr(halves, "STUDY_SEEDS", (0, 1))
    monkeypatch.setattr(halves, "LONG_SIZE", 4)
    monkeypatch.setattr(halves, "LONGER", 2)
    for module in (generalisation, halves):
        monkeypatch.setattr(module, "DRAWS", 12)
    main(["--study", "--folder", str(tmp_path), "--starts", "2"])
    assert capsys.readouterr().out.count("loss") == 8
    first = json.loads((tmp_path / "study.json").read_text())
    assert {kind: row["pairs"] for kind, row in first["kinds"]["4"].items()} == {
        "other half, same seed": 2,
        "same half, other seed": 2,
        "other half, other seed": 2,
    }
    assert set(first["bands"]) == {"B0", "B1", "B0, v", "B0, flow", "B0, 2 times the steps"}
    assert len(first["pairs"]["4"]) == 8 * 7 / 2
    assert set(first["seeds"]["4"]) == {"0", "1"}
    for gone in ("4-a-x2", "4-b-flow", "4-a-1"):
        (tmp_path / f"{gone}.safetensors").unlink()
    partly = halves.study(tmp_path, 2)
    assert partly["longer"] == {}
    assert set(partly["seeds"]["4"]) == {"0"}
    main(["--study", "--folder", str(tmp_path), "--starts", "2"])
    assert capsys.readouterr().out.count("loss") == 3
    assert json.loads((tmp_path / "study.json").read_text()) == first
