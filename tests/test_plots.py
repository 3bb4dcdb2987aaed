"""plots.py: what a figure is made of. (How it looks is looked at.)"""

import base64
import io
import re
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from matplotlib.collections import Collection
from matplotlib.colors import to_rgb
from matplotlib.quiver import Quiver
from nbclient import NotebookClient
from nbformat import v4
from PIL import Image

from diffnotes.book import plots


def test_the_grid_is_square_and_even() -> None:
    grid = plots.square_grid(2.0, 5)
    assert grid.shape == (25, 2)
    assert torch.equal(grid.amin(0), torch.tensor([-2.0, -2.0], dtype=torch.float64))
    assert torch.equal(grid.mean(0), torch.zeros(2, dtype=torch.float64))
    assert torch.equal(grid.unique(dim=0), grid)


def quivers(ax: plt.Axes) -> list[Quiver]:
    return [part for part in ax.collections if isinstance(part, Quiver)]


@pytest.mark.parametrize("known", [True, torch.tensor([True, False, True])])
def test_arrows_start_and_end_where_the_field_says(known: bool | torch.Tensor) -> None:
    _, ax = plt.subplots()
    at = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
    field = torch.tensor([[0.5, 0.0], [0.0, -0.5], [1.0, 1.0]])
    plots.arrows(ax, at, field, known)
    drawn = sorted((x, y, u, v) for q in quivers(ax) for x, y, u, v in zip(q.X, q.Y, q.U, q.V, strict=True))
    assert drawn == sorted(map(tuple, torch.cat([at, field], dim=1).tolist()))
    # in the units of the axes, so that a tip lies where the field says
    assert all(q.angles == "xy" and q.scale_units == "xy" and q.scale == 1 for q in quivers(ax))
    plt.close()


def test_unknown_arrows_are_pale() -> None:
    _, ax = plt.subplots()
    at = np.eye(2)
    plots.arrows(ax, at, at, [True, False], colour=plots.RED)
    shades = {float(q.X[0]): tuple(Collection.get_facecolor(q)[0][:3]) for q in quivers(ax)}
    assert shades == {1.0: to_rgb(plots.RED), 0.0: to_rgb("#c8c8c8")}
    plt.close()


def test_a_contact_sheet_has_each_picture_in_its_place() -> None:
    _, ax = plt.subplots()
    rows = [torch.full((4, 1, 2, 3), shade) for shade in (1.0, 0.5)]
    rows[1][2] = 0.0
    plots.contact_sheet(ax, rows, ["above", "below"], ["one", "two"])
    sheet = np.asarray(ax.images[0].get_array())
    # two rows of 2 + 1 pixels; two groups of two pictures of 3 + 1, with a gap of two between
    assert sheet.shape == (6, 18)
    assert (sheet[0:2, 0:3] == 1).all()
    assert (sheet[3:5, 4:7] == 0.5).all()
    assert (sheet[3:5, 10:13] == 0.0).all()  # the third picture is the first of the second group
    assert (sheet[:, 8:10] == -1).all()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["above", "below"]
    assert ax.images[0].to_rgba(-1.0) == (1, 1, 1, 1)  # -1 is paper, and so are the gaps
    plt.close()


@pytest.mark.parametrize("wrong", [torch.zeros(2, 1, 4, 4, dtype=torch.uint8), np.zeros((2, 1, 4, 4))])
def test_bytes_are_not_taken_for_pictures(wrong: Any) -> None:
    """They lie far outside the scale: all would be black or white."""
    good = torch.zeros(2, 1, 4, 4)
    for draw, name in (
        (lambda: plots.contact_sheet(plt.gca(), [good, wrong], ["a", "b"]), "row"),
        (lambda: plots.picture_row([good[0], wrong[0]], ["a", "b"]), "picture"),
    ):
        with pytest.raises(ValueError, match=rf"{name} 1 must be (floating point|a torch\.Tensor), got "):
            draw()
    plt.close("all")


def test_the_u_net_is_drawn_with_its_sides_and_skips() -> None:
    _, ax = plt.subplots()
    shapes = {"stem": (4, 8, 8), "down.0.0": (4, 8, 8), "middle.0": (8, 4, 4), "up.0.0": (4, 8, 8)}
    plots.unet_shapes(ax, [(name, (1, 8, 8), shape, 10) for name, shape in shapes.items()])
    assert [bar.get_height() for bar in ax.patches] == [8, 8, 4, 8]
    arcs = [(text.xyann[0], text.xy[0]) for text in ax.texts if hasattr(text, "xyann")]
    assert arcs == [(1, 3)]  # from down.0.0 to up.0.0, and no other
    plt.close()


def test_a_player_shows_its_first_frame_before_any_script_runs() -> None:
    fig, ax = plt.subplots(figsize=(2, 1))
    page = plots.player(fig, lambda i: ax.plot([0, i]), 3, "a line that rises", name="line").data
    image = BeautifulSoup(page, "html.parser").img
    assert image is not None
    size = Image.open(io.BytesIO(base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,")))).size
    assert size == (int(str(image["width"])), int(str(image["height"]))) == (160, 80)
    frames = re.findall(r'frames\[\d\] = "([^"]*)"', page.replace("\\\n", ""))
    assert len(frames) == 3
    assert image["src"] == frames[0] != frames[1]
    assert "height: auto" in str(image["style"])  # in a narrow page it keeps its shape


PANEL = """
import matplotlib.pyplot as plt
from ipywidgets import IntSlider
from diffnotes.book import plots

def draw(n):
    plt.plot(range(n), range(n))
    plt.show()

plots.panel(draw, n=IntSlider(2, max=9))
"""
LOOK = "shown = Out[1].children[-1].outputs; print(len(shown), *shown[0]['data'])"


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_a_panel_draws_at_once_and_its_cell_saves_the_same() -> None:
    notebook = v4.new_notebook(cells=[v4.new_code_cell(PANEL), v4.new_code_cell(LOOK)])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    (panel,), (printed,) = (cell.outputs for cell in notebook.cells)
    assert panel.data["text/plain"] == "VBox(children=(IntSlider(value=2, description='n', max=9), Output()))"
    assert printed.text.split() == ["1", "text/plain", "image/png"]
