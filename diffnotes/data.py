"""Data to diffuse: curves in the plane for a network to learn, mixtures with exact answers, and images.

Data in the plane or on a line are standardised to mean 0 and variance 1 in each coordinate, which a variance-preserving
diffusion then keeps. These are the moments of the distribution, not of the sample, so that draws can be compared.

The curves are samplers. The mixtures are `GaussianMixture`s: sample them, or ask them for the truth. The images are
Fashion-MNIST and CIFAR-10, with pixels scaled to [-1, 1].

>>> generator = torch.Generator().manual_seed(0)
>>> swiss_roll(1000, generator).shape
torch.Size([1000, 2])
>>> torch.allclose(ring(8).covariance, torch.eye(2, dtype=torch.float64))
True
"""

import math
import tarfile
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Generator, Tensor

from diffnotes.arguments import check_floating, number, whole
from diffnotes.download import cache_folder, fetch
from diffnotes.mixture import GaussianMixture

Plane = Float[Tensor, "n 2"]
Bytes = UInt8[Tensor, "*shape"]
Split = Literal["train", "test"]


def swiss_roll(n: int, generator: Generator | None = None, noise: float = 0.05) -> Plane:
    """n points of a spiral of one and a half turns: u (cos u, sin u) with u ~ U(3 pi / 2, 9 pi / 2).

    Shape (n, 2), in the default dtype, on the device of the generator (without one, on the CPU).

    Args:
        n: at least 1, or ValueError.
        noise: the standard deviation of the blur, in units of the result, in [0, 1), or ValueError. The curve shrinks
            by sqrt(1 - noise^2) to make room, so the variance is 1 at any blur.
    """
    n, noise = whole("n", n), number("noise", noise, "[0, 1)")
    return _standardise(_spiral(_uniform(n, generator)), *_SPIRAL_MOMENTS, noise, generator)


def swiss_roll_mixture(K: int = 1000, noise: float = 0.05) -> GaussianMixture:
    """The distribution of `swiss_roll`, with exact answers: K equal round humps in a row along its curve.

    The density of `swiss_roll` is an integral over the angle; this is its midpoint rule. The humps must overlap: they
    lie 13 / K apart and are `noise` wide. With the defaults, log q(x_0) is off by 2e-5 nats on average over the data
    and by at most 0.03, beyond the ends of the curve. Diffusion makes the error smaller still. K < 1, or noise outside
    (0, 1), is a ValueError.
    """
    K, noise = whole("K", K), number("noise", noise, "(0, 1)")  # at 0 the humps would not overlap
    middles = (torch.arange(K, dtype=torch.float64) + 0.5) / K
    identity = torch.eye(2, dtype=torch.float64)
    means = _shrunk(_spiral(middles), *_SPIRAL_MOMENTS, noise)
    return GaussianMixture(identity.new_full((K,), 1 / K), means, (noise**2 * identity).repeat(K, 1, 1))


def two_moons(n: int, generator: Generator | None = None, noise: float = 0.1) -> Plane:
    """n points of two interlocking half circles: (cos u, sin u) or (1 - cos u, 1/2 - sin u) with u ~ U(0, pi).

    Arguments, result and errors are those of `swiss_roll`.
    """
    return labelled_moons(n, generator, noise)[0]


def labelled_moons(n: int, generator: Generator | None = None, noise: float = 0.1) -> tuple[Plane, Int[Tensor, " n"]]:
    """`two_moons`, and the half circle of each point: 0 for the upper, 1 for the lower, int64 of shape (n,)."""
    n, noise = whole("n", n), number("noise", noise, "[0, 1)")
    u = math.pi * _uniform(n, generator)
    upper = torch.stack([u.cos(), u.sin()], dim=1)
    lower = torch.tensor([1.0, 0.5], dtype=u.dtype, device=u.device) - upper
    which = (_uniform(n, generator) >= 0.5).long()
    # E cos u = 0, E sin u = 2 / pi, E cos^2 u = E sin^2 u = 1/2
    mean, square = [1 / 2, 1 / 4], [1.0, 5 / 8 - 1 / math.pi]
    points = torch.where(which[:, None] == 0, upper, lower)
    return _standardise(points, mean, square, noise, generator), which


def mixture_1d() -> GaussianMixture:
    """Two humps on a line, of different weight and width, so that a wrong sign or factor shows."""
    weights, means, stds = [0.3, 0.7], [-1.5, 1.0], [0.25, 0.5]
    return _standardised(weights, [[m] for m in means], [[[s**2]] for s in stds])


def mixture_2d() -> GaussianMixture:
    """Three humps in the plane, of different weights, tilts and widths: no symmetry in which a slip could hide."""
    means = [[-1.5, 0.5], [1.0, 1.0], [0.5, -1.5]]
    covariances = [[[0.30, 0.20], [0.20, 0.20]], [[0.10, -0.05], [-0.05, 0.20]], [[0.50, 0.0], [0.0, 0.04]]]
    return _standardised([0.5, 0.3, 0.2], means, covariances)


def ring(K: int = 8, std: float = 0.1) -> GaussianMixture:
    """K equal round humps of standard deviation `std`, evenly spaced on a circle whose radius makes the covariance I.

    K < 3 (with fewer, no circle gives that covariance) or std outside (0, 1) is a ValueError.
    """
    K, std = whole("K", K, 3), number("std", std, "(0, 1)")
    angles = 2 * math.pi / K * torch.arange(K, dtype=torch.float64)
    radius = math.sqrt(2 * (1 - std**2))  # radius^2 / 2 + std^2 = 1
    means = radius * torch.stack([angles.cos(), angles.sin()], dim=1)
    identity = torch.eye(2, dtype=torch.float64)
    return GaussianMixture(torch.full((K,), 1 / K, dtype=torch.float64), means, (std**2 * identity).repeat(K, 1, 1))


def shapes(n: int, size: int = 16, generator: Generator | None = None) -> Float[Tensor, "n 1 size size"]:
    """n >= 1 pictures of a bright disc, square or cross at a random place on black; values in [-1, 1]; size >= 8."""
    n, size = whole("n", n), whole("size", size, 8)
    kind, x, y, r = _uniform(4 * n, generator).reshape(4, n, 1, 1)
    line = torch.linspace(-1, 1, size, device=x.device)
    dx, dy = (line[None, None, :] - 0.8 * (x - 0.5)).abs(), (line[None, :, None] - 0.8 * (y - 0.5)).abs()
    r = 0.35 + 0.2 * r
    disc, square = (dx**2 + dy**2).sqrt() - r, torch.maximum(dx, dy) - r
    cross = torch.maximum(torch.minimum(dx, dy) - r / 3, torch.maximum(dx, dy) - r)
    outside = torch.where(kind < 1 / 3, disc, torch.where(kind < 2 / 3, square, cross))  # < 0 inside
    return (1 - size * outside).clamp(-1, 1)[:, None]  # an edge one or two pixels wide


# ---- images ---------------------------------------------------------------------------------------------------

GARMENTS = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_FASHION_SUMS = {  # of the decompressed content
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_FASHION_MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
_SHIPPED = Path(__file__).parent / "fashion_mnist"  # the test set
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # from the package dataset-fashion-mnist
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR_SUM = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"


class Images(NamedTuple):
    """Images with their labels."""

    x: Float[Tensor, "n channels height width"]  # float32, pixel k of 0 .. 255 as k / 127.5 - 1
    y: Int[Tensor, " n"]  # int64, 0 .. 9


def fashion_mnist(split: Split, *, folder: str | Path | None = None, progress: bool = False) -> Images:
    """Fashion-MNIST: 60,000 pictures of clothes for training and 10,000 for testing, 28 x 28, one channel.

    The test set comes with the package. The training set is taken from `folder`, or else from Debian's package
    dataset-fashion-mnist or an earlier download; failing that, it is downloaded (26 MB).

    Args:
        folder: where the training set is, or is downloaded to (default: `diffnotes.download.cache_folder()`).

    Raises:
        ValueError: a file does not have the published SHA-256, or there is no such split.
        OSError: the files are not on this machine, and no mirror answers.

    Source: Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747; MIT licence. `GARMENTS` names the labels.

    >>> images, labels = fashion_mnist("test")
    >>> images.shape, float(images.min()), float(images.max()), GARMENTS[int(labels[0])]
    (torch.Size([10000, 1, 28, 28]), -1.0, 1.0, 'ankle boot')
    """
    _known_split(split)
    part = "train" if split == "train" else "t10k"
    images = _fashion_file(f"{part}-images-idx3-ubyte.gz", folder, progress)
    labels = _fashion_file(f"{part}-labels-idx1-ubyte.gz", folder, progress)
    # the header of an idx file: 4 bytes of magic number, then 4 for each dimension, 3 for images and 1 for labels
    return Images(from_bytes(_bytes(images, 16).reshape(-1, 1, 28, 28)), _bytes(labels, 8).long())


def _fashion_file(name: str, folder: str | Path | None, progress: bool) -> bytes:
    """The checked content of one of the four files."""
    elsewhere = [_DEBIAN, cache_folder() / "fashion-mnist"] if folder is None else [Path(folder)]
    places = [place / name for place in (_SHIPPED, *elsewhere)]
    path = next((place for place in places if place.exists()), places[-1])
    return fetch(path, [mirror + name for mirror in _FASHION_MIRRORS], _FASHION_SUMS[name], gz=True, progress=progress)


def cifar10(split: Split, *, folder: str | Path | None = None, progress: bool = False) -> Images:
    """CIFAR-10: 50,000 colour pictures of ten classes for training and 10,000 for testing, 32 x 32.

    The one file, `cifar-10-binary.tar.gz`, has 170 MB. Arguments and errors are those of `fashion_mnist`.

    Source: Krizhevsky 2009, *Learning multiple layers of features from tiny images*.
    """
    _known_split(split)
    path = Path(folder or cache_folder()) / "cifar-10-binary.tar.gz"
    fetch(path, [_CIFAR_URL], _CIFAR_SUM, progress=progress)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    with tarfile.open(path) as archive:
        files = [archive.extractfile(f"cifar-10-batches-bin/{name}") for name in names]
        content = b"".join(file.read() for file in files if file)  # all are there: it is the published one
    rows = _bytes(content).reshape(-1, 1 + 3 * 32 * 32)  # the label, then the red, green and blue pixels
    return Images(from_bytes(rows[:, 1:].reshape(-1, 3, 32, 32)), rows[:, 0].long())


def from_bytes(pixels: Bytes) -> Float[Tensor, "*shape"]:
    """Pixels 0 .. 255 scaled to [-1, 1], float32: k becomes k / 127.5 - 1. Any dtype but uint8 is a ValueError."""
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8:
        kind = pixels.dtype if isinstance(pixels, Tensor) else type(pixels).__name__
        raise ValueError(f"pixels must be a tensor of uint8, got {kind}")
    return pixels.to(torch.float32).div_(127.5).sub_(1)


def to_bytes(x: Float[Tensor, "*shape"]) -> Bytes:
    """Images on [-1, 1] as pixels 0 .. 255; values outside are clamped. Integers are a ValueError.

    >>> to_bytes(torch.tensor([-1.0, 0.0, 1.0, 1.2]))
    tensor([  0, 128, 255, 255], dtype=torch.uint8)
    """
    check_floating(x=x)
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _known_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")


def _bytes(content: bytes, skip: int = 0) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=skip)  # torch wants it writable


def _uniform(n: int, generator: Generator | None) -> Tensor:
    if not isinstance(generator, Generator | None):
        raise ValueError(f"generator must be a torch.Generator, got {generator!r}")
    return torch.rand(n, generator=generator, device="cpu" if generator is None else generator.device)


def _spiral(share: Tensor) -> Tensor:
    """Points of the spiral, each at a `share` in [0, 1] of the range of angles."""
    u = math.pi * (1.5 + 3 * share)
    return u[:, None] * torch.stack([u.cos(), u.sin()], dim=1)


# the means of u cos u and u sin u, and of their squares, over the angles (integration by parts)
_SPIRAL_MOMENTS = ([2.0, 2 / (3 * math.pi)], [39 / 8 * math.pi**2 - 1 / 4, 39 / 8 * math.pi**2 + 1 / 4])


def _shrunk(points: Tensor, mean: list[float], square: list[float], noise: float) -> Tensor:
    """Points with these first and second moments, shifted to mean 0 and shrunk to variance 1 - noise^2."""
    m, s = (torch.tensor(v, dtype=points.dtype, device=points.device) for v in (mean, square))
    return math.sqrt(1 - noise**2) * (points - m) / (s - m**2).sqrt()


def _standardise(
    points: Tensor, mean: list[float], square: list[float], noise: float, generator: Generator | None
) -> Tensor:
    """`_shrunk`, plus blur that brings the variance to 1."""
    blur = torch.randn(points.shape, generator=generator, device=points.device)
    return _shrunk(points, mean, square, noise) + noise * blur


def _standardised(
    weights: list[float], means: list[list[float]], covariances: list[list[list[float]]]
) -> GaussianMixture:
    """The mixture of these components, shifted and scaled to mean 0 and variance 1 in each coordinate."""
    w, mu, C = (torch.tensor(v, dtype=torch.float64) for v in (weights, means, covariances))
    raw = GaussianMixture(w, mu, C)
    std = raw.covariance.diagonal().sqrt()
    return GaussianMixture(w, (mu - raw.mean) / std, C / (std[:, None] * std))
