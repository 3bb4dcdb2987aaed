"""data.py: shapes, seeds, moments that are exact and not the sample's, and every refusal."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffnotes.data import labelled_moons, mixture_1d, mixture_2d, ring, shapes, swiss_roll, two_moons
from diffnotes.mixture import GaussianMixture

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
    x = two_moons(20_000, seeded(0), noise=0.0).double() * std + torch.tensor(
        [1 / 2, 1 / 4], dtype=torch.float64
    )
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
    blur = (
        blurred - math.sqrt(1 - 0.3**2) * sharp
    ).double() / 0.3  # the same seed draws the same curve first
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
    for n, size in ((0, 16), (1, 7)):
        with pytest.raises(ValueError, match=f"size at least 8, got n={n}, size={size}"):
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
