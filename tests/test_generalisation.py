"""The experiment of chapter 6: halves without a common image, distances, and what comes with the package."""

import math

import pytest
import torch

from diffnotes.book import generalisation
from diffnotes.book.generalisation import SCHEDULE, distances, half, measure, nearest, small_images
from diffnotes.data import Images, fashion_mnist
from diffnotes.mixture import DataMixture


def test_halves_share_no_image_and_are_those_of_the_test_set():
    a, b, both = half(50, "A"), half(50, "B"), small_images(100)
    assert torch.equal(torch.stack([a, b], 1).flatten(0, 1), both)
    assert both.shape == (100, 1, 14, 14)
    assert distances(a, b).min() > 0.01
    assert torch.equal(half(20, "A"), a[:20])  # a larger half holds the smaller one


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


def test_errors_of_losses_are_those_of_images():
    """A thousand draws of one image are one value; a draw of each of a thousand are a thousand."""
    loss = torch.arange(10.0)
    assert generalisation.by_image(loss, 5).tolist() == [2.5, 3.5, 4.5, 5.5, 6.5]
    assert generalisation.by_image(loss, 4).tolist() == [4, 5, 4, 5]  # draws 0 4 8, 1 5 9, 2 6, 3 7
    assert generalisation.by_image(loss, 40).tolist() == loss.tolist()
