"""A static picture for each figure that moves, for places where no script runs, and the state that it starts from.

The arguments of a function are the state of its figure, with the values that it starts from; its docstring is the
picture's alt text. Random numbers are counted, not remembered (`normal`), so that the page makes the same ones.
"""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffnotes import data
from diffnotes.book.plots import BLUE, GREEN, GREY, RED
from diffnotes.ddim import ddim_step
from diffnotes.mixture import GaussianMixture
from diffnotes.reverse import predict_x0
from diffnotes.schedule import NoiseSchedule

LINEAR = NoiseSchedule.linear(T=1000)


# ---- random numbers that a page can make too ----------------------------------------------------------------------


def _mixed(k: Any) -> Any:
    k = np.asarray(k, dtype=np.uint32)
    k = (k ^ (k >> 16)) * np.uint32(0x21F0AAAD)
    k = (k ^ (k >> 15)) * np.uint32(0x735A2D97)
    return k ^ (k >> 15)


def uniform(seed: int, i: Any) -> Any:
    """Number i of the stream `seed`, in (0, 1); i may be an array. A hash of the two, in 32-bit integers."""
    i = np.asarray(i, dtype=np.uint32)
    return (_mixed(_mixed([seed]) + i * np.uint32(0x9E3779B9)).reshape(i.shape) + 0.5) / 2**32


def normal(seed: int, i: Any) -> Any:
    """Standard normal number i of the stream `seed`, by Box and Muller; i may be an array."""
    i = np.asarray(i, dtype=np.uint32)
    radius = np.sqrt(-2 * np.log(uniform(seed, 2 * i)))
    return radius * np.cos(2 * np.pi * uniform(seed, 2 * i + 1))


def normals(seed: int, n: int, d: int) -> Tensor:
    """The first n points of the stream, (n, d), float64."""
    return torch.from_numpy(normal(seed, np.arange(n * d))).reshape(n, d)


def sample(mixture: GaussianMixture, n: int, seed: int) -> Tensor:
    """n points of a mixture: the stream `seed` chooses the components, the next one the places."""
    steps = mixture.weights[:-1].cumsum(0)
    k = (torch.from_numpy(uniform(seed, np.arange(n)))[:, None] >= steps).sum(1)
    roots = torch.linalg.cholesky(mixture.covariances)
    z = normals(seed + 1, n, mixture.means.shape[1])
    return mixture.means[k] + torch.einsum("nde,ne->nd", roots[k], z)


# ---- chapter 4 ----------------------------------------------------------------------------------------------------


def jump(
    x: tuple[float, float] = (1.9, 1.5),
    t: int = 400,
    s: int = 200,
    eta: float = 0.7,
    slip: bool = False,
    seed: int = 2,
) -> Figure:
    """Three arrows, laid end to end from the origin to x_s: the guess of the data, blue; the reused noise, red; the fresh noise, green. Below them a bar: the squares of the last two fill the room for noise at s exactly."""
    mixture, x_t = data.mixture_2d(), torch.tensor([x], dtype=torch.float64)
    eps = mixture.eps(LINEAR)(x_t, t)
    step = ddim_step(LINEAR, x_t, eps, t, s, eta, normals(seed, 1, 2))
    fig = Figure(figsize=(6.4, 4.4), layout="constrained")
    ax, bar = fig.subplots(2, 1, height_ratios=(6, 1))
    ax.scatter(*sample(mixture, 500, 4).T, s=3, color="0.75")
    start, parts = torch.zeros(2), (step.x0_part, step.direction_part, step.noise_part)
    names = (r"$\sqrt{\bar\alpha_s}\,\hat x_0$", r"$\kappa\varepsilon$", r"$\sigma z$")
    for part, name, colour in zip(parts, names, (BLUE, RED, GREEN), strict=True):
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", xy=(start + part[0]).tolist(), xytext=start.tolist(), arrowprops=arrow)
        ax.plot([], [], color=colour, label=name)
        start = start + part[0]
    guess = predict_x0(LINEAR, x_t, t, eps)
    for point, name in ((x_t, "$x_t$"), (step.x_s, "$x_s$"), (guess, r"$\hat x_0$")):
        ax.plot(*point[0].tolist(), "o", color="black", markersize=5)
        ax.annotate(name, point[0].tolist(), (5, 5), textcoords="offset points")
    ax.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[])
    ax.legend(loc="lower left", frameon=False)
    room = float(LINEAR.one_minus_alpha_bars[s])
    kappa2 = float((step.direction_part / eps)[0, 0] ** 2)
    bar.barh([0], [kappa2], color=RED)
    bar.barh([0], [room - kappa2], left=[kappa2], color=GREEN)
    bar.axvline(room, color="black")
    bar.set(xlim=(0, 1.25), yticks=[], xlabel=r"$\kappa^2 + \sigma^2$ fill $1-\bar\alpha_s$")
    bar.spines[["top", "left", "right"]].set_visible(False)
    return fig


STILLS = {"jump": jump}
