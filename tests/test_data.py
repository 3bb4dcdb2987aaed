"""data.py: shapes, seeds, moments that are exact and not the sample's, images byte by byte, and every refusal."""

import gzip
import hashlib
import io
import math
import struct
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffnotes import data as module
from diffnotes.data import (
    GARMENTS,
    cifar10,
    fashion_mnist,
    from_bytes,
    labelled_moons,
    mixture_1d,
    mixture_2d,
    ring,
    shapes,
    swiss_roll,
    swiss_roll_mixture,
    to_bytes,
    two_moons,
)
from diffnotes.mixture import GaussianMixture
from diffnotes.training.watch import png

EPS = 2.0**-53
CURVES = [swiss_roll, two_moons]
MIXTURES = [mixture_1d, mixture_2d, ring, lambda: ring(3, 0.5)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_mean(samples: Tensor, expected: Tensor | float) -> None:
    """Within z = 5 standard errors; the seed is fixed, so this passes or fails for good."""
    error = samples.std(0) / math.sqrt(len(samples))
    assert bool(((samples.mean(0) - expected).abs() <= 5 * error).all())


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_curves_have_mean_0_and_variance_1(curve: Callable[..., Tensor], noise: float) -> None:
    x = curve(400_000, seeded(0), noise=noise).double()
    assert_mean(x, 0.0)
    assert_mean(x**2, 1.0)


@pytest.mark.parametrize("curve", CURVES)
def test_curves_keep_the_shape_and_dtype(curve: Callable[..., Tensor]) -> None:
    assert curve(1).shape == (1, 2)
    assert curve(7).dtype == torch.get_default_dtype()


def test_the_roll_is_a_spiral() -> None:
    """Undo the scaling: the radius is the angle, which runs over 3 pi / 2 .. 9 pi / 2 evenly."""
    m = torch.tensor([2.0, 2 / (3 * math.pi)], dtype=torch.float64)
    square = 39 / 8 * math.pi**2
    std = (torch.tensor([square - 1 / 4, square + 1 / 4], dtype=torch.float64) - m**2).sqrt()
    x = swiss_roll(20_000, seeded(0), noise=0.0).double() * std + m
    radius = x.norm(dim=1)
    on_curve = radius[:, None] * torch.stack([radius.cos(), radius.sin()], dim=1)
    assert_close(x, on_curve, rtol=0, atol=64 * 2.0**-24 * 15**2)  # float32 angles up to 15, radii up to 15
    assert 1.5 * math.pi - 1e-4 < float(radius.min()) < float(radius.max()) < 4.5 * math.pi + 1e-4
    assert_mean(radius, 3 * math.pi)
    assert_mean((radius - 3 * math.pi) ** 2, (3 * math.pi) ** 2 / 12)


def test_the_moons_are_two_half_circles() -> None:
    std = torch.tensor([3 / 4, 5 / 8 - 1 / math.pi - 1 / 16], dtype=torch.float64).sqrt()
    x = two_moons(20_000, seeded(0), noise=0.0).double() * std + torch.tensor([1 / 2, 1 / 4], dtype=torch.float64)
    upper = x.norm(dim=1)
    lower = (torch.tensor([1.0, 0.5], dtype=torch.float64) - x).norm(dim=1)
    tol = 64 * 2.0**-24
    on_upper, on_lower = (upper - 1).abs() < tol, (lower - 1).abs() < tol
    assert bool((on_upper | on_lower).all())
    assert float(x[on_upper & ~on_lower, 1].min()) > -tol
    assert float(x[on_lower & ~on_upper, 1].max()) < 0.5 + tol
    assert_mean(on_upper.double(), 0.5)


def test_a_moon_carries_its_label() -> None:
    """At no noise, undo the scaling: label 0 lies on the upper half circle, 1 on the lower; the points are the same."""
    std = torch.tensor([3 / 4, 5 / 8 - 1 / math.pi - 1 / 16], dtype=torch.float64).sqrt()
    scaled, label = labelled_moons(5_000, seeded(0), noise=0.0)
    assert label.dtype == torch.int64
    assert torch.equal(scaled, two_moons(5_000, seeded(0), noise=0.0))
    x = scaled.double() * std + torch.tensor([1 / 2, 1 / 4], dtype=torch.float64)
    turned = torch.where(label[:, None] == 0, x, torch.tensor([1.0, 0.5], dtype=torch.float64) - x)
    tol = 64 * 2.0**-24  # float32 coordinates of order 1
    assert_close(turned.norm(dim=1), torch.ones(5_000, dtype=torch.float64), rtol=0, atol=tol)
    assert float(turned[:, 1].min()) > -tol
    assert_mean(label.double(), 0.5)


@pytest.mark.parametrize("curve", CURVES)
def test_noise_is_the_width_of_the_blur(curve: Callable[..., Tensor]) -> None:
    sharp, blurred = curve(50_000, seeded(0), noise=0.0), curve(50_000, seeded(0), noise=0.3)
    blur = (blurred - math.sqrt(1 - 0.3**2) * sharp).double() / 0.3  # the same seed draws the same curve first
    assert_mean(blur, 0.0)
    assert_mean(blur**2, 1.0)


@pytest.mark.parametrize("make", MIXTURES)
def test_mixtures_have_mean_0_and_variance_1(make: Callable[[], GaussianMixture]) -> None:
    data = make()
    d = data.means.shape[1]
    assert_close(data.mean, torch.zeros(d, dtype=torch.float64), rtol=0, atol=16 * EPS)
    assert_close(data.covariance.diagonal(), torch.ones(d, dtype=torch.float64), rtol=0, atol=32 * EPS)
    assert_mean(data.sample(10_000, seeded(0)), 0.0)


def test_the_dimensions_are_as_named() -> None:
    assert (mixture_1d().means.shape[1], mixture_2d().means.shape[1]) == (1, 2)
    C = mixture_2d().covariances
    assert float(C[0, 0, 1] ** 2 / (C[0, 0, 0] * C[0, 1, 1])) > 0.5  # well tilted: rho^2 = 0.04 / 0.06


@pytest.mark.parametrize("K", [3, 8, 11])
def test_the_ring_is_round(K: int) -> None:
    data = ring(K, std=0.2)
    assert_close(data.covariance, torch.eye(2, dtype=torch.float64), rtol=0, atol=32 * EPS)
    assert_close(data.weights, torch.full((K,), 1 / K, dtype=torch.float64))
    assert_close(data.covariances, (0.04 * torch.eye(2, dtype=torch.float64)).repeat(K, 1, 1))
    gaps = (data.means - data.means.roll(1, 0)).norm(dim=1)
    assert_close(gaps, torch.full((K,), 2 * math.sqrt(2 * 0.96) * math.sin(math.pi / K), dtype=torch.float64))


INSIDE: list[Callable[[float, float, float, float], bool]] = [  # at (dx, dy) from the middle
    lambda dx, dy, R, _: math.hypot(dx, dy) < R,
    lambda dx, dy, R, _: dx < R and dy < R,
    lambda dx, dy, R, arm: (dx < R and dy < arm) or (dx < arm and dy < R),
]


def test_shapes_are_discs_squares_and_crosses() -> None:
    """Bright inside, black beyond an edge of 2 / size, by the geometry of each; the draws are kind, place, width."""
    n, size = 300, 24
    pictures = shapes(n, size, seeded(0))
    assert pictures.shape == (n, 1, size, size)
    assert pictures.dtype == torch.get_default_dtype()
    kind, x, y, r = torch.rand(4 * n, generator=seeded(0)).reshape(4, n).tolist()
    pixels = torch.linspace(-1, 1, size).tolist()
    slack = 1e-5  # float32, multiplied by size
    for i, picture in enumerate(pictures[:, 0].tolist()):
        cx, cy, radius = 0.8 * (x[i] - 0.5), 0.8 * (y[i] - 0.5), 0.35 + 0.2 * r[i]
        inside = INSIDE[math.floor(3 * kind[i])]
        for v, row in zip(pixels, picture, strict=True):
            for u, value in zip(pixels, row, strict=True):
                dx, dy = abs(u - cx), abs(v - cy)
                if inside(dx, dy, radius - slack, radius / 3 - slack):
                    assert value == 1
                elif not inside(dx, dy, radius + 2 / size + slack, radius / 3 + 2 / size + slack):
                    assert value == -1
                else:
                    assert -1 <= value <= 1
    assert torch.equal(pictures, shapes(n, size, seeded(0)))
    assert not torch.equal(pictures, shapes(n, size, seeded(1)))


def test_shapes_of_a_bad_size_are_refused() -> None:
    for n, size, message in ((0, 16, "n must be at least 1, got 0"), (1, 7, "size must be at least 8, got 7")):
        with pytest.raises(ValueError, match=message):
            shapes(n, size)


@pytest.mark.parametrize("curve", CURVES)
def test_a_generator_is_all_the_randomness(curve: Callable[..., Tensor]) -> None:
    before = torch.get_rng_state()
    assert torch.equal(curve(10, seeded(1)), curve(10, seeded(1)))
    assert not torch.equal(curve(10, seeded(1)), curve(10, seeded(2)))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    first = curve(10)
    torch.manual_seed(5)
    assert torch.equal(curve(10), first)


@pytest.mark.gpu
@pytest.mark.parametrize("curve", CURVES)
def test_points_live_where_the_generator_does(curve: Callable[..., Tensor]) -> None:
    x = curve(100, torch.Generator("cuda").manual_seed(0))
    assert x.device.type == "cuda"
    assert bool(x.isfinite().all())


@pytest.mark.parametrize("curve", CURVES)
def test_bad_arguments_are_refused(curve: Callable[..., Tensor]) -> None:
    for n in (0, -3):
        with pytest.raises(ValueError, match=f"n must be at least 1, got {n}"):
            curve(n)
    for noise in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=rf"noise must lie in \[0, 1\), got {noise}"):
            curve(10, noise=noise)


def test_a_bad_ring_is_refused() -> None:
    with pytest.raises(ValueError, match="K must be at least 3, got 2"):
        ring(2)
    for std in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match=rf"std must lie in \(0, 1\), got {std}"):
            ring(8, std)


# ---- images -----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The network is cut, Debian's package is not here, and nothing was downloaded: the empty cache folder."""

    def cut(*args: Any, **kwargs: Any) -> Any:
        raise urllib.error.URLError("the network is cut")

    monkeypatch.setattr(urllib.request, "urlopen", cut)
    monkeypatch.setattr(module, "_DEBIAN", tmp_path / "no-debian")
    monkeypatch.setenv("DIFFNOTES_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def idx(content: bytes) -> np.ndarray:
    """An idx file by its format: two zeros, the type, the number of axes, their sizes big end first, the numbers."""
    zero, kind, axes = struct.unpack(">HBB", content[:4])
    assert (zero, kind) == (0, 8)  # unsigned bytes
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    return np.array(list(content[4 + 4 * axes :]), dtype=np.int64).reshape(shape)


def as_idx(numbers: np.ndarray) -> bytes:
    return struct.pack(f">HBB{numbers.ndim}I", 0, 8, numbers.ndim, *numbers.shape) + bytes(numbers.flatten().tolist())


def test_the_test_images_come_with_the_package(no_network: Path) -> None:
    for folder in (None, no_network):
        x, y = fashion_mnist("test", folder=folder)
        assert (x.shape, x.dtype) == ((10_000, 1, 28, 28), torch.float32)
        assert (y.shape, y.dtype) == ((10_000,), torch.int64)
        assert y.bincount().tolist() == [1000] * 10
    assert not no_network.exists()
    shipped = Path(module.__file__).parent / "fashion_mnist"
    pixels = idx(gzip.decompress((shipped / "t10k-images-idx3-ubyte.gz").read_bytes()))
    labels = idx(gzip.decompress((shipped / "t10k-labels-idx1-ubyte.gz").read_bytes()))
    assert torch.equal(y, torch.from_numpy(labels))
    # float32 rounds k / 127.5, up to 2, by at most 2^-24, and the difference, up to 1, by half of that
    assert_close(x[:, 0].double(), torch.from_numpy(pixels).double() / 127.5 - 1, rtol=0, atol=1.5 * 2.0**-24)
    assert torch.equal(((x + 1) * 127.5).round().long()[:, 0], torch.from_numpy(pixels))  # each byte comes back
    assert len(GARMENTS) == 10


def test_what_the_labels_mean(no_network: Path) -> None:
    """Trousers leave a gap between the legs, a bag fills the width, a boot is high and a sandal low and thin."""
    x, y = fashion_mnist("test")
    mean = {name: (x[y == i].mean(0)[0] + 1) / 2 for i, name in enumerate(GARMENTS)}
    legs = mean["trousers"][20:26]
    assert legs[:, 13:15].mean() < 0.8 * legs[:, [10, 11, 16, 17]].mean()
    assert mean["bag"][14:22].mean() == max(image[14:22].mean() for image in mean.values())
    assert mean["ankle boot"][6:12, 14:22].mean() > 2 * mean["sneaker"][6:12, 14:22].mean()
    shoes = ("sandal", "sneaker", "ankle boot")
    assert mean["sandal"].mean() == min(mean[name].mean() for name in shoes)


def test_without_files_and_network_there_is_one_clear_error(no_network: Path) -> None:
    with pytest.raises(OSError, match=r"train-images-idx3-ubyte.gz could not be downloaded: .*cut.*; http.*cut"):
        fashion_mnist("train")
    with pytest.raises(OSError, match=r"cifar-10-binary.tar.gz could not be downloaded: .*the network is cut"):
        cifar10("test")


def published(monkeypatch: pytest.MonkeyPatch, pixels: np.ndarray, labels: np.ndarray) -> dict[str, bytes]:
    """Two small files, by the names and with the sums of the training set's."""
    files = {}
    for name, numbers in (("images-idx3", pixels), ("labels-idx1", labels)):
        content = as_idx(numbers)
        monkeypatch.setitem(module._FASHION_SUMS, f"train-{name}-ubyte.gz", hashlib.sha256(content).hexdigest())
        files[f"train-{name}-ubyte.gz"] = gzip.compress(content)
    return files


def test_the_training_set_is_looked_for_in_three_places(
    no_network: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Pixels and labels that are all unlike, so that a transposed axis or a shifted label shows."""
    pixels = np.arange(2 * 28 * 28).reshape(2, 28, 28) % 255
    files = published(monkeypatch, pixels, np.array([7, 3]))
    for folder, given in (
        (no_network / "fashion-mnist", None),
        (tmp_path / "no-debian", None),
        (tmp_path / "own",) * 2,
    ):
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        x, y = fashion_mnist("train", folder=given)
        assert y.tolist() == [7, 3]
        assert torch.equal(((x + 1) * 127.5).round().long()[:, 0], torch.from_numpy(pixels))
        for name in files:
            (folder / name).unlink()
    with pytest.raises(OSError, match="could not be downloaded"):
        fashion_mnist("train")


def test_a_file_that_is_not_the_published_one(
    no_network: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = published(monkeypatch, np.zeros((2, 28, 28), dtype=int), np.array([1, 2]))
    for name in files:
        (tmp_path / name).write_bytes(gzip.compress(b"something else"))
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(ValueError, match=rf"SHA-256 of .*images.* must be [0-9a-f]{{64}}, got {found}"):
        fashion_mnist("train", folder=tmp_path)


def test_what_is_missing_is_downloaded_to_the_folder(
    no_network: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both files, from the second mirror where the first fails; where they go, they are found the next time."""
    pixels, labels = np.full((2, 28, 28), 255), np.array([0, 9])
    files, asked = published(monkeypatch, pixels, labels), []

    class Answer(io.BytesIO):
        status, headers = 200, {}

    def second_only(url: str, timeout: float) -> Answer:
        asked.append(url)
        if url.startswith(module._FASHION_MIRRORS[0]):
            raise urllib.error.URLError("down")
        return Answer(files[url.rsplit("/", 1)[1]])

    monkeypatch.setattr(urllib.request, "urlopen", second_only)
    for _ in range(2):
        x, y = fashion_mnist("train", folder=tmp_path)
        assert y.tolist() == [0, 9]
        assert bool((x == 1).all())
    assert asked == [mirror + name for name in files for mirror in module._FASHION_MIRRORS]


def test_cifar10_is_read_as_its_authors_describe_it(
    no_network: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A row is a label, then 1024 red, 1024 green and 1024 blue bytes, each picture row by row."""
    rows = np.random.default_rng(0).integers(0, 256, (12, 3073))
    rows[:, 0] = np.arange(12) % 10
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for i in reversed(range(6)):  # in an order that is not theirs
            name = f"data_batch_{i + 1}.bin" if i < 5 else "test_batch.bin"
            content = bytes(rows[2 * i : 2 * i + 2].flatten().tolist())
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(ValueError, match=rf"must be {module._CIFAR_SUM}, got [0-9a-f]{{64}}"):
        cifar10("train", folder=tmp_path)
    monkeypatch.setattr(module, "_CIFAR_SUM", hashlib.sha256(path.read_bytes()).hexdigest())
    for split, part in (("train", rows[:10]), ("test", rows[10:])):
        x, y = cifar10(split, folder=tmp_path)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert y.tolist() == part[:, 0].tolist()
        back = ((x + 1) * 127.5).round().long()
        for i, row in enumerate(part):
            for channel in range(3):
                plane = row[1 + 1024 * channel : 1 + 1024 * (channel + 1)]
                assert back[i, channel].tolist() == [plane[32 * r : 32 * r + 32].tolist() for r in range(32)]


@pytest.mark.parametrize("images", [fashion_mnist, cifar10])
@pytest.mark.usefixtures("no_shape_checks")
def test_an_unknown_split_is_refused(images: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'valid'"):
        images("valid")


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("value", [10.0, math.nan, math.inf, True, "10", None])
def test_numbers_that_are_not_whole_are_refused_by_name(value: Any) -> None:
    for name, makers in {"n": [*CURVES, shapes], "K": [ring, swiss_roll_mixture]}.items():
        for make in makers:
            with pytest.raises(ValueError, match=f"{name} must be a whole number, got"):
                make(value)
    with pytest.raises(ValueError, match="size must be a whole number, got"):
        shapes(3, value)


@pytest.mark.usefixtures("no_shape_checks")
def test_numbers_of_numpy_do_and_other_kinds_do_not() -> None:
    for make in (*CURVES, shapes):
        assert len(make(np.int64(3))) == 3
        for seed in (0, np.random.default_rng(0)):
            with pytest.raises(ValueError, match=r"generator must be a torch\.Generator, got"):
                make(9, generator=seed)
    for name, make in {"noise": lambda x: swiss_roll_mixture(9, x), "std": lambda x: ring(8, x)}.items():
        assert make(np.float32(0.1)).weights.shape[0] in (8, 9)
        for wrong in (0, math.nan, math.inf, "0.1", np.ones(2)):
            with pytest.raises(ValueError, match=rf"{name} must (lie|be a number) in \(0, 1\), got"):
                make(wrong)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float32, None])
def test_images_of_another_kind_are_refused_not_whitened(dtype: torch.dtype | None) -> None:
    """Pixels where images on [-1, 1] are meant would come out white, and such images for pixels black."""
    x: Any = np.ones((2, 1, 8, 8), np.float32) if dtype is None else torch.ones(2, 1, 8, 8, dtype=dtype)
    kind = "ndarray" if dtype is None else str(dtype)
    if dtype != torch.uint8:
        with pytest.raises(ValueError, match=f"pixels must be a tensor of uint8, got {kind}"):
            from_bytes(x)
    if dtype != torch.float32:
        for make in (to_bytes, lambda x: png(x, 1)):
            with pytest.raises(ValueError, match=rf"x must be (floating point|a torch\.Tensor), got {kind}"):
                make(x)
