"""Bayes' rule by brute force: densities on a grid, summed. Shares no formula with the package.

The forward process enters only by its one-step definition: x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) z.
"""

import math
from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def log_normal(x: Array | float, mean: Array | float, variance: float) -> Array:
    return -((np.asarray(x) - mean) ** 2) / (2 * variance) - math.log(2 * math.pi * variance) / 2


def forward_moments(betas: Sequence[float], t: int) -> tuple[float, float]:
    """The factor of x_0 in x_t and the variance of x_t given x_0, step by step: a sum of positives, no 1 - (1 - b)."""
    signal, variance = 1.0, 0.0
    for beta in betas[:t]:
        signal, variance = math.sqrt(1 - beta) * signal, (1 - beta) * variance + beta
    return signal, variance


def posterior_on_a_grid(betas: Sequence[float], x0: float, x_t: float, t: int) -> tuple[Array, Array]:
    """q(x_{t-1} | x_t, x_0), t >= 2: grid points, and their probabilities, proportional to q(x_t|x) q(x|x_0).

    The spacing is a quarter of the narrower factor's deviation w. The posterior's deviation is at least w / sqrt(2),
    so the sum over the grid is the integral up to exp(-2 pi^2 * 8) and the tails left out are below exp(-12^2 / 2).
    """
    signal, variance = forward_moments(betas, t - 1)
    keep, beta = math.sqrt(1 - betas[t - 1]), betas[t - 1]
    centres = sorted((signal * x0, x_t / keep))
    w = min(math.sqrt(variance), math.sqrt(beta) / keep)
    x = np.arange(centres[0] - 17 * w, centres[1] + 17 * w, w / 4)
    log_p = log_normal(x_t, keep * x, beta) + log_normal(x, signal * x0, variance)
    p = np.exp(log_p - log_p.max())
    return x, p / p.sum()


def moments(x: Array, p: Array) -> tuple[float, float]:
    """Mean and standard deviation of probabilities p at points x."""
    mean = float((x * p).sum())
    return mean, math.sqrt(float(((x - mean) ** 2 * p).sum()))
