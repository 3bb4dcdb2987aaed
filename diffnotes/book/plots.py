"""Figures for the notebooks, in one style, and an animation player that works offline.

Figures have an opaque white background, so a dark page shows them as sheets of paper. The colours are those of Okabe
and Ito (2008), which readers with any colour vision can tell apart; lines also differ in their dashes.
"""

import base64
import io
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from diffnotes.arguments import check_floating

RED, BLUE, GREEN, ORANGE, PURPLE, SKY, GREY = (
    "#d55e00", "#0072b2", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#595959",
)  # fmt: skip


def use_style() -> None:
    """Set matplotlib's defaults for the book; call it once, before the first figure."""
    mpl.rcParams.update(
        {
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 140,
            "figure.figsize": (7.2, 3.2),
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": plt.cycler(color=[BLUE, RED, GREEN, ORANGE, PURPLE, SKY, GREY]),
            "lines.linewidth": 1.8,
            "legend.frameon": False,
            "grid.alpha": 0.3,
        }
    )


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows below their heads, the first column aligned left and the others right; cells are printed by `str`.

    >>> table(["steps", "error"], [(10, "0.21 ± 0.02"), (100, "0.02 ± 0.01")])
    steps        error
    10     0.21 ± 0.02
    100    0.02 ± 0.01
    """
    lines = [[str(cell) for cell in line] for line in (head, *rows)]
    first, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
    for name, *cells in lines:
        print(name.ljust(first), *(cell.rjust(w) for cell, w in zip(cells, widths, strict=True)), sep="  ")


def estimates(ax: Axes, x: Sequence[float], values: Sequence[Any], style: str, label: str) -> None:
    """Estimates (with `value` and `stderr`) against x, as a line with error bars of one standard error."""
    ax.errorbar(x, [v.value for v in values], [v.stderr for v in values], fmt=style, markersize=4, label=label)


def density_bands(ax: Axes, densities: Sequence[Any], x: Any, colours: Sequence[str]) -> None:
    """Densities p(x, t) of shape (times, len(x)) as bands over t = 1 .. times, each t scaled to its own peak.

    The bands overlap like inks on white paper, so none hides another.
    """
    page = np.ones((1, 1, 3))
    for p, colour in zip(densities, colours, strict=True):
        ink = (np.asarray(p) / np.asarray(p).max(axis=1, keepdims=True)).T[:, :, None]
        page = page * (1 - 0.9 * ink * (1 - np.array(to_rgb(colour))))
    box = (0.5, page.shape[1] + 0.5, float(x[0]), float(x[-1]))
    ax.imshow(page, extent=box, origin="lower", aspect="auto", interpolation="bilinear")


def trajectories(ax: Axes, paths: Sequence[Any], colours: Sequence[str], *, alpha: float = 0.35) -> None:
    """Paths of shape (times, walkers) over t = 0 .. times - 1, with one colour per group."""
    for path, colour in zip(paths, colours, strict=True):
        ax.plot(np.asarray(path), color=colour, alpha=alpha, linewidth=0.8)


def cloud(ax: Axes, points: Any, colour: Any = BLUE, *, limit: float = 3.5, size: float = 3.0, title: str = "") -> None:
    """2-D points (n, 2), and nothing else, on a square of side 2 * limit without ticks."""
    points = np.asarray(points)
    ax.clear()
    ax.scatter(points[:, 0], points[:, 1], s=size, c=colour, linewidths=0, alpha=0.6)
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[], title=title)
    ax.spines[:].set_visible(False)


def player(fig: Figure, draw: Callable[[int], Any], frames: int, label: str, *, name: str) -> Any:
    """An animation to play and scrub in the static page, as an `IPython.display.HTML`.

    It is matplotlib's `Animation.to_jshtml` with fixed ids, plain characters instead of an icon font from the network,
    and names for the picture, the slider and the buttons. The first frame is there before any script has run, and
    where none may run.

    Args:
        fig: the figure that `draw` draws on; it is closed afterwards.
        draw: draws frame number i, 0 <= i < frames.
        label: what the animation shows, for those who cannot see it.
        name: a word that makes the ids unique on the page, and the same in every run.
    """
    from IPython.display import HTML

    with mpl.rc_context({"savefig.dpi": 80, "figure.dpi": 80, "animation.embed_limit": 10}):
        page = FuncAnimation(fig, draw, frames=frames, init_func=lambda: []).to_jshtml(fps=6, default_mode="once")
    plt.close(fig)
    return HTML(_offline(page, label, name))


def panel(draw: Callable[..., Any], **sliders: Any) -> Any:
    """Sliders for a live notebook, and the figure of `draw` below, drawn anew with all values whenever one is moved.

    What the figure is belongs to the state of a widget and not to the outputs of the cell, so a saved notebook has the
    names of the sliders and nothing else, the same in every run. For the page, which has no Python behind it, put a
    plain call of `draw` in the cell before.

    Args:
        draw: draws and shows a figure.
        sliders: ipywidgets sliders (or other widgets with a `value`), by the name of the argument they set.
    """
    from IPython.utils.capture import capture_output
    from ipywidgets import Output, VBox

    class Shown(Output):  # type: ignore[misc]  # ipywidgets is untyped
        def __repr__(self) -> str:  # what is saved of it
            return "Output()"

    shown = Shown()

    def redraw(_: Any) -> None:
        shown.clear_output(wait=True)
        with shown:
            draw(**{name: slider.value for name, slider in sliders.items()})

    for name, slider in sliders.items():
        slider.description = name.replace("_", " ")
        slider.observe(redraw, "value")
    with capture_output() as first:
        draw(**{name: slider.value for name, slider in sliders.items()})
    shown.outputs = tuple(
        {"output_type": "display_data", "data": output.data, "metadata": output.metadata} for output in first.outputs
    )
    return VBox([*sliders.values(), shown])


_SIGNS = {  # the replacement of each icon in the template, by its class
    "fa-minus": "−", "fa-fast-backward": "«", "fa-step-backward": "‹", "fa-play fa-flip-horizontal": "◁",
    "fa-pause": "‖", "fa-play": "▷ Play", "fa-step-forward": "›", "fa-fast-forward": "»", "fa-plus": "+",
}  # fmt: skip


def _offline(page: str, label: str, name: str) -> str:
    found = re.search(r"_anim_img([0-9a-f]{32})", page)
    first = re.search(r'frames\[0\] = "data:image/png;base64,([^"]+)"', page)
    if not (found and first):
        raise RuntimeError("matplotlib's player no longer has the template that diffnotes.book.plots knows")
    page = re.sub(r"<link[^>]*>", "", page.replace(found[1], name))
    png = first[1].replace("\\\n", "")  # as JavaScript breaks its lines
    width, height = Image.open(io.BytesIO(base64.b64decode(png))).size
    look = f'width="{width}" height="{height}" style="max-width: 100%; height: auto"'
    page = page.replace("<img id=", f'<img alt="{label}" src="data:image/png;base64,{png}" {look} id=')
    keys = 'data-lm-suppress-shortcuts="true"'  # else JupyterLab would take the slider's arrow keys
    page = page.replace('type="range"', f'type="range" {keys} aria-label="Frame of: {label}" style="max-width: 100%"')
    wide = '.anim-buttons button[title="Play"] { width: auto; padding: 0 1em; font-weight: bold; }'
    page = page.replace("</style>", f"{wide}\n</style>")
    page = re.sub(r'<i class="fa ([^"]*)"></i>', lambda icon: _SIGNS[icon[1]], page)
    return "\n".join(line.rstrip() for line in page.strip().splitlines())


# ---- chapter 2 ------------------------------------------------------------------------------------------------


def square_grid(limit: float, side: int) -> Tensor:
    """side x side points, evenly spaced over the square from -limit to limit; shape (side^2, 2), float64."""
    ticks = torch.linspace(-limit, limit, side, dtype=torch.float64)
    return torch.cartesian_prod(ticks, ticks)


def arrows(ax: Axes, at: Any, field: Any, known: Any = True, *, colour: str = BLUE, limit: float = 3.0) -> None:
    """Vectors `field` (n, 2) as arrows from the points `at`, in the units of the axes, on the square of `cloud`.

    An arrow is pale where `known` (n,) is false: it is drawn, but nothing is claimed about it.
    """
    at, field = np.asarray(at), np.asarray(field)
    dark = np.broadcast_to(np.asarray(known), len(at))
    for part, shade, on_top in ((~dark, "#c8c8c8", 1), (dark, colour, 2)):
        start, step = at[part].T, field[part].T
        scale = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.006}
        ax.quiver(*start, *step, color=shade, zorder=on_top, headwidth=4, minlength=0.2, **scale)
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


# ---- chapter 3 ------------------------------------------------------------------------------------------------


def over_log_time(ax: Axes, values: Any, style: str, label: str) -> None:
    """A noisy value for each t = 1 .. T on logarithmic axes, averaged over five ranges of t per factor of 10."""
    values = np.asarray(values)
    T = len(values)
    edges = np.unique(np.rint(np.geomspace(1, T, round(5 * np.log10(T)) + 1)).astype(int) - 1)
    edges[-1] = T
    centres = [np.sqrt((a + 1) * b) for a, b in pairwise(edges)]
    means = [values[a:b].mean() for a, b in pairwise(edges)]
    ax.plot(centres, means, style, markersize=4, label=label)
    ax.set(xscale="log", yscale="log")


# ---- chapter 4: pictures in a row, and two tables as pictures -----------------------------------------------------


def picture_row(pictures: Sequence[Any], titles: Sequence[str]) -> None:
    """Grey pictures of shape (1, .., H, W) side by side, on a scale from -1.5 (black) to 1.5 (white)."""
    check_floating(**{f"picture {i}": picture for i, picture in enumerate(pictures)})
    _, axes = plt.subplots(1, len(pictures), figsize=(7.2, 1.6))
    for ax, picture, title in zip(axes, pictures, titles, strict=True):
        grey = picture.detach().cpu().numpy()
        ax.imshow(grey.reshape(grey.shape[-2:]), cmap="gray", vmin=-1.5, vmax=1.5)
        ax.set(title=title, xticks=[], yticks=[])


def two_grids(left: Any, right: Any, columns: Sequence[int], left_title: str, right_title: str) -> None:
    """Two tables {row name: estimates} side by side, with the value in each cell and its standard error below."""
    _, axes = plt.subplots(1, 2, figsize=(7.2, 3.4))
    for ax, table, title in zip(axes, (left, right), (left_title, right_title), strict=True):
        values = np.array([[cell.value for cell in row] for row in table.values()])
        ink = np.log10(np.abs(values) + 0.01)  # so that small numbers differ visibly
        ax.imshow(ink, cmap="Blues", aspect="auto", vmin=ink.min(), vmax=ink.max() + 1.0)
        for i, row in enumerate(table.values()):
            for j, cell in enumerate(row):
                text = f"{cell.value:.2f}\n±{cell.stderr:.2f}"
                ax.text(j, i, text, ha="center", va="center", fontsize=7)
        names = [r"$\hat\sigma$" if name == "sigma_hat" else rf"$\eta={name:g}$" for name in table]
        ax.set(xticks=range(len(columns)), xticklabels=columns, yticks=range(len(names)), yticklabels=names)
        ax.set(xlabel="steps", title=title)
        ax.spines[:].set_visible(False)


# ---- chapter 5 ------------------------------------------------------------------------------------------------


def unet_shapes(ax: Axes, rows: Sequence[tuple[str, tuple[int, ...], tuple[int, ...], int]]) -> None:
    """The parts of a U-Net in order, as bars as high as the side of their maps, marked with the number of channels.

    Arcs from `down.i.k` to `up.i.k` are the skips.

    Args:
        rows: name, shapes of input and output (channels, height, width), number of weights.
    """
    place = {name: i for i, (name, *_) in enumerate(rows)}
    looks = {"down": BLUE, "up": GREEN, "middle": ORANGE}
    for i, (name, _, (channels, side, _), _) in enumerate(rows):
        ax.bar(i, side, color=looks.get(name.split(".")[0], "#b0b0b0"), width=0.8)
        ax.text(i, 1, str(channels), ha="center", va="bottom", color="black", fontsize=9)
        partner = place.get(name.replace("down", "up"), i)
        if partner > i:
            arc = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=-0.2", "color": GREY}
            ax.annotate("", xy=(partner, side + 0.5), xytext=(i, side + 0.5), arrowprops=arc)
    ax.set_xticks(range(len(rows)), list(place), rotation=60, ha="right", fontsize=8)
    sides = sorted({row[2][1] for row in rows})
    ax.set(ylabel="side of the maps", yticks=sides, ylim=(0, 1.45 * sides[-1]))


# ---- chapter 6 ------------------------------------------------------------------------------------------------


def contact_sheet(ax: Axes, rows: Sequence[Any], names: Sequence[str], groups: Sequence[str] = ("",)) -> None:
    """Grey pictures as one sheet with names at the left; each row is a tensor (n, 1, H, W) of values in [-1, 1].

    The n columns may form equal groups, with a wider gap between them and a title above each. -1 is white and 1 is
    black, so that garments on a black background become ink on paper.
    """
    check_floating(**{f"row {i}": row for i, row in enumerate(rows)})
    height, width = rows[0].shape[-2:]
    n = len(rows[0]) // len(groups)
    pad, gap = 1, max(2, width // 4)
    block = n * (width + pad) + gap
    sheet = np.full((len(rows) * (height + pad), len(groups) * block - gap), -1.0)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = i * (height + pad), j // n * block + j % n * (width + pad)
            sheet[top : top + height, left : left + width] = np.asarray(picture.detach().cpu())[0]
    ax.imshow(sheet, cmap="gray_r", vmin=-1, vmax=1, interpolation="nearest")
    ax.set_yticks([(i + 0.5) * (height + pad) for i in range(len(rows))], names)
    ax.set_xticks([(k + 0.5) * block - gap / 2 for k in range(len(groups))], groups)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
