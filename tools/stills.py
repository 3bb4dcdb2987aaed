"""A static picture for each figure that moves, for places where no script runs, and the state that it starts from.

    python -m tools.stills    # draws them anew into diffnotes/book/stills, and the front page's into book/images

The arguments of a function are the state of its figure, with the values that it starts from; its docstring is the
picture's alt text. Random numbers are counted, not remembered (`normal`), so that the page makes the same ones.
"""

import inspect
import io
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from diffnotes import data
from diffnotes.book import plots
from diffnotes.book.explore import STILLS
from diffnotes.book.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY
from diffnotes.ddim import ddim_sample, ddim_sigma, ddim_step, dpmpp_2m_sample
from diffnotes.forward import q_sample
from diffnotes.mixture import DataMixture, GaussianMixture
from diffnotes.reverse import drift as drift_of
from diffnotes.reverse import predict_x0
from diffnotes.schedule import NoiseSchedule, Spacing, Steps
from diffnotes.training.checkpoint import SHIPPED

FRONT = Path(__file__).resolve().parent.parent / "book" / "images" / "first-minute.png"
Pair = tuple[float, float]
LINEAR = NoiseSchedule.linear(T=1000)
# the forty times of chapter 2's three rows, closer together near the data
GROWING = NoiseSchedule(torch.logspace(-5, math.log10(0.06), 1000, dtype=torch.float64))
WALK = NoiseSchedule.from_alpha_bars(GROWING.alpha_bars[[round(200 + 800 * (i / 39) ** 1.5) for i in range(40)]])


# ---- random numbers that a page can make too ----------------------------------------------------------------------


def _mixed(k: Any) -> Any:
    k = np.asarray(k, dtype=np.uint32)
    k = (k ^ (k >> 16)) * np.uint32(0x21F0AAAD)
    k = (k ^ (k >> 15)) * np.uint32(0x735A2D97)
    return k ^ (k >> 15)


def uniform(seed: int, i: Any) -> Any:
    """Number i of the stream `seed`, in (0, 1); i may be an array. A hash of the two, in 32-bit integers."""
    i = np.asarray(i, dtype=np.uint32)
    return (_mixed(_mixed([seed]) + i.reshape(-1) * np.uint32(0x9E3779B9)).reshape(i.shape) + 0.5) / 2**32


def normal(seed: int, i: Any) -> Any:
    """Standard normal number i of the stream `seed`, by Box and Muller; i may be an array."""
    i = np.asarray(i, dtype=np.uint32)
    radius = np.sqrt(-2 * np.log(uniform(seed, 2 * i)))
    return radius * np.cos(2 * np.pi * uniform(seed, 2 * i + 1))


def normals(seed: int, n: int, d: int, k: int = 0) -> Tensor:
    """n points of the stream, the first k n left out, (n, d), float64."""
    return torch.from_numpy(normal(seed, k * n * d + np.arange(n * d))).reshape(n, d)


def sample(mixture: GaussianMixture, n: int, seed: int) -> Tensor:
    """n points of a mixture: the stream `seed` chooses the components, the next one the places."""
    steps = mixture.weights[:-1].cumsum(0)
    k = (torch.from_numpy(uniform(seed, np.arange(n)))[:, None] >= steps).sum(1)
    roots = torch.linalg.cholesky(mixture.covariances)
    z = normals(seed + 1, n, mixture.means.shape[1])
    return mixture.means[k] + torch.einsum("nde,ne->nd", roots[k], z)


def swiss_roll(n: int, seed: int, noise: float = 0.05) -> Tensor:
    """n points of `data.swiss_roll`, from the streams `seed` and `seed + 1`."""
    share = torch.from_numpy(uniform(seed, np.arange(n)))
    u = math.pi * (1.5 + 3 * share)
    raw = u[:, None] * torch.stack([u.cos(), u.sin()], dim=1)
    mean = torch.tensor([2.0, 2 / (3 * math.pi)], dtype=torch.float64)
    square = torch.tensor([39 / 8 * math.pi**2 - 1 / 4, 39 / 8 * math.pi**2 + 1 / 4], dtype=torch.float64)
    return math.sqrt(1 - noise**2) * (raw - mean) / (square - mean**2).sqrt() + noise * normals(seed + 1, n, 2)


def crowd(labels: Sequence[int] = (0, 1, 2)) -> GaussianMixture:
    """Chapter 6's three overlapping classes, or some of them."""
    angles = 2 * math.pi / 3 * torch.tensor(labels, dtype=torch.float64)
    K = len(labels)
    wide = 0.35 * torch.eye(2, dtype=torch.float64).repeat(K, 1, 1)
    weights = torch.full((K,), 1 / K, dtype=torch.float64)
    return GaussianMixture(weights, torch.stack([angles.cos(), angles.sin()], 1), wide)


# ---- chapter 1 ----------------------------------------------------------------------------------------------------


def two_bells(t: int = 200, half: float = 1.0) -> Figure:
    """Left: two bell curves side by side, a red one and a blue one, which overlap in part. Right: the
    probability of a right guess of the colour falls from 1 at small t to one half at t = 1000, and a dot
    marks t = 200 at 0.92.
    """
    fig, (bells, curve) = _row(2, (6.4, 2.4), widths=(3, 2))
    x = torch.linspace(-4, 4, 400, dtype=torch.float64)
    mean, variance = float(LINEAR.sqrt_alpha_bars[t]) * half, float(LINEAR.one_minus_alpha_bars[t])
    for sign, colour in ((1, RED), (-1, BLUE)):
        bell = (-((x - sign * mean) ** 2) / (2 * variance)).exp()
        bells.plot(x, bell, color=colour)
        bells.fill_between(x, bell, color=colour, alpha=0.3)
        bells.plot(sign * half, 0, "o", color=colour)
    right = torch.special.ndtr(half * LINEAR.snr[1:].sqrt())
    curve.plot(range(1, 1001), right, color="black")
    curve.plot(t, right[t - 1], "o", color="black")
    bells.set(xlabel="$x_t$", yticks=[])
    curve.set(xlabel="$t$", title="right guess", ylim=(0.49, 1.02))
    return fig


def root(power: float = 1.0, beta: float = 0.02, start: float = 1.0) -> Figure:
    """The variance over 200 steps for p = 1: it starts at 1 and falls to about one half, where it stays. A
    dashed line marks 1.
    """
    fig, (ax,) = _row(1, (6.4, 2.4))
    v = [start]
    for _ in range(200):
        v.append((1 - beta) ** (2 * power) * v[-1] + beta)
    ax.axhline(1, color=GREY, linestyle="--", linewidth=1.2)
    ax.plot(v, color=BLUE)
    ax.plot(0, start, "o", color=BLUE)
    ax.set(xlabel="step $t$", ylabel="variance", xlim=(-2, 200), ylim=(0, 3), title=f"p = {power:g}")
    return fig


# ---- chapter 2 ----------------------------------------------------------------------------------------------------


def reverse_step(x: float = -0.6, beta: float = 0.3, bar: float = 0.8, mirrored: bool = False) -> Figure:
    """Over the point at t - 1: two grey humps where points live, a dashed bell for the forward step to x_t, and
    their product, a blue curve with two humps. A dotted Gaussian of the same mean and width peaks in the
    valley between them.
    """
    fig, (ax,) = _row(1, (6.4, 2.8))
    y = torch.linspace(-3, 3, 601, dtype=torch.float64)
    mixture, steps = line_data(mirrored), two_steps(bar, beta)
    home = mixture.diffuse(steps, 1).log_prob(y[:, None]).exp()
    forward = (-((x - math.sqrt(1 - beta) * y) ** 2) / (2 * beta)).exp()
    back: Any = mixture.reverse_posterior(steps, torch.tensor([[x]], dtype=torch.float64), 2)
    mean, variance = back.mean[0, 0], back.variance[0, 0]
    reverse = back.log_prob(y[:, None, None])[:, 0].exp()
    best = (-((y - mean) ** 2) / (2 * variance)).exp() / (2 * math.pi * variance).sqrt()
    ax.fill_between(y, 0.6 * home / home.max(), color=GREY, alpha=0.3, label="where points live")
    ax.plot(y, 0.9 * forward, "--", color=GREY, label="the forward step")
    ax.plot(y, reverse / reverse.max(), color=BLUE, label="the way back")
    ax.plot(y, best / reverse.max(), ":", color=RED, label="its best Gaussian")
    ax.plot(x, 0, "o", color="black")
    ax.set(xlabel="$x_{t-1}$", yticks=[], xlim=(-3, 3))
    ax.legend(fontsize=8)
    return fig


def line_data(mirrored: bool) -> GaussianMixture:
    """The two humps of `data.mixture_1d`, or their mirror image."""
    mixture = data.mixture_1d()
    sign = -1 if mirrored else 1
    return GaussianMixture(mixture.weights, sign * mixture.means, mixture.covariances)


def two_steps(bar: float, beta: float) -> NoiseSchedule:
    """The first step leads to alpha_bar = `bar`, the second adds `beta`."""
    return NoiseSchedule.from_alpha_bars(torch.tensor([bar, bar * (1 - beta)], dtype=torch.float64))


def drift(x: Pair = (1.7, -0.5), t: int = 20, seed: int = 3) -> Figure:
    """A ring-shaped cloud of noisy points, and at a black point on its right three arrows: a short blue one
    outwards, a long red one inwards, and their sum, black, inwards too.
    """
    fig, (ax,) = _row(1, (6.4, 3.6))
    roll, x_t = data.swiss_roll_mixture(200), torch.tensor([x], dtype=torch.float64)
    _dots(ax, q_sample(WALK, swiss_roll(500, 8), t, normals(10, 500, 2)))
    whole = drift_of(WALK, roll.eps(WALK), x_t, t)
    outward = (WALK.alphas[t] ** -0.5 - 1) * x_t
    usual = max(WALK.betas[t] / WALK.sqrt_one_minus_alpha_bars[t], 3 * WALK.betas[t])
    by = next((factor for factor in (50, 20, 10, 5, 2) if factor * usual < 2.4), 1)
    for part, colour, name in ((outward, BLUE, "rescaling"), (whole - outward, RED, "score"), (whole, "black", "sum")):
        _arrow(ax, x, (x_t + by * part)[0].tolist(), colour)
        ax.plot([], [], color=colour, label=name)
    ax.plot(*x, "o", color="black")
    _plane(ax, 3.0)
    ax.legend(title=f"arrows × {by}", loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


# ---- chapter 3 ----------------------------------------------------------------------------------------------------


def two_states(step1: float = 0.1, step2: float = 0.3, step3: float = 0.3) -> Figure:
    """Two bars, each a stack of L_3, L_2, L_1 and L_0. The bar for x_0 = 0 is 1.33 nats long, with a black line
    at 1.25; the bar for x_0 = 1 is 0.39 nats long, with the line at 0.34. What sticks out beyond a line is
    the gap.
    """
    fig, (ax,) = _row(1, (6.4, 2.2))
    terms, nll, _ = chain_terms((step1, step2, step3))
    left = np.zeros(2)
    for (name, values), colour in zip(terms.items(), (GREY, BLUE, SKY, ORANGE), strict=True):
        ax.barh(["$x_0 = 0$", "$x_0 = 1$"], values, left=left, color=colour, label=f"${name}$")
        left = left + values
    ax.vlines(nll, [-0.45, 0.55], [0.45, 1.45], color="black", linewidth=2.5, label="$-\\log p(x_0)$")
    ax.invert_yaxis()
    ax.set(xlabel="nats", xlim=(0, 1.75))
    ax.legend(fontsize=8)
    return fig


def chain_terms(tossed: Sequence[float]) -> tuple[dict[str, Any], Any, Any]:
    """L_3 .. L_0, -log p(x_0) and the gap of chapter 3's chain, each for x_0 = 0 and 1; step t tosses a coin now
    and then.
    """
    flip = [np.array([[1 - b, b], [b, 1 - b]]) for b in (0.1, 0.2, 0.3)]
    q = np.einsum("a,ba,cb,dc->abcd", np.array([0.2, 0.8]), *flip)

    def law(joint: Any, what: Sequence[int], given: Sequence[int] = ()) -> Any:
        table = joint.sum(tuple({0, 1, 2, 3} - {*what, *given}), keepdims=True)
        return table / table.sum(tuple(what), keepdims=True)

    back = [(1 - w) * law(q, [t - 1], [t]) + w / 2 for t, w in enumerate(tossed, start=1)]
    p = back[0] * back[1] * back[2] / 2
    paths = law(q, (1, 2, 3), (0,))

    def mean(values: Any) -> Any:
        return (paths * values).sum((1, 2, 3))

    terms = {
        "L_3": mean(np.log(law(q, (3,), (0,)) / law(p, (3,)))),
        "L_2": mean(np.log(law(q, (2,), (3, 0)) / law(p, (2,), (3,)))),
        "L_1": mean(np.log(law(q, (1,), (2, 0)) / law(p, (1,), (2,)))),
        "L_0": mean(-np.log(law(p, (0,), (1,)))),
    }
    return terms, -np.log(p.sum((1, 2, 3))), mean(np.log(paths / law(p, (1, 2, 3), (0,))))


# ---- chapter 4 ----------------------------------------------------------------------------------------------------


def jump(
    x: Pair = (1.9, 1.5), t: int = 400, s: int = 200, eta: float = 0.7, slip: bool = False, seed: int = 2
) -> Figure:
    """Three arrows, laid end to end from the origin to x_s: the guess of the data, blue; the reused noise, red;
    the fresh noise, green. Below them a bar: the squares of the last two fill the room for noise at s
    exactly.
    """
    mixture, x_t = data.mixture_2d(), torch.tensor([x], dtype=torch.float64)
    eps = mixture.eps(LINEAR)(x_t, t)
    louder = 1 / math.sqrt(eta) if slip and eta else 1.0  # eta for eta^2 in the variance
    step = ddim_step(LINEAR, x_t, eps, t, s, eta, louder * normals(seed, 1, 2))
    fig = Figure(figsize=(6.4, 4.4), layout="constrained")
    ax, bar = fig.subplots(2, 1, height_ratios=(6, 1))
    _dots(ax, sample(mixture, 500, 4))
    names = (r"$\sqrt{\bar\alpha_s}\,\hat x_0$", r"$\kappa\varepsilon$", r"$\sigma z$")
    start = np.zeros(2)
    for part, name, colour in zip(step[1:], names, (BLUE, RED, GREEN), strict=True):
        end = start + part[0].numpy()
        _arrow(ax, start, end, colour)
        ax.plot([], [], color=colour, label=name)
        start = end
    ax.legend(loc="lower left")
    guess = predict_x0(LINEAR, x_t, t, eps)
    for point, name in ((x_t, "$x_t$"), (step.x_s, "$x_s$"), (guess, r"$\hat x_0$")):
        ax.plot(*point[0].tolist(), "o", color="black", markersize=5)
        ax.annotate(name, (float(point[0, 0]), float(point[0, 1])), (7, -4), textcoords="offset points")
    _plane(ax, 3.0)
    room = float(LINEAR.one_minus_alpha_bars[s])
    kappa2 = float((step.direction_part / eps)[0, 0] ** 2)
    bar.barh([0], [kappa2], color=RED)
    sigma = louder * float(ddim_sigma(LINEAR, t, s, eta))
    bar.barh([0], [sigma**2], left=[kappa2], color=GREEN)
    bar.axvline(room, color="black")
    bar.set(xlim=(0, 1.25), yticks=[], xlabel=r"$\kappa^2 + \sigma^2$ fill $1-\bar\alpha_s$")
    bar.spines["left"].set_visible(False)
    return fig


def ring_samples(steps: int, eta: float, seed: int, spacing: Spacing, second: bool) -> Tensor:
    """What the figure `steps` shows: samples of the exact model of eight humps, by DDIM or 2M."""
    model, x_T = data.ring().eps(LINEAR), normals(seed, 200, 2)
    if second:
        return dpmpp_2m_sample(LINEAR, model, x_T, steps, spacing=spacing)
    return counted_path(LINEAR, model, x_T, steps, eta, spacing, 1000 * seed + steps)[-1]


def counted_path(
    schedule: NoiseSchedule, model: Any, x_T: Tensor, steps: Steps, eta: float, spacing: Spacing, stream: int
) -> list[Tensor]:
    """All x_t of `ddim_sample` on the way from x_T, with the noises of a stream: jump k takes n points from k n on."""
    path = [x_T]
    for k, (t, s) in enumerate(schedule.pairs(steps, spacing)):
        z = normals(stream, len(x_T), 2, k)
        path.append(ddim_step(schedule, path[-1], model(path[-1], t), t, s, eta if s else 0.0, z).x_s)
    return path


def steps(
    steps: int = 10, eta: float = 0.0, seed: int = 1, spacing: Spacing = "trailing", second: bool = False
) -> Figure:
    """Two hundred points near eight places on a circle, in the colours of their starts. A short line joins each
    to its place at 200 steps, which is never far.
    """
    fig, (ax,) = _row(1, (6.4, 3.6))
    now, best = (ring_samples(S, eta, seed, spacing, second) for S in (steps, 200))
    ax.plot(*torch.stack([now, best]).permute(2, 0, 1), color="0.7", linewidth=0.8)
    starts = normals(seed, len(now), 2)
    turn = torch.atan2(starts[:, 1], starts[:, 0]).numpy() / (2 * np.pi) + 0.5
    _dots(ax, now, 12, hsv_to_rgb(np.stack([turn, 0 * turn + 0.85, 0 * turn + 0.8], 1)))
    _plane(ax, 2.0)
    ax.set(title=rf"{steps} steps, $\eta$ = {eta:g}")
    return fig


# ---- chapter 5 ----------------------------------------------------------------------------------------------------


class Sheet(NamedTuple):
    """How the pictures of `GARMENTS` lie: a row for each number of steps, a block of columns for each eta."""

    side: int
    steps: tuple[int, ...]
    etas: tuple[float, ...]
    labels: tuple[int, ...]


SHEET = Sheet(28, (10, 20, 50, 100), (0.0, 0.2, 0.5, 1.0), (7, 0, 8, 9, 3, 2))
GARMENTS = Path(__file__).with_name("garments.png")  # from tools/garments.py
MEASURED = SHIPPED.parent / "measured" / "images.json"
_LEFT, _TOP, _GAP = 84, 30, 10  # pixels around the blocks, and between them


def garments(steps: int = 20, eta: float = 0.0) -> Figure:
    """Pictures of six garments in a grid: a row each for 10, 20, 50 and 100 steps, a block each for eta 0, 0.2,
    0.5 and 1. In the first block a column shows one garment, more finely from row to row; in the last it
    changes.
    """
    pixels = 255 - np.asarray(Image.open(GARMENTS))  # ink on paper
    blocks = np.split(pixels, len(SHEET.etas), axis=1)
    width, height = _LEFT + pixels.shape[1] + _GAP * len(blocks), _TOP + pixels.shape[0] + 8
    fig = Figure(figsize=(width / 140, height / 140), dpi=140)
    for k, (eta, block) in enumerate(zip(SHEET.etas, blocks, strict=True)):
        left = _LEFT + k * (block.shape[1] + _GAP)
        fig.figimage(np.repeat(block[..., None], 3, axis=2), left, height - _TOP - block.shape[0])
        middle = (left + block.shape[1] / 2) / width
        fig.text(middle, 1 - 8 / height, rf"$\eta$ = {eta:g}", size=8, ha="center", va="top")
    for k, steps in enumerate(SHEET.steps):
        middle = 1 - (_TOP + (k + 0.5) * SHEET.side) / height
        fig.text(4 / width, middle, f"{steps} steps", size=7, va="center")
    return fig


def garments_state() -> dict[str, Any]:
    """Where each picture lies in the static one, and the Fréchet distances that were measured, with their errors."""
    measured = json.loads(MEASURED.read_text("utf-8"))["entries"]
    distances = {f"{S}/{eta:g}": measured[f"sample/{S}/{eta}"]["frechet"] for S in SHEET.steps for eta in SHEET.etas}
    return {"side": SHEET.side, "left": _LEFT, "top": _TOP, "gap": _GAP, "frechet": distances}


# ---- chapter 6 ----------------------------------------------------------------------------------------------------


def forty_points(x: Pair = (-0.7, -0.5), t: int = 150) -> Figure:
    """Forty points along a spiral, as dots in the sizes of their weights. From a black point between two turns a
    red arrow leads to the average of the nearest few, a shorter dashed blue arrow to the true guess.
    """
    fig, (ax,) = _row(1, (6.4, 3.6))
    points, roll = swiss_roll(40, 21), data.swiss_roll_mixture(200)
    few, x_t = DataMixture(points), torch.tensor([x], dtype=torch.float64)
    weights = few.responsibilities(LINEAR, x_t, t)[0]
    ax.plot(*roll.means.T, color="0.7", linewidth=1)
    _dots(ax, points, 2 * (2 + 9 * weights.sqrt()) ** 2, ORANGE)
    for guess, colour, style in ((roll, BLUE, "--"), (few, RED, "-")):
        _arrow(ax, x, guess.denoise(LINEAR, x_t, t)[0].tolist(), colour, style)
    ax.plot([], [], color=RED, label="memoriser")
    ax.plot([], [], "--", color=BLUE, label="truth")
    ax.plot(*x, "o", color="black")
    _plane(ax, 2.4)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def guided_samples(w: float) -> dict[str, Tensor]:
    """What the figure `guidance` shows: samples of the tilted density, of DDPM and of DDIM."""
    n, everything, one = 250, crowd(), crowd([0])
    many, x_T = sample(one, 6000, 32), normals(31, n, 2)
    sure = one.log_prob(many) - everything.log_prob(many) - math.log(3)
    kept = torch.from_numpy(np.log(uniform(37, np.arange(6000)))) < w * sure
    labelled, without = one.eps(LINEAR), everything.eps(LINEAR)

    def model(x: Tensor, t: Any) -> Tensor:
        return (1 + w) * labelled(x, t) - w * without(x, t)

    return {
        "tilted": many[kept][:n],
        "DDPM": counted_path(LINEAR, model, x_T, 50, 1.0, "trailing", 36)[-1],
        "DDIM": ddim_sample(LINEAR, model, x_T, 50),
    }


def guidance(w: float = 2.0) -> Figure:
    """Three panels with samples in red before all data in grey: the tilted density, DDPM and DDIM. Both
    samplers' clouds are narrower than the tilted one and lie further to the right, DDIM's furthest.
    """
    fig, axes = _row(3, (6.4, 2.3))
    for ax, (name, points) in zip(axes, guided_samples(w).items(), strict=True):
        _dots(ax, sample(crowd(), 400, 34), 2)
        _dots(ax, points, 4, RED)
        ax.plot(*crowd().means.T, "o", color="black", fillstyle="none")
        _plane(ax, 3.0, 0.4)
        ax.set(title=name)
    return fig


# ---- the first page -----------------------------------------------------------------------------------------------


def first_paths(sampler: str) -> tuple[list[Tensor], list[Tensor]]:
    """What the figure `first-minute` shows: all x_t on the way to noise, and all on the way back from x_T."""
    mixture = data.swiss_roll_mixture(100, 0.08)
    there = [sample(mixture, 300, 51)]
    for t in range(1, WALK.T + 1):
        z = normals(53, 300, 2, t)
        there.append(WALK.alphas[t].sqrt() * there[-1] + WALK.betas[t].sqrt() * z)
    eta = 1.0 if sampler == "ddpm" else 0.0
    return there, counted_path(WALK, mixture.eps(WALK), there[-1], None, eta, "trailing", 54)


def first_minute(at: int = 0, sampler: str = "ddim") -> Figure:
    """Three pictures of three hundred points: a spiral in six colours, a cloud in which all colours are mixed,
    and a spiral again, on which the colours lie in another order.
    """
    fig, axes = _row(3, (6.4, 2.3))
    there, back = first_paths(sampler)
    nearest = torch.cdist(there[0], data.swiss_roll_mixture(100, 0.08).means).argmin(1)
    colours = np.array([BLUE, SKY, GREEN, ORANGE, RED, PURPLE])[(nearest * 6 // 100).numpy()]
    for ax, points, name in zip(axes, (there[0], there[-1], back[-1]), ("data", "noise", "data again"), strict=True):
        _dots(ax, points, 4, colours)
        _plane(ax, 3.0)
        ax.set(title=name)
    return fig


# ---- what the pictures share --------------------------------------------------------------------------------------


def _row(n: int, size: Pair, widths: Sequence[float] | None = None) -> tuple[Figure, list[Axes]]:
    fig = Figure(figsize=size, layout="constrained")
    return fig, list(fig.subplots(1, n, squeeze=False, width_ratios=widths)[0])


def _dots(ax: Axes, points: Tensor, size: Any = 3, colour: Any = "0.75") -> None:
    ax.scatter(points[:, 0], points[:, 1], s=size, c=colour)


def _arrow(ax: Axes, start: Any, end: Any, colour: str, style: str = "-") -> None:
    look = {"arrowstyle": "-|>", "color": colour, "linestyle": style, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=tuple(end), xytext=tuple(start), arrowprops=look)


def _plane(ax: Axes, limit: float, shift: float = 0.0) -> None:
    ax.set(xlim=(shift - limit, shift + limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color="0.8")


FIGURES: dict[str, Callable[..., Figure]] = {
    "first-minute": first_minute,
    "two-bells": two_bells,
    "root": root,
    "reverse-step": reverse_step,
    "drift": drift,
    "two-states": two_states,
    "jump": jump,
    "steps": steps,
    "garments": garments,
    "forty-points": forty_points,
    "guidance": guidance,
}


# ---- what ships ---------------------------------------------------------------------------------------------------

# a second picture of a figure, in another state, under a name of its own
VARIANTS = {
    "jump-slip": (
        "jump",
        {"eta": 0.5, "slip": True},
        "One jump at eta 0.5 with the slip: three arrows from the origin to x_s, blue, red and green, and a bar of red "
        "and green that runs beyond the mark at the room.",
    )
}


def picture(name: str, **state: Any) -> tuple[bytes, tuple[int, int]]:
    """A figure's static picture as PNG, in few colours so that it is small, and its size on the page."""
    raw = io.BytesIO()
    with mpl.rc_context():
        plots.use_style()
        FIGURES[name](**state).savefig(raw, format="png", dpi=140)
    drawn = Image.open(raw)
    info, small = PngInfo(), io.BytesIO()
    info.add_text("Software", str(drawn.info["Software"]))
    colours = drawn.convert("RGB")
    grey = colours.convert("L")  # where there is no colour, every shade is kept: a figure may read them
    few = grey if grey.convert("RGB").tobytes() == colours.tobytes() else colours.quantize(48)
    few.save(small, "png", optimize=True, dpi=(140, 140), pnginfo=info)
    scale = 1 if few is grey else 0.72
    return small.getvalue(), (round(drawn.width * scale), round(drawn.height * scale))


def still(name: str) -> tuple[bytes, dict[str, Any]]:
    """The picture of this name, and what `explore` says of it: its figure, state, words and size."""
    figure, state, words = VARIANTS[name] if name in VARIANTS else (name, {}, FIGURES[name].__doc__ or "")
    parameters = inspect.signature(FIGURES[figure]).parameters
    start = {key: parameter.default for key, parameter in parameters.items()} | state
    if figure == "garments":
        start |= garments_state()
    png, size = picture(figure, **state)
    about = {"figure": figure, "state": start, "alt": " ".join(words.split()), "size": size}
    return png, json.loads(json.dumps(about))


def main() -> None:
    STILLS.mkdir(exist_ok=True)
    table = {}
    for name in [*FIGURES, *VARIANTS]:
        png, table[name] = still(name)
        (STILLS / f"{name}.png").write_bytes(png)
    (STILLS / "stills.json").write_text(json.dumps(table, indent=1) + "\n", "utf-8")
    FRONT.write_bytes((STILLS / "first-minute.png").read_bytes())


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(f"usage: python -m tools.stills, without arguments, got {' '.join(sys.argv[1:])}")
    main()
