"""An exported chapter in a real JupyterLab, as its reader uses it."""

import ast
import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import Locator, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from probes import LOOPBACK
from site_map import ROOT

from diffnotes.book.ledger import syntax_tree

pytest.importorskip("sphinx", reason="needs the extra `book`")

from tools import live

pytestmark = [pytest.mark.browser, pytest.mark.slow]

WAIT = 30_000  # milliseconds, on a busy machine
ADDED = """
from ipywidgets import IntSlider

from diffnotes.book.explore import explore

def turn(n):
    plt.plot(range(n))
    plt.show()

display(explore("jump"))
plots.panel(turn, n=IntSlider(2, max=9))
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[tuple[Path, str]]:
    """A JupyterLab with a home of its own: the folder that it shows, and its address."""
    home = tmp_path_factory.mktemp("home")
    (home / "book").mkdir()
    folders = {f"JUPYTER_{name}_DIR": str(home / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    options = {
        "ServerApp.ip": LOOPBACK,
        "ServerApp.port": "0",
        "ServerApp.root_dir": str(home / "book"),
        "ServerApp.open_browser": "False",
        "ServerApp.allow_root": "True",
        "IdentityProvider.token": "",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",  # which would ask another host
        "LabApp.news_url": "None",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())],
        env=os.environ | folders | {"HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not (found := list((home / "RUNTIME").glob("jpserver-*.json"))):
            assert server.poll() is None, "JupyterLab has not started"
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield home / "book", json.loads(found[0].read_text("utf-8"))["url"]
    finally:
        server.terminate()  # and its kernels
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def needed(notebook: Any, wanted: Callable[[str], bool]) -> None:
    """Keep the texts of a notebook, the cells that are wanted, and those that give the names which they use."""
    kept, names = [], set[str]()
    for cell in reversed(notebook.cells):
        if cell.cell_type == "code":
            nodes = list(ast.walk(syntax_tree(cell)))
            given = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            given |= {n.name for n in nodes if isinstance(n, ast.FunctionDef)}
            given |= {(n.asname or n.name).split(".")[0] for n in nodes if isinstance(n, ast.alias)}
            if not (wanted(cell.source) or (given - {"fig", "ax", "axes"}) & names):
                continue
            names |= {n.id for n in nodes if isinstance(n, ast.Name)}
        kept.append(cell)
    notebook.cells = kept[::-1]


# a cell that has not been seen yet has no height of its own, and what is below it moves when it gets one
SEE_ALL = """async () => {
    for (const cell of document.querySelectorAll('.jp-Cell')) {
        cell.scrollIntoView();
        await new Promise(requestAnimationFrame);
    }
}"""


def follow(page: Page, kind: str) -> Locator:
    """Follow a link to a place of this kind that is out of sight, and see that one gets there: the place."""
    page.evaluate(SEE_ALL)
    for link in page.locator(f'a[href^="#scrollTo={kind}-"]').all():
        target = str(link.get_attribute("href")).removeprefix("#")
        place = page.locator(f'[data-jupyter-id="{target}"]').locator("xpath=..")
        link.scroll_into_view_if_needed()
        if not place.evaluate(
            "e => { const b = e.getBoundingClientRect(); return b.bottom > 0 && b.top < innerHeight }"
        ):
            link.click()
            expect(place).to_be_in_viewport(timeout=WAIT)
            return place
    raise AssertionError(f"no link to a place {kind}-.. that is out of sight")


WRONG = r"Neither $\nosuch + 1$ nor $x^1^2$ can be set."


def wrong_formulas(page: Page) -> list[str]:
    """What MathJax could not read, and what has a command that it does not know."""
    return page.locator("mjx-merror").or_(page.locator("mjx-assistive-mml", has_text="\\")).all_text_contents()


def test_a_link_to_a_section_arrives(lab, site, open_page):
    folder, address = lab
    book = live.this_book()
    exports = (live.export(book, name) for name in book.pages)
    notebook = next(e for e in exports if "(#scrollTo=at-" in str(e.cells))
    notebook.cells.append(nbformat.v4.new_markdown_cell(WRONG))
    nbformat.write(notebook, folder / "sections.ipynb")
    page, _ = open_page(f"{address}doc/tree/sections.ipynb")
    page.locator('a[href^="#scrollTo=at-"]').first.wait_for()
    assert str(follow(page, "at").evaluate("e => e.tagName")) in ("H2", "H3")
    expect(page.locator("mjx-merror")).to_have_count(1, timeout=WAIT)  # in the cell below all others
    assert wrong_formulas(page) == [r"\nosuch+1", "x^1^2"]


def test_a_chapter_is_run_and_played_with_and_its_links_are_followed(lab, site, open_page):
    folder, address = lab
    book = dataclasses.replace(live.this_book(), address=site)
    page_name = next(name for name, page in book.pages.items() if "plots.player(" in str(page.cells))
    notebook = live.export(book, page_name)
    needed(notebook, lambda source: "plots.player(" in source)
    notebook.cells.append(nbformat.v4.new_code_cell(ADDED))
    nbformat.write(notebook, folder / "chapter.ipynb")

    page, log = open_page(f"{address}doc/tree/chapter.ipynb")
    page.locator("mjx-container").first.wait_for()

    # all cells run; JupyterLab has lost this request now and then, with an idle kernel and no word, so it is repeated
    done = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[\d+\]"))
    for _ in range(3):
        page.locator(".lm-MenuBar-itemLabel", has_text="Run").click()
        page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
        with contextlib.suppress(PlaywrightTimeout):
            done.first.wait_for(state="attached", timeout=WAIT)
            break
    shown = page.locator(".widget-output img")  # of the last cell: its figure is drawn before any slider is moved
    failed = page.locator(".jp-OutputArea-output", has_text="Traceback (most recent call last)")
    shown.or_(failed).first.wait_for(state="attached")
    assert failed.all_text_contents() == []
    shown.scroll_into_view_if_needed()
    expect(shown).to_be_visible(timeout=WAIT)

    # a slider of ipywidgets, and one of a figure that moves
    before = shown.get_attribute("src")
    page.locator(".widget-slider [role=slider]").press("ArrowRight")
    expect(shown).not_to_have_attribute("src", str(before), timeout=WAIT)
    figure = page.locator(".explore")
    said = str(figure.text_content())
    figure.locator("input[type=range]").first.press("ArrowRight")
    expect(figure).not_to_have_text(said, timeout=WAIT)

    # a player: a picture before it is touched, and one press plays it
    player = page.locator(".animation")
    player.scroll_into_view_if_needed()
    picture = player.locator("img")
    expect(picture).to_be_visible(timeout=WAIT)
    assert picture.evaluate("image => image.naturalWidth") == int(str(picture.get_attribute("width")))
    first = str(picture.get_attribute("src"))
    slider = player.locator("input[type=range]")
    slider.press("ArrowRight")
    expect(slider).to_have_value("1")
    slider.press("ArrowLeft")
    expect(picture).to_have_attribute("src", first)
    player.get_by_role("button", name="Play", exact=True).click()
    expect(picture).not_to_have_attribute("src", first, timeout=WAIT)

    # an equation and a citation
    follow(page, "eq")
    citation = page.locator('a[href*="/bibliography.html#"]').first
    citation.scroll_into_view_if_needed()
    with page.context.expect_page() as opened:
        citation.click()
    entry = opened.value
    entry.wait_for_load_state()
    assert entry.url == citation.get_attribute("href")
    expect(entry.locator(f"[id='{entry.url.partition('#')[2]}']")).to_be_in_viewport(timeout=WAIT)
    assert not log.problems

    # the cells have all been seen by now, so that their formulas are set
    prose = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    expect(page.locator('mjx-container[display="true"]')).to_have_count(prose.count("$$") // 2, timeout=WAIT)
    assert not wrong_formulas(page)
