"""Distances between samples and the truth, with standard errors and noise floors.

The distance between two finite samples is never zero, even if both come from one distribution. So it means something
only beside its noise floor: the same distance, at the same sizes, between two samples of the truth.

Standard errors come from the jackknife: leave points out and see how much the distance moves. On average its variance
is not below the true one (Efron, Stein 1981). It is about right where the distributions differ, and twice too large
where they are equal, so at the floor a standard error is 1.4 times too large; none is too small. (A bootstrap would
not do: copies of a point lie at distance zero from each other, which biases the distance itself. The Fréchet distance
depends only on means and covariances, which do not mind copies, so there the bootstrap works.)

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
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffnotes.arguments import SEEDS, check_batch, check_floating, in_float64, whole
from diffnotes.schedule import flat

Samples = Float[Tensor, "n *point"]
OtherSamples = Float[Tensor, "m *point"]


class Estimate(NamedTuple):
    """A distance and its standard error."""

    value: float
    stderr: float

    def excess(self, floor: "Estimate") -> float:
        """How far this is above `floor`, in standard errors of the difference."""
        return (self.value - floor.value) / math.hypot(self.stderr, floor.stderr)

    def __str__(self) -> str:
        """The standard error to one digit, and the value to the same place."""
        if not 0 < self.stderr < math.inf:
            return f"{self.value:.2g} ± {self.stderr:.1g}"
        error = float(f"{self.stderr:.1g}")
        places = max(0, -math.floor(math.log10(error)))
        return f"{round(self.value, places) + 0.0:.{places}f} ± {error:.{places}f}"  # + 0.0: no -0.00


def energy_distance(x: Samples, y: OtherSamples, *, rows: int = 1024) -> Estimate:
    """The energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'|, in the units of the data (Székely, Rizzo 2013).

    It is zero if and only if the distributions are equal. The means run over pairs of distinct points (a U-statistic),
    so the estimate is unbiased: for equal distributions 0 on average, and below 0 about as often as above.

    Args:
        x, y: points, shapes (n, ...) and (m, ...), n and m >= 3. The work is done in float64.
        rows: how many rows of the table of all distances are in memory at a time.

    Raises:
        ValueError: points are fewer than three, not floating point, of different shapes or on a device without float64,
            or rows < 1.
    """
    check_points(x, y, at_least=3)
    rows = whole("rows", rows)
    x, y, n, m = _points("x", x), _points("y", y), len(x), len(y)
    x_to_y, y_to_x = _distance_sums(x, y, rows), _distance_sums(y, x, rows)
    x_to_x, y_to_y = _distance_sums(x, x, rows), _distance_sums(y, y, rows)

    def distance(xy: Tensor, xx: Tensor, yy: Tensor, n: int, m: int) -> Tensor:
        return 2 * xy / (n * m) - xx / (n * (n - 1)) - yy / (m * (m - 1))

    xy, xx, yy = x_to_y.sum(), x_to_x.sum(), y_to_y.sum()
    less_x = distance(xy - x_to_y, xx - 2 * x_to_x, yy, n - 1, m)  # without point i, for every i
    less_y = distance(xy - y_to_x, xx, yy - 2 * y_to_y, n, m - 1)
    variance = _jackknife(less_x) + _jackknife(less_y)
    return Estimate(float(distance(xy, xx, yy, n, m)), float(variance.sqrt()))


def sliced_wasserstein(
    x: Samples, y: OtherSamples, *, p: int = 2, projections: int = 64, seed: int = 0, groups: int = 10
) -> Estimate:
    """The sliced Wasserstein distance of order p, in the units of the data (Bonneel et al. 2015), by POT.

    Both samples are projected onto random directions; on a line, optimal transport pairs sorted points. The distance is
    the p-th root of the mean cost over the directions. Even for two samples of one distribution it is above zero, by an
    amount that falls with their size, so compare it only with a floor at the same sizes.

    Args:
        x, y: points, shapes (n, ...) and (m, ...), in random order. The work is done in float64.
        projections: the number of directions. A seed gives the same set in every call, so the standard error is that
            of the points, not of the directions.
        groups: how many parts of the samples the jackknife leaves out in turn.

    Raises:
        ValueError: points are fewer than groups, not floating point, of different shapes or on a device without
            float64; groups < 2; p or projections < 1; or no torch.Generator takes the seed.
    """
    import ot  # type: ignore[import-untyped]

    p, projections, groups = whole("p", p), whole("projections", projections), whole("groups", groups, 2)
    generator = torch.Generator().manual_seed(whole("seed", seed, *SEEDS))
    check_points(x, y, at_least=groups)
    x, y = _points("x", x), _points("y", y)
    directions = torch.randn(x.shape[1], projections, generator=generator, dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(x.device)
    distance = partial(ot.sliced_wasserstein_distance, projections=directions, p=p)
    parts = list(zip(x.tensor_split(groups), y.tensor_split(groups), strict=True))
    rest = [[torch.cat(side) for side in zip(*parts[:i], *parts[i + 1 :], strict=True)] for i in range(groups)]
    variance = _jackknife(torch.stack([distance(a, b) for a, b in rest]))
    return Estimate(float(distance(x, y)), float(variance.sqrt()))


def frechet_distance(
    x: Samples,
    y: OtherSamples,
    features: Callable[[Tensor], Tensor] | None = None,
    *,
    resamples: int = 100,
    seed: int = 0,
    batch: int = 500,
) -> Estimate:
    """The Fréchet distance between Gaussians fitted to the features (Heusel et al. 2017).

        |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)),    m and C the mean and covariance of the features

    With Inception's features this is the FID. It is a square, in the units of the features squared. Estimated from n
    points it is too large on average, by an amount that falls as 1 / n, so compare it only at equal sizes.

    The standard error is the bootstrap's: features are redrawn with replacement from both samples, and the distance is
    computed again. Well above the floor it is about right. At the floor it is up to sqrt(3) times too large: there the
    distance is the square of something that is zero but for noise, and resampling adds as much noise again.

    Args:
        x, y: images or other points, shapes (n, ...) and (m, ...), n and m >= 2.
        features: from (batch, ...) to (batch, k), such as the `features` of a `Classifier` of this book; None if x and
            y are features already (compute them once if you compare a sample often).
        resamples: how many draws (from `seed`) the standard error is computed from; with 100 it is good to 7%.
        batch: how many points go through `features` at a time.

    Raises:
        ValueError: points are fewer than two, not floating point (scale bytes to [-1, 1] first) or of different shapes;
            resamples < 2; batch < 1; no torch.Generator takes the seed; or features are not finite or not one row per
            point.
    """
    check_points(x, y, at_least=2)
    resamples, seed, batch = whole("resamples", resamples, 2), whole("seed", seed, *SEEDS), whole("batch", batch)
    a, b = (_features(sample, features, batch) for sample in (x, y))
    generator = torch.Generator().manual_seed(seed)

    def again(sample: Tensor) -> Tensor:
        return sample[torch.randint(len(sample), (len(sample),), generator=generator)]

    redrawn = torch.stack([_gaussian_distance(again(a), again(b)) for _ in range(resamples)])
    return Estimate(float(_gaussian_distance(a, b)), float(redrawn.std()))


def _gaussian_distance(a: Tensor, b: Tensor) -> Tensor:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of features, shapes (n, k) and (m, k), float64."""
    C_a, C_b = (torch.cov(v.T).reshape(v.shape[1], -1) for v in (a, b))  # of one feature, cov makes a number
    # the trace of the root is the sum of the roots of the eigenvalues, which are >= 0 up to rounding
    root = torch.linalg.eigvals(C_a @ C_b).sqrt().real.sum()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    distance: Tensor = apart + (C_a + C_b).trace() - 2 * root  # (img-frechet)
    return distance


def noise_floor(distance: Callable[..., Estimate], truth: Samples, **options: Any) -> Estimate:
    """`distance` between the two halves of `truth`: what a perfect sampler would get at half that size.

    Args:
        distance: `energy_distance`, `sliced_wasserstein` or `frechet_distance`.
        truth: 2n independent true points, if n samples are compared with n true points.
        options: passed to `distance`, the same as for the samples.

    Raises:
        ValueError: an odd number of points, or what `distance` raises.
    """
    check_batch(truth=truth)
    if len(truth) % 2:
        raise ValueError(f"truth must have an even number of points, got {len(truth)}")
    return distance(*truth.tensor_split(2), **options)


def _distance_sums(x: Tensor, y: Tensor, rows: int) -> Tensor:
    """The summed distances of each point of x to all of y."""
    exact_when_near = "donot_use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(part, y, compute_mode=exact_when_near).sum(1) for part in torch.split(x, rows)])


@torch.no_grad()
def _features(x: Tensor, features: Callable[[Tensor], Tensor] | None, batch: int) -> Tensor:
    """The features of all points, shape (n, k), float64, on the CPU, where the bootstrap draws."""
    parts = [x] if features is None else [features(part) for part in torch.split(x, batch)]
    for part in parts:
        check_floating(features=part)
    found = torch.cat([_points("features", part.cpu()) for part in parts])
    if len(found) != len(x):
        raise ValueError(f"features must give one row per point, {len(x)} rows, got {len(found)}")
    if not bool(found.isfinite().all()):
        raise ValueError(f"features must be finite, got {int((~found.isfinite()).sum())} that are not")
    return found


def _jackknife(left_out: Tensor) -> Tensor:
    """The variance of a statistic from its k values with one part left out: (k - 1) / k times their squared spread."""
    return (len(left_out) - 1) * left_out.var(correction=0)


def check_points(x: Tensor, y: Tensor, at_least: int) -> None:
    check_batch(x=x)
    check_batch(y=y)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"x and y must have points of one shape, got {tuple(x.shape[1:])} and {tuple(y.shape[1:])}")
    if min(len(x), len(y)) < at_least:
        raise ValueError(f"x and y must have at least {at_least} points, got {len(x)} and {len(y)}")


def _points(name: str, x: Tensor) -> Tensor:
    """The argument `name`, (n, ...), as (n, coordinates), in float64, without gradients."""
    return flat(in_float64(name, x.detach()))
