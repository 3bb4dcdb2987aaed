"""A figure that is drawn anew is the same one; a wrong curve, a swapped colour, a lost legend or word is not."""

import base64
import io
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from nbformat import NotebookNode
from nbval.plugin import IPyNbCell, IPyNbFile, NbCellError
from pictures import EMBEDDED, SHADE, difference, pictures
from PIL import Image, PngImagePlugin

from diffnotes.book.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, use_style

THIS, OTHER = "Matplotlib version3.11.2", "Matplotlib version3.9.0"


def figure(power: float = 1.0, colours: tuple[str, str] = (BLUE, RED), legend: bool = True) -> Figure:
    """Two curves over eta: at the power 2 one of them is the right formula of another chapter."""
    fig, ax = plt.subplots()
    eta = np.linspace(0, 1, 101)
    ax.plot(eta, eta**power, color=colours[0], label="sigma")
    ax.plot(eta, 1 - eta / 2, color=colours[1], label="turn")
    ax.set(xlabel="eta", title="how much is drawn")
    if legend:
        ax.legend(loc="lower right")
    return fig


def png(fig: Figure, software: str = THIS) -> bytes:
    content = io.BytesIO()
    fig.savefig(content, dpi=140, metadata={"Software": software})
    plt.close(fig)
    return content.getvalue()


@pytest.fixture(autouse=True)
def _style():
    with plt.rc_context():
        use_style()
        yield


def test_the_same_figure_is_the_same():
    assert difference(png(figure()), png(figure())) is None


def test_rounding_is_no_difference():
    """The last digits of a network's training reach a figure; a thousandth of the axis is less than a pixel."""
    assert difference(png(figure()), png(figure(1.001))) is None


def test_other_letters_are_no_difference_where_another_matplotlib_drew_them():
    """Letters 3% larger move the axes by two or three pixels: too far for one matplotlib, not between two."""
    saved = png(figure())
    with plt.rc_context({"font.size": 10.3, "axes.titlesize": 10.3}):
        assert difference(saved, png(figure(), OTHER)) is None
        assert difference(saved, png(figure())) is not None


WRONG = {
    "a wrong curve": lambda: figure(2.0),
    "a swapped colour": lambda: figure(colours=(RED, BLUE)),
    "another colour": lambda: figure(colours=(GREEN, RED)),
    "a lost legend": lambda: figure(legend=False),
}


@pytest.mark.parametrize("software", [THIS, OTHER])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_seen(wrong, software):
    words, sheet = difference(png(figure()), png(wrong(), software))
    assert re.fullmatch(r"\d+ pixels are not accounted for, at most \d+ may be", words)
    assert Image.open(io.BytesIO(sheet)).height == 3 * Image.open(io.BytesIO(png(figure()))).height


def test_one_word_is_seen():
    fig = figure()
    fig.axes[0].set_title("how much is kept")
    assert difference(png(figure()), png(fig)) is not None


def test_another_size_is_seen():
    fig = figure()
    fig.set_size_inches(7.2, 3.6)
    assert difference(png(figure()), png(fig))[0] == "its size is (1008, 504), the saved one's (1008, 448)"


def test_pictures_are_found_alone_and_in_a_player():
    """As a notebook stores them: base64, in the script of a player with its lines broken by a backslash."""
    content = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(content, "png", pnginfo=PngImagePlugin.PngInfo())
    text = base64.b64encode(content.getvalue()).decode()
    broken = text[:20] + "\\\n" + text[20:]
    outputs = [
        NotebookNode(data={"image/png": text + "\n", "text/plain": "<Figure>"}),
        NotebookNode(data={"text/html": f'frames[0] = "data:image/png;base64,{broken}"'}),
        NotebookNode(name="stdout", text="no picture"),
    ]
    assert list(pictures(outputs)) == [content.getvalue()] * 2


@pytest.fixture
def conftest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The conftest.py beside the book, which compares the pictures; what differs is written to tmp_path."""
    found = next(plugin for plugin in request.config.pluginmanager.get_plugins() if hasattr(plugin, "FAILED"))
    monkeypatch.setattr(found, "FAILED", tmp_path)
    return found


def test_a_notebook_is_known_by_its_class(conftest, request, tmp_path):
    """Its texts are compared without the pictures in them."""
    notebook = IPyNbFile.from_parent(request.session, path=tmp_path / "a.ipynb")
    assert EMBEDDED not in notebook.sanitize_patterns
    conftest.pytest_collectstart(notebook)
    assert notebook.sanitize_patterns[EMBEDDED] == "a picture"


def test_the_pictures_of_a_cell_are_compared_once_it_has_run(conftest, request, tmp_path):
    def shown(*pictures: bytes) -> list[NotebookNode]:
        return [NotebookNode(data={"image/png": base64.b64encode(picture).decode()}) for picture in pictures]

    def run(saved: list[NotebookNode], drawn: list[NotebookNode]) -> None:
        notebook = IPyNbFile.from_parent(request.session, path=tmp_path / "a.ipynb")
        source = NotebookNode(source="plot()", outputs=saved)
        cell = IPyNbCell.from_parent(notebook, name="Cell 7", cell_num=7, cell=source, options={})
        hook = conftest.pytest_runtest_call(cell)
        next(hook)
        assert cell.test_outputs is None  # nbval has this name for it, too
        cell.test_outputs = drawn
        with pytest.raises(StopIteration):
            hook.send(None)

    one, other = png(figure()), png(figure(2.0))
    run(shown(one, other), shown(one, other))
    with pytest.raises(NbCellError, match=r"^picture 1 is not the saved one: \d+ pixels .*a-7-1\.png$"):
        run(shown(one, one), shown(one, other))
    assert [path.name for path in tmp_path.iterdir()] == ["a-7-1.png"]
    with pytest.raises(NbCellError, match=r"^2 pictures are saved, 1 were drawn$"):
        run(shown(one, other), shown(one))


def test_the_shade_tells_all_colours_of_the_book_apart():
    for one, two in combinations((RED, BLUE, GREEN, ORANGE, PURPLE, SKY, GREY), 2):
        assert 255 * max(abs(np.subtract(to_rgb(one), to_rgb(two)))) > SHADE
