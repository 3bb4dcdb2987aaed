"""Data to diffuse: curves in the plane that a network has to learn, and mixtures whose every answer is known.

Everything is standardised: mean 0 and variance 1 in each coordinate, of the distribution and not of the sample, so that
the numbers of one draw can be compared with those of another. A diffusion that keeps variance then keeps it at 1.

The curves are samplers. The mixtures are `GaussianMixture`s: sample them, or ask them for the truth.

>>> generator = torch.Generator().manual_seed(0)
>>> swiss_roll(1000, generator).shape
torch.Size([1000, 2])
>>> torch.allclose(ring(8).covariance, torch.eye(2, dtype=torch.float64))
True
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from diffnotes.mixture import GaussianMixture

Plane = Float[Tensor, "n 2"]


def swiss_roll(n: int, generator: Generator | None = None, noise: float = 0.05) -> Plane:
    """n points of a spiral of one and a half turns: angle u ~ U(3 pi / 2, 9 pi / 2), point u (cos u, sin u).

    Args:
        n: how many, at least 1.
        generator: where the randomness comes from; the points live on its device (the CPU without one).
        noise: standard deviation of the blur across the curve, in units of the result, in [0, 1). The curve shrinks
            by sqrt(1 - noise^2) to make room, so the variance is 1 at any blur.

    Returns:
        Shape (n, 2), the default dtype, mean 0 and variance 1 in each coordinate.

    Raises:
        ValueError: n or noise is out of range.
    """
    _check(n, noise)
    return _standardise(_spiral(_uniform(n, generator)), *_SPIRAL_MOMENTS, noise, generator)


def swiss_roll_mixture(K: int = 1000, noise: float = 0.05) -> GaussianMixture:
    """The distribution of `swiss_roll`, with exact answers: K equal round humps in a row along its curve.

    The density of `swiss_roll` is an integral over the angle, and this is the midpoint rule for it. The humps must
    overlap: they lie 13 / K apart and are `noise` wide. At the defaults, log q(x_0) is off by 2e-5 nats on average
    over the data and by 0.03 at the most, beyond the ends of the curve. Diffusion makes it better still.

    Raises:
        ValueError: K < 1, or noise outside (0, 1).
    """
    _check(K, noise)
    if noise == 0:
        raise ValueError("noise must be positive for the humps to overlap, got 0")
    middles = (torch.arange(K, dtype=torch.float64) + 0.5) / K
    identity = torch.eye(2, dtype=torch.float64)
    means = _shrunk(_spiral(middles), *_SPIRAL_MOMENTS, noise)
    return GaussianMixture(identity.new_full((K,), 1 / K), means, (noise**2 * identity).repeat(K, 1, 1))


def two_moons(n: int, generator: Generator | None = None, noise: float = 0.1) -> Plane:
    """n points of two interlocking half circles, each with probability 1/2.

    With u ~ U(0, pi) they are (cos u, sin u) and (1 - cos u, 1/2 - sin u). Arguments, result and errors are those of
    `swiss_roll`.
    """
    return labelled_moons(n, generator, noise)[0]


def labelled_moons(
    n: int, generator: Generator | None = None, noise: float = 0.1
) -> tuple[Plane, Int[Tensor, " n"]]:
    """`two_moons`, and for each point the half circle it is from: 0 the upper one, 1 the lower, int64 of shape (n,)."""
    _check(n, noise)
    u = math.pi * _uniform(n, generator)
    upper = torch.stack([u.cos(), u.sin()], dim=1)
    lower = torch.tensor([1.0, 0.5], dtype=u.dtype, device=u.device) - upper
    which = (_uniform(n, generator) >= 0.5).long()
    # E cos u = 0, E sin u = 2 / pi, E cos^2 u = E sin^2 u = 1/2
    mean, square = [1 / 2, 1 / 4], [1.0, 5 / 8 - 1 / math.pi]
    points = torch.where(which[:, None] == 0, upper, lower)
    return _standardise(points, mean, square, noise, generator), which


def mixture_1d() -> GaussianMixture:
    """Two humps on the line, unlike in weight and width, so that a sign or a factor gone wrong shows."""
    weights, means, stds = [0.3, 0.7], [-1.5, 1.0], [0.25, 0.5]
    return _standardised(weights, [[m] for m in means], [[[s**2]] for s in stds])


def mixture_2d() -> GaussianMixture:
    """Three humps in the plane, unlike in weight, tilted and of unlike widths: no symmetry for a slip to hide in."""
    means = [[-1.5, 0.5], [1.0, 1.0], [0.5, -1.5]]
    covariances = [[[0.30, 0.20], [0.20, 0.20]], [[0.10, -0.05], [-0.05, 0.20]], [[0.50, 0.0], [0.0, 0.04]]]
    return _standardised([0.5, 0.3, 0.2], means, covariances)


def ring(K: int = 8, std: float = 0.1) -> GaussianMixture:
    """K equal round humps of standard deviation `std`, evenly on the circle that makes the covariance I.

    Raises:
        ValueError: K < 3 (a circle needs three points to be round) or std outside (0, 1).
    """
    if K < 3:
        raise ValueError(f"K must be at least 3, got {K}")
    if not 0 < std < 1:
        raise ValueError(f"std must lie in (0, 1), got {std}")
    angles = 2 * math.pi / K * torch.arange(K, dtype=torch.float64)
    radius = math.sqrt(2 * (1 - std**2))  # radius^2 / 2 + std^2 = 1
    means = radius * torch.stack([angles.cos(), angles.sin()], dim=1)
    identity = torch.eye(2, dtype=torch.float64)
    return GaussianMixture(
        torch.full((K,), 1 / K, dtype=torch.float64), means, (std**2 * identity).repeat(K, 1, 1)
    )


def shapes(n: int, size: int = 16, generator: Generator | None = None) -> Float[Tensor, "n 1 size size"]:
    """n pictures of a bright disc, square or cross on black, each with its own place and width; values in [-1, 1].

    Raises:
        ValueError: n < 1 or size < 8.
    """
    if n < 1 or size < 8:
        raise ValueError(f"n must be at least 1 and size at least 8, got n={n}, size={size}")
    kind, x, y, r = _uniform(4 * n, generator).reshape(4, n, 1, 1)
    line = torch.linspace(-1, 1, size, device=_device(generator))
    dx, dy = (line[None, None, :] - 0.8 * (x - 0.5)).abs(), (line[None, :, None] - 0.8 * (y - 0.5)).abs()
    r = 0.35 + 0.2 * r
    disc, square = (dx**2 + dy**2).sqrt() - r, torch.maximum(dx, dy) - r
    cross = torch.maximum(torch.minimum(dx, dy) - r / 3, torch.maximum(dx, dy) - r)
    outside = torch.where(kind < 1 / 3, disc, torch.where(kind < 2 / 3, square, cross))  # < 0 inside
    return (1 - size * outside).clamp(-1, 1)[:, None]  # an edge one or two pixels wide


# ---- small pieces ---------------------------------------------------------------------------------------------


def _check(n: int, noise: float) -> None:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 0 <= noise < 1:
        raise ValueError(f"noise must lie in [0, 1), got {noise}")


def _device(generator: Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device


def _uniform(n: int, generator: Generator | None) -> Tensor:
    return torch.rand(n, generator=generator, device=_device(generator))


def _spiral(share: Tensor) -> Tensor:
    """Points of the spiral, given by the share in [0, 1] of its angle."""
    u = math.pi * (1.5 + 3 * share)
    return u[:, None] * torch.stack([u.cos(), u.sin()], dim=1)


# the means of u cos u and u sin u, and of their squares, over the angles: integrals by parts
_SPIRAL_MOMENTS = (
    [2.0, 2 / (3 * math.pi)],
    [39 / 8 * math.pi**2 - 1 / 4, 39 / 8 * math.pi**2 + 1 / 4],
)


def _shrunk(points: Tensor, mean: list[float], square: list[float], noise: float) -> Tensor:
    """Points with these first and second moments, moved to mean 0 and shrunk to variance 1 - noise^2."""
    m, s = (torch.tensor(v, dtype=points.dtype, device=points.device) for v in (mean, square))
    return math.sqrt(1 - noise**2) * (points - m) / (s - m**2).sqrt()


def _standardise(
    points: Tensor, mean: list[float], square: list[float], noise: float, generator: Generator | None
) -> Tensor:
    """The same, with blur added up to variance 1."""
    blur = torch.randn(points.shape, generator=generator, device=points.device)
    return _shrunk(points, mean, square, noise) + noise * blur


def _standardised(
    weights: list[float], means: list[list[float]], covariances: list[list[list[float]]]
) -> GaussianMixture:
    """The mixture with these parts, moved and stretched to mean 0 and variance 1 in each coordinate."""
    w, mu, C = (torch.tensor(v, dtype=torch.float64) for v in (weights, means, covariances))
    raw = GaussianMixture(w, mu, C)
    std = raw.covariance.diagonal().sqrt()
    return GaussianMixture(w, (mu - raw.mean) / std, C / (std[:, None] * std))
