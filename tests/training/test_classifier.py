"""classifier.py: what is shipped is as good as it says, its features make a distance that sees, and training works."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import Ops, fake
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from diffnotes.data import Images, fashion_mnist, shapes, to_bytes
from diffnotes.metrics import Estimate, frechet_distance, noise_floor
from diffnotes.training.checkpoint import SHIPPED, load_model
from diffnotes.training.classifier import Classifier, accuracy, load_classifier, predict
from tools import classifier
from tools.classifier import main, train_classifier

NAME = "fashion_classifier"


@pytest.fixture(scope="module")
def network() -> Classifier:
    return load_classifier(NAME)[0]


@pytest.fixture(scope="module")
def images() -> Images:
    x, y = fashion_mnist("test")
    return Images(x[:2000], y[:2000])


@pytest.fixture(scope="module")
def features(network: Classifier, images: Images) -> Tensor:
    with torch.no_grad():
        return network.features(images.x)


def discs_and_noise(n: int) -> Images:
    """Two kinds of images that are easy to tell apart, in turn: shapes, and grey noise."""
    generator = torch.Generator().manual_seed(0)
    x = shapes(n, 12, generator)
    x[1::2] = torch.rand(x[1::2].shape, generator=generator) - 0.5
    return Images(x, torch.arange(n) % 2)


# ---- what is shipped --------------------------------------------------------------------------------------------


def test_the_accuracy_is_the_one_that_is_stored(network: Classifier, images: Images) -> None:
    p = load_classifier(NAME)[1]["accuracy"]
    assert p > 0.92
    # 2,000 of the 10,000 that p is the mean of, drawn without going back: a binomial share, its error 0.8 of the usual
    assert abs(accuracy(network, images) - p) < 4 * math.sqrt(p * (1 - p) / 2000 * 0.8)


def test_it_is_small_and_says_where_it_comes_from(network: Classifier) -> None:
    path = SHIPPED / f"{NAME}.safetensors"
    weights = sum(w.numel() for w in network.parameters())
    assert weights < 200_000
    assert path.stat().st_size < 2 * weights + 20_000  # two bytes a weight
    provenance = load_classifier(path)[1]
    assert provenance["command"] == f"python -m diffnotes.classifier --out diffnotes/weights/{NAME}.safetensors"
    now = provenance["command"].replace("-m diffnotes.classifier", "tools/classifier.py")  # it has moved
    assert now in " ".join(classifier.__doc__.split())
    assert provenance["settings"].keys() == {"rate", "momentum", "weight_decay", "batch", "epochs", "seed"}
    assert not network.training
    assert {w.dtype for w in network.parameters()} == {torch.float32}


def test_features_are_of_mean_0_and_variance_1(features: Tensor) -> None:
    """They are standardised on mirrored training images in batches: on test images only about so."""
    assert (features.shape, features.dtype) == ((2000, Classifier.num_features), torch.float32)
    # A mean of 2,000 is off by 0.022 and the stored one, of some 20 batches, by about as much, 0.03 together: on
    # average over the features |mean| is 0.8 of it, here with room for a network that changed while it was averaged.
    assert float(features.mean(0).abs().mean()) < 0.1
    assert 0.8 < float(features.var(0).mean()) < 1.25


def test_what_lies_outside_the_range_is_clamped(network: Classifier, images: Images) -> None:
    x = 1.1 * images.x[:20]
    assert float(x.abs().max()) > 1
    with torch.no_grad():
        assert torch.equal(network.features(x), network.features(x.clamp(-1, 1)))
        assert torch.equal(network(x), network(x.clamp(-1, 1)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_images_of_any_dtype_are_taken(network: Classifier, images: Images, dtype: torch.dtype) -> None:
    x = images.x[:50].to(dtype)
    with torch.no_grad():
        assert torch.equal(network.features(x), network.features(x.float()))
    assert predict(network, x, batch=7).tolist() == predict(network, x).tolist()


def test_scores_are_of_the_features(network: Classifier, images: Images, features: Tensor) -> None:
    with torch.no_grad():
        scores = network.head(nn.functional.silu(features))
        torch.testing.assert_close(network(images.x[:100]), scores[:100])
    assert torch.equal(predict(network, images.x[:100]), scores[:100].argmax(1))


def test_the_distance_sees_what_an_eye_sees(network: Classifier, images: Images, features: Tensor) -> None:
    """Real halves are at the floor; noise, blur and a missing class are above it, and more noise is further."""
    x, y, half = *images, features[:1000]
    floor = noise_floor(frechet_distance, features, resamples=20)
    noise = torch.randn(x[:1000].shape, generator=torch.Generator().manual_seed(0))
    blur = nn.functional.avg_pool2d(x[:1000], 3, stride=1, padding=1, count_include_pad=False)

    def distance(images: Tensor) -> Estimate:
        with torch.no_grad():
            return frechet_distance(network.features(images), features[1000:], resamples=20)

    far = [distance(x[:1000] + s * noise) for s in (0.05, 0.1, 0.2)]
    assert floor.value < far[0].value < far[1].value < far[2].value
    without_bags = frechet_distance(half[y[:1000] != 8], features[1000:], resamples=20)
    for worse in (far[2], distance(blur), without_bags):
        assert worse.excess(floor) > 3


def test_files_of_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="does not hold a network of diffnotes: KeyError"):
        load_classifier("swiss_roll")
    with pytest.raises(ValueError, match="does not hold a network of diffnotes: KeyError"):
        load_model(NAME)


# ---- training, by tools/classifier.py ---------------------------------------------------------------------------


def test_it_learns_and_is_a_function_of_its_seed() -> None:
    images = discs_and_noise(512)
    one, two, other = (train_classifier(images, epochs=15, seed=seed) for seed in (0, 0, 1))
    assert accuracy(one, discs_and_noise(100)) == 1
    assert not one.training
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_the_command_writes_what_it_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = {"train": discs_and_noise(512), "test": discs_and_noise(101)}
    monkeypatch.setattr(classifier, "fashion_mnist", lambda split, progress=False: sets[split])
    threads, path = torch.get_num_threads(), tmp_path / "small.safetensors"
    try:
        main(["--out", str(path), "--epochs", "2", "--seed", "3"])
    finally:
        torch.set_num_threads(threads)
    network, provenance = load_classifier(path)
    assert provenance["accuracy"] == accuracy(network, sets["test"])
    assert provenance["settings"]["epochs"] == 2
    assert provenance["command"] == f"python tools/classifier.py --out {path} --epochs 2 --seed 3"
    shown = f"{100 * provenance['accuracy']:.2f}% of the test images"
    assert shown in capsys.readouterr().out
    first = path.read_bytes()
    try:
        main(["--out", str(path), "--epochs", "2", "--seed", "3"])
    finally:
        torch.set_num_threads(threads)
    assert path.read_bytes() == first


@pytest.mark.usefixtures("no_shape_checks")
def test_bad_input_is_named() -> None:
    x, y = discs_and_noise(8)
    with pytest.raises(ValueError, match="epochs must make 5 steps or more, got 4 of 1 steps each"):
        train_classifier(Images(x, y), epochs=4)
    for seed in (2.5, math.nan, 2**64, -(2**63) - 1):
        with pytest.raises(ValueError, match="seed must"):
            train_classifier(Images(x, y), epochs=5, seed=seed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="classes must be at least 1, got 0"):
        Classifier(classes=0)
    x[3] = math.nan
    with pytest.raises(ValueError, match="the loss must be finite, but is not from step 0 on"):
        train_classifier(Images(x, y), epochs=5)


# ---- devices ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "meta"])
def test_on_a_fake_accelerator(device: str) -> None:
    with FakeTensorMode():
        network, x = fake(Classifier, device).eval(), torch.empty(4, 1, 28, 28, device=device)
        with Ops() as ops:
            found = network.features(x), network(x)
        assert {value.device.type for value in found} == {device}
    assert ops.waits == []


class NoDoubles(TorchDispatchMode):
    """The CPU as a device without float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        assert getattr(out, "dtype", None) != torch.float64
        return out


def test_the_accuracy_needs_no_float64(network: Classifier, images: Images) -> None:
    some = Images(images.x[:50], images.y[:50])
    with NoDoubles():
        found = accuracy(network, some)
    assert found == float((predict(network, some.x) == some.y).double().mean())


def test_any_size_and_number_of_channels() -> None:
    network = Classifier(channels=3, classes=7, width=4).eval()
    assert network(torch.zeros(2, 3, 32, 40)).shape == (2, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert network.features(torch.zeros(2, 3, 32, 40)).dtype == torch.float32


@pytest.mark.gpu
def test_on_a_gpu(images: Images) -> None:
    here, there = load_classifier(NAME)[0], load_classifier(NAME, "cuda")[0]
    agree = predict(here, images.x) == predict(there, images.x.to("cuda")).cpu()
    assert float(agree.double().mean()) > 0.995  # TF32 may move an image that is on the edge


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_shape_checks")
def test_bytes_are_not_taken_for_white(network: Classifier, images: Images) -> None:
    x: Any = images.x[:20]
    for wrong in (to_bytes(x), x.long(), x.numpy()):
        for call in (
            network.features,
            network,
            lambda x: predict(network, x),
            lambda x: accuracy(network, Images(x, images.y[:20])),
            lambda x: frechet_distance(x, images.x[:20], network.features, resamples=2),
            lambda x: train_classifier(Images(x, images.y[:20]), 5),
        ):
            with pytest.raises(ValueError, match=r"x must be (floating point|a torch.Tensor), got"):
                call(wrong)


@pytest.mark.usefixtures("no_shape_checks")
def test_labels_of_any_width(network: Classifier, images: Images) -> None:
    x, y = images.x[:20], images.y[:20]
    expected, trained = accuracy(network, Images(x, y)), train_classifier(Images(x, y), 5).head.weight
    for dtype in (torch.uint8, torch.int32):
        assert accuracy(network, Images(x, y.to(dtype))) == expected
        assert torch.equal(train_classifier(Images(x, y.to(dtype)), 5).head.weight, trained)
    for wrong, message in (
        (y.float(), "y must hold whole numbers"),
        (y.numpy(), "y must be a torch.Tensor"),
        (-y - 1, "y must not be negative, got -10"),
        (y[:3], r"y must hold one label for each of one or more images, got \(3,\) for 20"),
        (y[0], r"y must hold one label for each of one or more images, got \(\) for 20"),
        (y[:, None], r"y must hold one label for each of one or more images, got \(20, 1\) for 20"),
    ):
        for call in (lambda y: accuracy(network, Images(x, y)), lambda y: train_classifier(Images(x, y), 5)):
            with pytest.raises(ValueError, match=message):
                call(wrong)


@pytest.mark.usefixtures("no_shape_checks")
def test_no_images_have_no_classes(network: Classifier, images: Images) -> None:
    assert predict(network, images.x[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"y must hold one label for each of one or more images, got \(0,\) for 0"):
        accuracy(network, Images(images.x[:0], images.y[:0]))
    for batch in (0, 2.0, math.nan):
        with pytest.raises(ValueError, match="batch must be"):
            predict(network, images.x[:2], batch)  # type: ignore[arg-type]
