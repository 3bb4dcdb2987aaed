"""explore: what a notebook saves of a figure that moves, and what is shown where no script runs."""

import base64
import html
import io
import json
import re

import matplotlib

matplotlib.use("Agg")

import nbformat
import numpy as np
import pytest
from pictures import difference  # tests/notebooks/pictures.py

from diffnotes.book.explore import CODE, PAGE, SCRIPTS, STILLS, STYLE, explore, static
from tools import stills
from tools.notebooks import normalise
from tools.stills import FIGURES, FRONT, GARMENTS, VARIANTS, picture, still


@pytest.fixture(params=[*FIGURES, *VARIANTS])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_is_a_picture_with_words_a_state_and_the_code(name: str) -> None:
    page = explore(name).data
    image = re.search(r'<img alt="([^"]*)" width="(\d+)" height="(\d+)" src="data:image/png;base64,([^"]*)">', page)
    assert image
    assert len(html.unescape(image[1]).split()) >= 15
    assert 500 < int(image[2]) < 800
    assert len(base64.b64decode(image[4])) <= (60_000 if name == "garments" else 30_000)
    state = json.loads(html.unescape(re.search(r'data-state="([^"]*)"', page)[1]))  # type: ignore[index]
    assert state
    assert re.sub(CODE, "", page, flags=re.DOTALL) == static(name)
    assert page.count("<script") == page.count("</script") == 1  # no script ends within itself


NAMESPACE = '"http://www.w3.org/2000/svg"'  # a name, which nobody fetches
ASKING = r"https?://|[\"'(]//\w|\burl\((?!#)|@import|^\s*import\b|\b(import|fetch|eval)\s*\("
ASKING += r"|\b(XMLHttpRequest|WebSocket|sendBeacon|innerHTML|outerHTML)\b"


def asks(text: str) -> list[str]:
    """What in a script or a style could bring something from elsewhere, or text that is read as code."""
    return [found[0] for found in re.finditer(ASKING, text.replace(NAMESPACE, ""), re.MULTILINE)]


def test_the_code_is_small_and_asks_for_nothing() -> None:
    code = {file: (PAGE / file).read_text("utf-8") for file in (STYLE, *SCRIPTS)}
    assert sorted(code) == sorted(path.name for path in PAGE.iterdir())
    assert sum(len(text.encode()) for text in code.values()) < 100_000
    for file, text in code.items():
        assert not asks(text), file


@pytest.mark.parametrize(
    "planted",
    [
        "box.innerHTML = words;",
        "box.outerHTML = words;",
        "fetch(name)",
        "eval(words)",
        "const more = await import(name);",
        "  import more from './more.js';",
        "new XMLHttpRequest()",
        "new WebSocket(name)",
        "navigator.sendBeacon(name)",
        '@import "more.css";',
        "image.src = '//host/a.png';",
        "background: url(a.png);",
        'const host = "https://host";',
    ],
)
def test_what_would_ask_is_seen(planted: str) -> None:
    allowed = f"const NS = {NAMESPACE};\nclip: url(#a);\n"
    assert asks(allowed) == []
    assert len(asks(allowed + planted)) == 1


def test_state_is_given_by_name() -> None:
    assert "&quot;eta&quot;: 0.5" in static("jump", eta=0.5)
    assert static("jump-slip").startswith('<div class="explore" data-figure="jump" ')
    with pytest.raises(ValueError, match=r"name must be one of .*'two-bells'.* got 'bells'"):
        static("bells")
    with pytest.raises(ValueError, match=r"state of 'root' must be among \['beta', .* got \['gamma'\]"):
        explore("root", gamma=1)


def test_another_state_is_another_picture() -> None:
    assert difference(picture("root")[0], picture("root", power=0.5)[0]) is not None


def test_what_ships_is_what_the_code_draws(name: str) -> None:
    """If not: python -m tools.stills."""
    (drawn, about), file = still(name), (STILLS / f"{name}.png").read_bytes()
    shipped = json.loads((STILLS / "stills.json").read_text("utf-8"))[name]
    sizes = shipped.pop("size"), about.pop("size")
    assert shipped == about
    if b"Software\0Matplotlib version" + matplotlib.__version__.encode() not in file:
        pytest.skip(f"drawn by another matplotlib than {matplotlib.__version__}, whose letters have other sizes")
    assert sizes[0] == sizes[1]
    assert difference(file, drawn) is None


def test_what_ships_was_drawn_by_the_matplotlib_that_is_pinned() -> None:
    """With another one the comparison above is skipped."""
    requirements = (STILLS.parents[2] / "requirements.txt").read_text("utf-8")
    pinned = re.search(r"^matplotlib==(\S+)$", requirements, re.MULTILINE)
    assert pinned
    software = f"Software\0Matplotlib version{pinned[1]},".encode()
    assert [path.stem for path in STILLS.glob("*.png") if software not in path.read_bytes()] == []


def test_nothing_else_ships_and_the_front_page_has_the_same_picture() -> None:
    assert {path.stem for path in STILLS.glob("*.png")} == {*FIGURES, *VARIANTS}
    assert FRONT.read_bytes() == (STILLS / "first-minute.png").read_bytes()


def test_a_saved_notebook_holds_no_code() -> None:
    cell = nbformat.v4.new_code_cell("explore('root')")
    cell.outputs = [nbformat.v4.new_output("display_data", {"text/html": explore("root").data})]
    notebook = normalise(nbformat.v4.new_notebook(cells=[cell]))
    assert notebook.cells[0].outputs[0].data["text/html"] == static("root")


def test_random_numbers_are_those_of_the_first_day() -> None:
    """The saved pictures and the pages stand on them."""
    assert stills.uniform(1, [0, 1, 2]) * 2**32 - 0.5 == pytest.approx([3405691463, 4114278092, 2788919815], abs=0)
    many = stills.normal(7, np.arange(200_000))
    assert abs(many.mean()) < 4 / np.sqrt(many.size)
    assert abs((many**2).mean() - 1) < 4 * np.sqrt(2 / many.size)
    lag = (many[1:] * many[:-1]).mean()
    assert abs(lag) < 4 / np.sqrt(many.size)
    assert abs((many * stills.normal(8, np.arange(200_000))).mean()) < 4 / np.sqrt(many.size)


def test_the_garments_fit_into_their_sheet() -> None:
    sheet = np.asarray(stills.Image.open(GARMENTS))
    side, steps, etas, labels = stills.SHEET
    assert sheet.shape == (len(steps) * side, len(etas) * len(labels) * side)
    assert GARMENTS.stat().st_size <= 60_000
    shown = np.asarray(stills.Image.open(io.BytesIO(picture("garments")[0])))
    state = stills.garments_state()
    for k in range(len(etas)):
        left = state["left"] + k * (len(labels) * side + state["gap"])
        there = shown[state["top"] : state["top"] + len(sheet), left : left + len(labels) * side]
        assert (there == 255 - np.split(sheet, len(etas), 1)[k]).all()
