"""metrics.py: known distances are found, equal distributions are at zero, and the standard errors are honest."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import wasserstein_distance
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from diffnotes.metrics import Estimate, energy_distance, frechet_distance, noise_floor, sliced_wasserstein

F64, EPS = torch.float64, 2.0**-53
Distance = Callable[..., Estimate]


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def jackknife(left_out: list[float]) -> float:
    """The textbook's formula for the variance."""
    k, mean = len(left_out), sum(left_out) / len(left_out)
    return (k - 1) / k * sum((value - mean) ** 2 for value in left_out)


# ---- values known otherwise -----------------------------------------------------------------------------


def test_energy_distance_pair_by_pair() -> None:
    """Written out over pairs of different points, and again with each point left out."""
    x, y = normal(8, 3, 0), 0.5 + normal(11, 3, 1)

    def mean(pairs: Any) -> float:
        return float(np.mean([float((a - b).norm()) for a, b in pairs]))

    def distance(x: Tensor, y: Tensor) -> float:
        within = mean(itertools.combinations(x, 2)) + mean(itertools.combinations(y, 2))
        return 2 * mean(itertools.product(x, y)) - within

    less_x = [distance(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(8)]
    less_y = [distance(x, torch.cat([y[:i], y[i + 1 :]])) for i in range(11)]
    for rows in (1, 3, 1024):
        got = energy_distance(x, y, rows=rows)
        assert got.value == pytest.approx(distance(x, y), rel=1e-12)
        assert got.stderr == pytest.approx(math.sqrt(jackknife(less_x) + jackknife(less_y)), rel=1e-10)


def test_energy_distance_of_two_normals() -> None:
    """On a line: E|X - Y| for X - Y ~ N(m, s^2) is s sqrt(2/pi) exp(-m^2/2s^2) + m erf(m / s sqrt 2)."""

    def expected_distance(m: float, s: float) -> float:
        return s * math.sqrt(2 / math.pi) * math.exp(-(m**2) / (2 * s**2)) + m * math.erf(m / (s * math.sqrt(2)))

    want = 2 * expected_distance(0.7, math.hypot(1, 1.5)) - expected_distance(0, math.sqrt(2))
    want -= expected_distance(0, 1.5 * math.sqrt(2))
    got = energy_distance(normal(4000, 1, 0), 0.7 + 1.5 * normal(4000, 1, 1))
    assert abs(got.value - want) < 4 * got.stderr
    assert got.stderr < want / 10


def test_sliced_wasserstein_on_a_line_is_wasserstein() -> None:
    """In one dimension every direction is the line, and SciPy knows the distance (p = 1); p = 2 from sorted points."""
    x, y = normal(60, 1, 0), 0.5 + 2 * normal(60, 1, 1)

    def one(a: Tensor, b: Tensor) -> float:
        return float(wasserstein_distance(a.flatten().numpy(), b.flatten().numpy()))

    def two(a: Tensor, b: Tensor) -> float:
        return float((a.sort(0).values - b.sort(0).values).square().mean().sqrt())

    for p, want in ((1, one), (2, two)):
        got = sliced_wasserstein(x, y, p=p, groups=4)
        keep = [[j for j in range(60) if j // 15 != i] for i in range(4)]
        assert got.value == pytest.approx(want(x, y), rel=1e-10)
        assert got.stderr == pytest.approx(math.sqrt(jackknife([want(x[k], y[k]) for k in keep])), rel=1e-8)


def test_sliced_wasserstein_of_a_shift() -> None:
    """A shift by m costs (m . u)^2 along u; over all u that averages to |m|^2 / d."""
    x = normal(40, 3, 0)
    shift = torch.tensor([0.3, -1.0, 0.5], dtype=F64)
    got = sliced_wasserstein(x, x + shift, projections=10_000, groups=2)
    want = float(shift.norm()) / math.sqrt(3)
    # (m . u)^2 has mean |m|^2 / 3 and variance |m|^4 (1/5 - 1/9); the root halves the relative error
    stderr = want * math.sqrt(1 / 5 - 1 / 9) * 3 / 2 / math.sqrt(10_000)
    assert abs(got.value - want) < 4 * stderr
    assert got.stderr < 1e-12  # it is the same shift whatever is left out


def with_moments(n: int, mean: Tensor, covariance: Tensor, seed: int) -> Tensor:
    """n points whose own mean and covariance (divisor n - 1) are these, to rounding."""
    x = normal(n, len(mean), seed)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(x.T)), x.T, upper=False)
    return mean + (torch.linalg.cholesky(covariance) @ white).T


def covariance(d: int, seed: int) -> Tensor:
    """A covariance with eigenvalues of order 1 and no axis of its own."""
    a = normal(d, d, seed)
    return a @ a.T / d + 0.1 * torch.eye(d, dtype=F64)


def test_frechet_distance_of_gaussians_with_known_moments() -> None:
    """Along the axes it is |m - m'|^2 + sum (s - s')^2; in general the root of the product comes from SciPy's sqrtm."""
    m, s = torch.tensor([0.3, -1.0, 2.0], dtype=F64), torch.tensor([1.0, 0.5, 2.0], dtype=F64)
    x = with_moments(50, torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64), 0)
    y = with_moments(70, m, torch.diag(s**2), 1)
    want = float(m.square().sum() + (1 - s).square().sum())
    assert frechet_distance(x, y, resamples=2).value == pytest.approx(want, rel=1e-12)
    d = 5
    a, b, m = covariance(d, 2), covariance(d, 3), normal(1, d, 4)[0]
    x, y = with_moments(50, m, a, 5), with_moments(70, torch.zeros(d, dtype=F64), b, 6)
    want = float(m.square().sum() + a.trace() + b.trace()) - 2 * float(np.trace(sqrtm((a @ b).numpy())).real)
    assert frechet_distance(x, y, resamples=2).value == pytest.approx(want, rel=1e-12)


def test_frechet_distance_is_symmetric_and_zero_for_equal_samples() -> None:
    x, y = 3 * normal(60, 6, 0) @ covariance(6, 2), 0.5 + normal(50, 6, 1)
    there, back = (frechet_distance(a, b, resamples=2).value for a, b in ((x, y), (y, x)))
    assert there == pytest.approx(back, rel=1e-12)
    # the traces are sums of 6 numbers, and roots of eigenvalues of C^2 lose as many digits as C is ill-conditioned
    C = torch.cov(x.T)
    assert abs(frechet_distance(x, x.flip(0), resamples=2).value) < 6 * EPS * float(C.trace() * torch.linalg.cond(C))


class Features(nn.Module):
    """A feature network as torchmetrics asks for it: a module that says how many features it has."""

    num_features = 7

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 3, 3), nn.SiLU(), nn.Flatten(), nn.Linear(48, 7)).double()

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x)
        return features


@pytest.mark.parametrize("batch", [7, 500])
def test_frechet_distance_is_that_of_torchmetrics_on_images(batch: int) -> None:
    """All at once through torchmetrics' own path, and in batches through ours: sums in another order."""
    network = Features()
    x, y = normal(40, 36, 0).reshape(40, 1, 6, 6), 0.5 + 1.5 * normal(30, 36, 1).reshape(30, 1, 6, 6)
    metric = FrechetInceptionDistance(network, normalize=True)
    with torch.no_grad():
        metric.update(x, real=True)
        metric.update(y, real=False)
    got = frechet_distance(x, y, network, batch=batch, resamples=3)
    assert got.value == pytest.approx(float(metric.compute()), rel=1e-10)
    assert frechet_distance(network(x), network(y), resamples=3) == pytest.approx(got, rel=1e-10)
    assert frechet_distance(x, y, network, batch=batch, resamples=3, seed=1).stderr != got.stderr


def test_frechet_distance_draws_features_anew_with_replacement() -> None:
    """The standard error is the spread of the distance between samples redrawn by hand."""
    x, y, generator = normal(12, 2, 0), 1 + normal(9, 2, 1), torch.Generator().manual_seed(5)
    values = []
    for _ in range(4):
        i, j = torch.randint(12, (12,), generator=generator), torch.randint(9, (9,), generator=generator)
        values.append(frechet_distance(x[i], y[j], resamples=2).value)
    got = frechet_distance(x, y, resamples=4, seed=5)
    assert got.stderr == pytest.approx(float(np.std(values, ddof=1)), rel=1e-10)


# ---- what a floor is, and that errors are honest --------------------------------------------------------


@pytest.mark.parametrize(("scale", "ratio"), [(1.0, math.sqrt(2)), (1.5, 1.0)], ids=["equal", "not"])
def test_energy_distances_have_the_errors_that_they_claim(scale: float, ratio: float) -> None:
    """1000 independent pairs: unbiased, and the claimed error over the true one is what the module says."""
    found = [energy_distance(normal(50, 2, 2 * i), scale * normal(50, 2, 2 * i + 1)) for i in range(1000)]
    values = np.array([e.value for e in found])
    stderr = values.std(ddof=1) / math.sqrt(1000)
    if scale == 1:
        assert abs(values.mean()) < 4 * stderr
        assert min(values) < 0
    else:
        assert values.mean() > 10 * stderr
    claimed = math.sqrt(np.mean([e.stderr**2 for e in found])) / values.std(ddof=1)
    # The spread of 1000 values is known to 1/sqrt(2000) = 2% for a normal and to some 5% for these heavier tails:
    # three times that. Where the distributions differ, the part that is counted twice is still seen at 50 points.
    assert ratio * 0.85 < claimed < ratio * (1.15 if scale == 1 else 1.3)


def test_sliced_wasserstein_claims_no_error_too_small() -> None:
    for scale in (1.0, 1.5):
        pairs = [(normal(50, 2, 2 * i), scale * normal(50, 2, 2 * i + 1)) for i in range(200)]
        found = [sliced_wasserstein(x, y, projections=8, groups=5) for x, y in pairs]
        claimed = math.sqrt(np.mean([e.stderr**2 for e in found])) / np.std([e.value for e in found], ddof=1)
        # 200 values: their spread is known to 5%, three times that below 1; above, twice covers a double count
        assert 0.85 < claimed < 2


@pytest.mark.parametrize(("shift", "ratio"), [(0.0, math.sqrt(3)), (2.0, 1.0)], ids=["equal", "not"])
def test_frechet_distances_have_the_errors_that_they_claim(shift: float, ratio: float) -> None:
    """For equal distributions |mean - mean'|^2 has variance 2 d s^4, s^2 being the variance of the difference. Drawn
    anew it has 2 d s^4 + 4 s^2 |mean - mean'|^2, on average 6 d s^4: three times as much. So it is with covariances."""
    pairs = [(normal(200, 3, 2 * i), shift + normal(200, 3, 2 * i + 1)) for i in range(200)]
    found = [frechet_distance(x, y, resamples=10) for x, y in pairs]
    claimed = math.sqrt(np.mean([e.stderr**2 for e in found])) / np.std([e.value for e in found], ddof=1)
    # The spread of 200 values is known to 5% for a normal, and to some 10% for the heavier tails of squares: three
    # times that. At 200 points the covariances' part is a little below sqrt 3.
    assert ratio * 0.7 < claimed < ratio * 1.3


@pytest.mark.parametrize("distance", [energy_distance, sliced_wasserstein, frechet_distance])
def test_a_true_sample_is_at_the_floor_and_a_wrong_one_above(distance: Distance) -> None:
    n = 1000
    floor, truth, sample = noise_floor(distance, normal(2 * n, 2, 0)), normal(n, 2, 1), normal(n, 2, 2)
    assert abs(distance(sample, truth).excess(floor)) < 3
    for wrong in (1.3 * sample, sample + 0.3, sample.abs()):
        assert distance(wrong, truth).excess(floor) > 3


def test_the_floor_is_the_distance_of_the_halves() -> None:
    truth = normal(100, 2, 0)
    want = sliced_wasserstein(truth[:50], truth[50:], groups=5)
    assert noise_floor(sliced_wasserstein, truth, groups=5) == want


def test_excess_counts_standard_errors_of_the_difference() -> None:
    assert Estimate(1.0, 0.3).excess(Estimate(0.0, 0.4)) == pytest.approx(2.0)
    assert str(Estimate(0.01234, 0.00056)) == "0.0123 ± 0.0006"
    assert str(Estimate(-0.00001, 0.00056)) == "0.0000 ± 0.0006"
    assert str(Estimate(12.34, 0.096)) == "12.3 ± 0.1"
    assert str(Estimate(12.34, 3.0)) == "12 ± 3"
    assert str(Estimate(0.25, 0.0)) == "0.25 ± 0"


# ---- use ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [energy_distance, sliced_wasserstein, frechet_distance])
def test_shapes_dtypes_and_repeats(distance: Distance) -> None:
    x, y = normal(40, 12, 0), 0.1 + normal(44, 12, 1)
    flat = distance(x, y)
    assert distance(x.reshape(40, 3, 2, 2), y.reshape(44, 3, 2, 2)) == flat
    assert distance(x.float().requires_grad_(), y.float()).value == pytest.approx(flat.value, rel=1e-5)
    state = torch.get_rng_state()
    assert distance(x, y) == flat
    assert torch.equal(torch.get_rng_state(), state)  # the directions come from a generator of their own
    assert isinstance(distance(x[:, 0], y[:, 0]).value, float)


def test_other_directions_for_another_seed() -> None:
    x, y = normal(40, 3, 0), 0.5 + normal(40, 3, 1)
    one, other = (sliced_wasserstein(x, y, seed=seed, projections=4).value for seed in (0, 1))
    assert one != other


@pytest.mark.usefixtures("no_shape_checks")
def test_bad_input_is_named() -> None:
    x = normal(40, 3, 0)
    for call, message in (
        (lambda: energy_distance(x, x[:2]), "at least 3 points, got 40 and 2"),
        (lambda: energy_distance(x, x, rows=0), "rows must be at least 1, got 0"),
        (lambda: energy_distance(x, x[:, :2]), r"points of one shape, got \(3,\) and \(2,\)"),
        (lambda: sliced_wasserstein(x, x, p=0), "p must be at least 1, got 0"),
        (lambda: sliced_wasserstein(x, x, projections=0), "projections must be at least 1, got 0"),
        (lambda: sliced_wasserstein(x, x[:, :2]), "points of one shape"),
        (lambda: sliced_wasserstein(x, x[:9]), "at least 10 points, got 40 and 9"),
        (lambda: sliced_wasserstein(x, x, groups=1), "groups must be at least 2, got 1"),
        (lambda: frechet_distance(x, x[:1]), "at least 2 points, got 40 and 1"),
        (lambda: frechet_distance(x, x[:, :2]), "points of one shape"),
        (lambda: frechet_distance(x, x, resamples=1), "resamples must be at least 2, got 1"),
        (lambda: frechet_distance(x, x, batch=0), "batch must be at least 1, got 0"),
        (lambda: frechet_distance(x, x, lambda x: x[:3]), "one row per point, 40 rows, got 3"),
        (lambda: frechet_distance(x, x, lambda x: x / 0), "features must be finite, got 120 that are not"),
        (lambda: noise_floor(energy_distance, x[:39]), "truth must have an even number of points, got 39"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.usefixtures("no_shape_checks")
def test_wrong_kinds_are_refused_by_name() -> None:
    x: Any = normal(40, 3, 0)
    distances: list[Any] = [energy_distance, sliced_wasserstein, frechet_distance]
    for distance in distances:
        for wrong in (x.byte(), x.long(), x.numpy()):
            with pytest.raises(ValueError, match=r"^x must be"):
                distance(wrong, x)
            with pytest.raises(ValueError, match=r"^y must be"):
                distance(x, wrong)
            with pytest.raises(ValueError, match=r"^truth must be"):
                noise_floor(distance, wrong)
    with pytest.raises(ValueError, match="features must be floating point"):
        frechet_distance(x, x, lambda x: x.long())
    for distance, name in (
        (energy_distance, "rows"),
        *((sliced_wasserstein, name) for name in ("p", "projections", "groups", "seed")),
        *((frechet_distance, name) for name in ("resamples", "batch", "seed")),
    ):
        for wrong in (2.0, math.nan, math.inf, True):
            with pytest.raises(ValueError, match=f"{name} must be a whole number"):
                distance(x, x, **{name: wrong})
    for distance in (sliced_wasserstein, frechet_distance):
        for seed in (2**70, 2**64, -(2**63) - 1):
            with pytest.raises(ValueError, match=rf"^seed must lie in {-(2**63)}\.\.{2**64 - 1}, got {seed}$"):
                distance(x, x, seed=seed)
        for seed in (2**64 - 1, -(2**63)):
            assert distance(x, -x, seed=seed).value > 0
    assert sliced_wasserstein(x, -x, seed=np.int64(3)) == sliced_wasserstein(x, -x, seed=3)
