"""data.swiss_roll_mixture: the distribution that `swiss_roll` draws from, by what its points must obey."""

import math

import pytest
import torch

from diffnotes.data import swiss_roll, swiss_roll_mixture

POINTS = swiss_roll(10_000, torch.Generator().manual_seed(0)).double()


def test_it_is_the_distribution_that_swiss_roll_draws_from() -> None:
    """Stein: E[s] = 0 and E[x s^T] = -I for the score s of the density that x is drawn from, and of no other."""
    score = swiss_roll_mixture().score(POINTS)
    for values in (score, POINTS[:, :, None] * score[:, None, :] + torch.eye(2, dtype=torch.float64)):
        error = values.std(0) / math.sqrt(len(values))
        assert bool((values.mean(0).abs() <= 4 * error).all())  # six means: a false alarm in 2600 seeds


@pytest.mark.parametrize("noise", [0.04, 0.06])
def test_it_has_the_right_blur(noise: float) -> None:
    """The mean log-density of points is greatest for their own distribution: the rest is a KL divergence."""
    gain = swiss_roll_mixture().log_prob(POINTS) - swiss_roll_mixture(noise=noise).log_prob(POINTS)
    assert float(gain.mean()) > 8 * float(gain.std()) / math.sqrt(len(gain))


def test_more_humps_change_little() -> None:
    """The midpoint rule's error falls as 1 / K^2, so 4000 humps stand in for the integral."""
    truth = swiss_roll_mixture(4000).log_prob(POINTS[:1000])
    coarse, fine = ((swiss_roll_mixture(K).log_prob(POINTS[:1000]) - truth).abs() for K in (500, 1000))
    assert float(fine.mean()) < 4e-5  # twice what the docstring says
    assert float(fine.max()) < 0.06
    assert 3 < float(coarse.mean() / fine.mean()) < 6  # (4 - 1/16) / (1 - 1/16) = 4.2, were it 1 / K^2 exactly


def test_moments() -> None:
    """Mean 0 and variance 1, up to the midpoint rule: h^2 / 24 times the difference of the slopes at the ends."""
    data = swiss_roll_mixture()
    assert float(data.mean.abs().max()) < 2e-6
    assert float((data.covariance.diagonal() - 1).abs().max()) < 2e-5


@pytest.mark.parametrize(("K", "noise"), [(0, 0.05), (10, 0.0), (10, 1.0), (10, -0.1)])
def test_refusals(K: int, noise: float) -> None:
    with pytest.raises(ValueError, match="must"):
        swiss_roll_mixture(K, noise)
