"""The experiment of chapter 6: halves without a common image, distances, and a command that goes on where it was."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from diffnotes.book import generalisation
from diffnotes.book.generalisation import SCHEDULE, distances, half, main, measure, nearest, small_images
from diffnotes.data import Images, fashion_mnist
from diffnotes.forward import q_sample
from diffnotes.mixture import DataMixture
from diffnotes.reverse import v_from
from diffnotes.training.loop import TrainConfig


def test_halves_share_no_image_and_are_those_of_the_test_set():
    a, b, both = half(50, "A"), half(50, "B"), small_images(100)
    assert torch.equal(torch.stack([a, b], 1).flatten(0, 1), both)
    assert both.shape == (100, 1, 14, 14)
    assert distances(a, b).min() > 0.01
    assert torch.equal(half(20, "A"), a[:20])  # a larger half holds the smaller one


def test_the_sums_that_come_with_the_package_are_those_of_the_training_images(monkeypatch, tmp_path):
    """The command that made the file, on images of which every pixel is known; and the file is the one it made."""
    pixels = torch.arange(10_002 * 28 * 28).reshape(-1, 1, 28, 28) * 7 % 256
    monkeypatch.setattr(generalisation, "fashion_mnist", lambda _: Images(pixels / 127.5 - 1, torch.zeros(10_002)))
    generalisation.write_sums(tmp_path / "sums.npz")
    with np.load(tmp_path / "sums.npz") as file:
        sums = file["sums"]
    assert sums.shape == (10_000, 14, 14)
    assert sums[4321, 5, 6] == pixels[4321, 0, 10:12, 12:14].sum()
    digest = hashlib.sha256(np.load(generalisation.SUMS)["sums"].tobytes()).hexdigest()
    assert digest == "674a81706e7a9c04468824ce08ca00aad2270ce7c79cb785294dbcb9f1685a78"


def test_up_to_20000_small_images_need_no_training_set(monkeypatch):
    """Test images, then the shipped sums, then the rest of the training set: here a white one."""
    white = Images(torch.ones(10_001, 1, 28, 28), torch.zeros(10_001))
    tested = fashion_mnist("test")
    monkeypatch.setattr(generalisation, "fashion_mnist", lambda split, **_: tested if split == "test" else white)
    small = small_images(20_001)
    assert torch.allclose(small[9_999, 0, 3, 4], tested.x[9_999, 0, 6:8, 8:10].mean(), atol=1e-6)
    first = (generalisation.shipped_sums()[0, 0, 7, 7] / 4) / 127.5 - 1
    assert torch.allclose(small[10_000, 0, 7, 7], first, atol=1e-6)
    assert small[20_000].eq(1).all()
    assert torch.equal(small_images(10_001), small[:10_001])


def test_the_largest_numbers_are_refused():
    for n in (0, 70_001):
        with pytest.raises(ValueError, match=r"n must lie in 1\.\.70000, got"):
            small_images(n)
    for n in (0, 35_001):
        with pytest.raises(ValueError, match=rf"n must lie in 1\.\.35000, got {n}"):
            half(n, "A")


@pytest.mark.usefixtures("no_shape_checks")
def test_other_halves_and_a_single_start_are_refused():
    with pytest.raises(ValueError, match=r"which must be one of \('A', 'B'\), got 'C'"):
        half(10, "C")
    with pytest.raises(ValueError, match="count must be at least 2, got 1"):
        measure(10, None, None, count=1)


def test_distances_are_root_mean_squares_over_pixels():
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = x + 0.5
    assert torch.allclose(distances(x, y).diagonal(), torch.full((3,), 0.5).double(), atol=1e-7)
    found = nearest(x[[2, 0]], x)
    assert found.place.tolist() == [2, 0]
    assert found.distance.tolist() == [0.0, 0.0]  # not the rounding of a product of matrices


@pytest.mark.usefixtures("no_shape_checks")
def test_pictures_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"of one shape, got \(1, 4, 4\) and \(1, 2, 4\)"):
        distances(torch.zeros(3, 1, 4, 4), torch.zeros(3, 1, 2, 4))


def test_a_guess_is_made_where_x_t_is():
    asked = []

    def model(x, t):
        asked.append((t.device.type, t.shape, t.dtype))
        return x

    x = torch.empty(3, 1, 14, 14, device="meta")
    assert generalisation.guess(model, x, 100).device.type == "meta"
    assert asked == [("meta", (3,), torch.int64)]


def test_exact_models_of_two_halves_memorise_and_disagree():
    """The end of the scale: own is zero, other is that of real images, and from one x_T come two pictures."""
    models = [DataMixture(half(20, which)).eps(SCHEDULE) for which in ("A", "B")]
    got = measure(20, *models, count=16)
    assert got["own"]["mean"] < 1e-5
    assert got["own"]["values"] == 16  # a start, not a sample, is one value
    assert got["near"]["mean"] == 1
    assert got["nearer"]["mean"] == got["copied"]["mean"] == 1
    assert "restart" not in got
    assert abs(got["other"]["mean"] - got["unseen"]["mean"]) < 5 * (got["other"]["error"] + got["unseen"]["error"])
    assert got["between"]["mean"] > 0.2
    assert got["train_loss"]["mean"] < got["test_loss"]["mean"]
    assert got["gap"]["mean"] == pytest.approx(got["other"]["mean"] - got["own"]["mean"], abs=2e-5)
    assert got["trace"]["mean"] == pytest.approx(got["test_loss"]["mean"] - got["train_loss"]["mean"], abs=2e-5)


def test_one_model_twice_agrees_with_itself():
    model, other = (DataMixture(half(20, which)).eps(SCHEDULE) for which in ("A", "B"))
    got = measure(20, model, model, count=8)
    assert got["between"]["mean"] == 0
    assert got["trace"] == {"mean": 0, "error": 0, "values": 40}  # the same images and noise for both
    assert got["strangers"]["mean"] > 0.2
    got = measure(20, model, other, again=other, count=8)
    assert got["restart"]["mean"] == 0
    assert got["apart"] == got["between"]


def test_a_share_counts_samples_nearer_to_the_own_half():
    """A model of the other half is nearer to its own half never, and one that answers as both halves half the time."""
    a, b = (DataMixture(half(20, which)).eps(SCHEDULE) for which in ("A", "B"))
    swapped, same = measure(20, b, a, count=8), measure(20, a, a, count=8)
    assert swapped["nearer"]["mean"] == swapped["copied"]["mean"] == 0
    assert same["nearer"]["mean"] == same["copied"]["mean"] == 0.5


def test_the_command_trains_what_is_missing_and_measures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generalisation, "settings", lambda n: TrainConfig(steps=2, batch=4))
    monkeypatch.setattr(generalisation, "AGAIN", (4,))
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


def test_what_comes_with_the_package_is_whole():
    table = generalisation.results()
    for n in generalisation.SIZES:
        row = table["measured"][str(n)]
        names = {"own", "other", "gap", "nearer", "copied", "near", "unseen", "between", "strangers"}
        again = n in generalisation.AGAIN
        names |= {"train_loss", "test_loss", "trace"} | ({"restart", "apart"} if again else set())
        assert set(row) == names
        for which, seed in [("A", 0), ("B", 0), ("B", 1)][: 3 if again else 2]:
            loaded = generalisation.load(n, which, seed=seed)
            assert loaded.provenance["settings"]["steps"] == generalisation.settings(n).steps
            assert loaded.provenance["settings"]["seed"] == seed
            assert sum(p.numel() for p in loaded.model.parameters()) == 124_433


def test_numbers_that_are_not_whole_are_refused_by_name(no_shape_checks):
    def model(x, t):
        return x

    for wrong in (0, 3.0, math.nan, True):
        for call in (small_images, lambda n: half(n, "A"), generalisation.starts):
            with pytest.raises(ValueError, match="n must"):
                call(wrong)
        with pytest.raises(ValueError, match="count must"):
            generalisation.denoising_loss(model, torch.zeros(2, 1, 14, 14), wrong)
    with pytest.raises(ValueError, match="x0 must hold at least one image"):
        generalisation.denoising_loss(model, torch.zeros(0, 1, 14, 14))
    with pytest.raises(ValueError, match="x must be floating point"):
        distances(torch.zeros(2, 3).byte(), torch.zeros(2, 3))


# ---- the study ----------------------------------------------------------------------------------------------------


def test_errors_of_losses_are_those_of_images():
    """A thousand draws of one image are one value; a draw of each of a thousand are a thousand."""
    loss = torch.arange(10.0)
    assert generalisation.by_image(loss, 5).tolist() == [2.5, 3.5, 4.5, 5.5, 6.5]
    assert generalisation.by_image(loss, 4).tolist() == [4, 5, 4, 5]  # draws 0 4 8, 1 5 9, 2 6, 3 7
    assert generalisation.by_image(loss, 40).tolist() == loss.tolist()


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

    loss = generalisation.LOSSES[target](SCHEDULE, model, x0, t, noise)
    assert torch.allclose(loss, off.square().flatten(1).mean(1), rtol=1e-12)
    [(x_t, times)] = seen
    assert torch.equal(times, generalisation.flow_times(t) if target == "flow" else t)
    assert torch.equal(x_t, q_sample(SCHEDULE, x0, times, noise))


@pytest.mark.parametrize("target", ["eps", "v", "flow"])
def test_a_network_with_another_target_stands_for_the_noise(target):
    """Told the true target, the noise predictor gives the true noise."""
    draw = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 40, 1, 3, 3, generator=draw, dtype=torch.float64)
    t = torch.arange(1, 1001, 25)
    signal, rest = (SCHEDULE.at(c, t, x0) for c in (SCHEDULE.alpha_bars.sqrt(), (1 - SCHEDULE.alpha_bars).sqrt()))
    truth = {"eps": noise, "v": signal * noise - rest * x0, "flow": noise - x0}[target]
    got = generalisation.as_noise(lambda x, t: truth, target)(q_sample(SCHEDULE, x0, t, noise), t)
    assert torch.allclose(got, noise, atol=1e-9)


def test_times_for_flow_matching_have_a_uniform_tau():
    signal, noise = SCHEDULE.alpha_bars.sqrt(), (1 - SCHEDULE.alpha_bars).sqrt()
    tau = noise / (signal + noise)
    t = generalisation.flow_times(torch.arange(1, 1001))
    wanted = (torch.arange(1000).double() + 0.5) / 1000
    within = (wanted > tau[1]) & (wanted < tau[1000])
    assert within.float().mean() > 0.98
    assert (tau[t] - wanted)[within].abs().max() < 0.01
    assert t.min() == 1
    assert t.max() == 1000


def test_runs_have_files_of_their_own():
    runs = generalisation.study_runs()
    names = [run.path(Path()).name for run in runs]
    assert len(set(names)) == len(runs) == 22
    assert {"100-a.safetensors", "1000-b-1.safetensors", "1000-b-v.safetensors", "1000-a-x10.safetensors"} <= set(names)
    assert generalisation.Run(1000, "A", longer=10).config.steps == 30_000


def test_the_study_goes_on_where_it_was_and_measures_what_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generalisation, "settings", lambda n: TrainConfig(steps=2, batch=4))
    monkeypatch.setattr(generalisation, "STUDY_SIZES", (4,))
    monkeypatch.setattr(generalisation, "STUDY_SEEDS", (0, 1))
    monkeypatch.setattr(generalisation, "LONG_SIZE", 4)
    monkeypatch.setattr(generalisation, "LONGER", 2)
    monkeypatch.setattr(generalisation, "DRAWS", 12)
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
    partly = generalisation.study(tmp_path, 2)
    assert partly["longer"] == {}
    assert set(partly["seeds"]["4"]) == {"0"}
    main(["--study", "--folder", str(tmp_path), "--starts", "2"])
    assert capsys.readouterr().out.count("loss") == 3
    assert json.loads((tmp_path / "study.json").read_text()) == first
