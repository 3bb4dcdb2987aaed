"""How far samples are from the truth, with a standard error, and how far two true samples are from each other.

A distance between two finite samples is never zero, not even where both come from one distribution. So a distance
means something only beside its noise floor: the same distance, at the same size, between two samples of the truth.

Each distance is estimated on disjoint blocks of the samples. The blocks are independent, so their mean has an honest
standard error: their standard deviation over the square root of their number. (A bootstrap would not do for the
energy distance: when the two distributions are equal its first-order term vanishes, and resampling with replacement
gets the spread wrong.) Points must therefore come in random order, and a distance that depends on the size of the
sample, as the sliced Wasserstein distance does, is that of one block.

>>> import torch
>>> generator = torch.Generator().manual_seed(0)
>>> truth = torch.randn(4000, 2, generator=generator)
>>> wrong = 1.2 * torch.randn(2000, 2, generator=generator)
>>> floor = noise_floor(energy_distance, truth)
>>> abs(floor.value) < 3 * floor.stderr
True
>>> energy_distance(wrong, truth[:2000]).excess(floor) > 3
True
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffnotes.schedule import Batch


class Estimate(NamedTuple):
    """A distance and its standard error."""

    value: float
    stderr: float

    def excess(self, floor: "Estimate") -> float:
        """How far this lies above `floor`, in standard errors of the difference."""
        return (self.value - floor.value) / math.hypot(self.stderr, floor.stderr)

    def __str__(self) -> str:
        return f"{self.value:.2g} ± {self.stderr:.1g}"


def energy_distance(x: Batch, y: Batch, *, blocks: int = 10, rows: int = 1024) -> Estimate:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, in the units of the data (Székely, Rizzo 2013).

    It is zero exactly when both distributions are equal. The means run over pairs of different points (U-statistic),
    so the estimate is unbiased, 0 on average for equal distributions, and can come out below zero. No table of all
    pairs is made: `rows` rows of it at a time.

    Args:
        x, y: points, shapes (n, ...) and (m, ...), in random order. The work is done in float64.
        blocks: disjoint parts of the samples that the standard error comes from.

    Raises:
        ValueError: blocks < 2, fewer than two points a block, rows < 1, or points of different shapes.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")

    def mean_distance(a: Tensor, b: Tensor, pairs: int) -> Tensor:
        total = a.new_zeros(())
        for i in range(0, len(a), rows):
            total += torch.cdist(a[i : i + rows], b, compute_mode="donot_use_mm_for_euclid_dist").sum()
        return total / pairs

    def distance(a: Tensor, b: Tensor) -> Tensor:
        n, m = len(a), len(b)
        within = mean_distance(a, a, n * (n - 1)) + mean_distance(b, b, m * (m - 1))
        return 2 * mean_distance(a, b, n * m) - within

    return _over_blocks(distance, x, y, blocks)


def sliced_wasserstein(
    x: Batch, y: Batch, *, p: int = 2, projections: int = 128, seed: int = 0, blocks: int = 10
) -> Estimate:
    """The sliced Wasserstein distance of order p, in the units of the data (Bonneel et al. 2015), by POT.

    Both samples are projected on random directions; on a line optimal transport pairs sorted points. The distance is
    the p-th root of the mean cost over the directions. It is above zero even for two samples of one distribution,
    by an amount that falls with the size of a block, so compare it only with a floor at the same sizes.

    Args:
        x, y: points, shapes (n, ...) and (m, ...), in random order. The work is done in float64.
        projections: the number of directions. One seed gives one set of them, the same for every block and call, so
            the standard error is that of the points, not of the directions.
        blocks: disjoint parts of the samples that the standard error comes from.

    Raises:
        ValueError: blocks < 2, fewer than two points a block, p < 1, projections < 1, or points of different shapes.
    """
    import ot  # type: ignore[import-untyped]

    if p < 1 or projections < 1:
        raise ValueError(f"p and projections must be at least 1, got p={p}, projections={projections}")
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(_points(x).shape[1], projections, generator=generator, dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(x.device)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        cost: Tensor = ot.sliced_wasserstein_distance(a, b, projections=directions, p=p)
        return cost

    return _over_blocks(distance, x, y, blocks)


def noise_floor(distance: Callable[..., Estimate], truth: Batch, **options: Any) -> Estimate:
    """`distance` between the two halves of `truth`: what a perfect sampler gets at half that size.

    Args:
        distance: `energy_distance` or `sliced_wasserstein`.
        truth: 2n independent points of the truth, to compare with n samples against n points.
        options: handed on to `distance`, the same as for the samples.

    Raises:
        ValueError: an odd number of points, or what `distance` raises.
    """
    if len(truth) % 2:
        raise ValueError(f"truth must have an even number of points, got {len(truth)}")
    half = len(truth) // 2
    return distance(truth[:half], truth[half:], **options)


def _over_blocks(distance: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, blocks: int) -> Estimate:
    """The mean of `distance` over pairs of blocks, and its standard error."""
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"x and y must have points of one shape, got {tuple(x.shape[1:])} and {tuple(y.shape[1:])}"
        )
    if blocks < 2 or min(len(x), len(y)) < 2 * blocks:
        raise ValueError(
            f"blocks must be at least 2, of two points or more each, got {blocks} for {len(x)} and {len(y)} points"
        )
    pairs = zip(_points(x).tensor_split(blocks), _points(y).tensor_split(blocks), strict=True)
    values = torch.stack([distance(a, b) for a, b in pairs])
    return Estimate(float(values.mean()), float(values.std() / math.sqrt(blocks)))


def _points(x: Tensor) -> Tensor:
    """(n, ...) to (n, coordinates), in float64."""
    return x.detach().double().unsqueeze(-1).flatten(1)
