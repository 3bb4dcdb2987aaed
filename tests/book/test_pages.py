"""Every page of the built book, as a reader meets it: without a network, in light and in dark, wide and on a phone."""

import json
import re

import pytest
from probes import (
    at_rest,
    barriers,
    clipped_cells,
    cut_formulas,
    figures_without_words,
    fold,
    formulas,
    lifeless,
    lost_equation_links,
    marked_section,
    mute_formulas,
    on_a_phone,
    scrolling_formulas,
    search_boxes,
    sideways_scroll,
    squeezed_formulas,
    stale_marks,
    stranded_punctuation,
    unfold,
    unmarked_links,
    unreadable_figures,
)
from site_map import LIVE, PAGES, built, source

from diffnotes.book.ledger import prose

pytestmark = pytest.mark.browser


@pytest.fixture(params=PAGES)
def address(request, site) -> str:
    return f"{site}/{request.param}.html"


# for what is the same on every page: one of each kind
FEW = ["book/index", "book/04-ddim", "book/02-reverse-deeper", "book/checked-equations", "book/api"]


def listed(problems) -> str:
    return "\n".join(problems)


def test_it_loads_and_asks_nothing_of_the_outside(address, open_page):
    page, log = open_page(address, keep=True)
    if any(address.endswith(f"{name}.html") for name in FEW):
        page.wait_for_load_state("networkidle")  # what scripts, which are the same everywhere, ask for later, too
    assert not log.problems, listed(log.problems)
    assert page.locator("article h1").count() == 1
    assert page.title()


def test_every_formula_is_set(address, open_page):
    page, _ = open_page(address, keep=True)
    assert not (found := [*formulas(page), *squeezed_formulas(page)]), listed(found)


@pytest.mark.parametrize("name", PAGES)
def test_maths_in_the_source_is_maths_on_the_page(name, site, open_page):
    """As many displayed formulas as the source has, so none is lost on the way."""
    path = source(name)
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        text = "\n\n".join(prose(cell) for cell in json.loads(text)["cells"])
    page, _ = open_page(f"{site}/{name}.html", keep=True)
    displayed = page.locator('div.math mjx-container[display="true"]').count()
    assert displayed == text.count("$$") // 2
    inline = len(re.findall(r"\$[^$]+\$", re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)))
    assert page.locator("span.math mjx-container").count() >= inline


def test_figures_are_described(address, open_page):
    page, _ = open_page(address, keep=True)
    assert not (found := list(figures_without_words(page))), listed(found)


@pytest.mark.parametrize("name", LIVE)
def test_figures_that_move_come_to_life(name, site, open_page):
    page, _ = open_page(f"{site}/{name}.html", keep=True)
    assert page.locator(".explore").count()
    assert not (found := list(lifeless(page))), listed(found)


def test_there_is_one_search_box(address, open_page):
    page, _ = open_page(address, keep=True)
    assert len(search_boxes(page)) == 1, search_boxes(page)


@pytest.mark.parametrize("name", FEW)
def test_the_contents_mark_the_section_in_view(name, site, open_page):
    page, _ = open_page(f"{site}/{name}.html", keep=True)
    assert not (found := [*stale_marks(page), *unmarked_links(page)]), listed(found)
    page.evaluate("location.hash = ''")
    page.evaluate("scrollTo(0, 0)")


@pytest.mark.parametrize("name", FEW[1:4])
def test_the_contents_mark_where_a_link_from_elsewhere_leads(name, site, open_page):
    """To a section, or to an equation in it."""
    address = f"{site}/{name}.html"
    page, _ = open_page(address, keep=True)
    links = page.evaluate("""() => {
        const links = [...document.querySelectorAll('nav.page-toc a[href^="#"]')].map(a => a.hash.slice(1));
        const equations = [...document.querySelectorAll('article div.math[id]')].map(e => {
            let section = e.closest('section');
            while (!links.includes(section.id)) section = section.parentElement.closest('section');
            return [e.id, section.id];
        });
        return [...links.slice(-1).map(id => [id, id]), ...equations.slice(-1)];
    }""")
    assert links
    for target, section in links:
        arrived, _ = open_page(f"{address}#{target}")
        assert marked_section(arrived) == section, target


def test_a_wide_window_does_not_scroll_sideways_and_no_line_begins_with_punctuation(address, open_page):
    page, _ = open_page(address, keep=True)
    unfold(page)
    assert not (found := [*sideways_scroll(page), *stranded_punctuation(page)]), listed(found)


def test_nor_does_a_phone_where_formulas_have_the_whole_width(address, open_page):
    """And their number below; few are wider, and those show it. Nothing is cut off, whatever the letters."""
    page, _ = open_page(address, keep=True)
    found = []
    with on_a_phone(page):
        found += [*stranded_punctuation(page), *mute_formulas(page), *narrow(page)]
        wide = scrolling_formulas(page)
    with on_a_phone(page, wide_letters=True):
        found += narrow(page)
    assert not found, listed(found)
    assert len(wide) <= max(2, page.locator("article div.math").count() // 8), listed(wide)


def narrow(page) -> list[str]:
    """What a narrow window does to a page."""
    return [*sideways_scroll(page), *cut_formulas(page), *squeezed_formulas(page), *clipped_cells(page)]


@pytest.mark.parametrize("name", PAGES)
def test_nobody_is_shut_out(name, site, open_page):
    page, _ = open_page(f"{site}/{name}.html", keep=True)
    asked = {"colours": name in FEW, "code": name in ("book/index", "book/04-ddim")}
    assert not (found := list(barriers(page, **asked))), listed(found)


@pytest.mark.parametrize("name", FEW)
def test_figures_are_dark_ink_on_a_light_sheet(name, site, open_page):
    page, _ = open_page(f"{site}/{name}.html", keep=True)
    assert not (found := list(unreadable_figures(page))), listed(found)


def test_and_so_they_are_in_the_dark(address, open_page):
    """Which finds what a page does to its figures, and figures through which it shines."""
    page, _ = open_page(address, "dark", keep=True)
    assert not (found := list(unreadable_figures(page))), listed(found)


@pytest.mark.parametrize("name", ["book/index", "book/04-ddim", "book/checked-equations"])
def test_nobody_is_shut_out_by_the_dark(name, site, open_page):
    page, _ = open_page(f"{site}/{name}.html", "dark", keep=True)
    assert not (found := list(barriers(page, colours_only=True, code=name == "book/04-ddim"))), listed(found)


@pytest.fixture(scope="module")
def linked() -> dict[str, set[str]]:
    """The equations of each page that some page links to."""
    found: dict[str, set[str]] = {name: set() for name in PAGES}
    for page in PAGES:
        for path, identity in re.findall(r'href="([\w.-]*)#(equation-[^"]+)"', built(page).read_text("utf-8")):
            name = f"book/{path.removesuffix('.html')}" if path else page
            found[name].add(identity)
    assert all(found[name] for name in PAGES if "0" in name)  # to each page of a chapter
    return found


@pytest.mark.parametrize("name", PAGES)
def test_links_to_equations_land_on_them(name, linked, site, open_page):
    page, _ = open_page(f"{site}/{name}.html", keep=True)
    assert not (found := list(lost_equation_links(page, linked[name], leave=False))), listed(found)


@pytest.mark.parametrize("name", ["book/02-reverse-deeper", "book/checked-equations"])
def test_links_to_equations_of_other_pages_land_on_them(name, site, open_page):
    page, log = open_page(f"{site}/{name}.html")
    assert not (found := list(lost_equation_links(page))), listed(found)
    assert "/".join(page.url.split("#")[0].split("/")[3:]) != f"{name}.html"
    assert not log.problems, listed(log.problems)


def test_the_notation_is_read_on_a_phone_without_scrolling(site, open_page):
    """Each symbol stands above or beside its meaning, and all of it within the window."""
    page, _ = open_page(f"{site}/book/notation.html", keep=True)
    with on_a_phone(page):
        cut = page.evaluate("""() => [...document.querySelectorAll('#symbols td')].filter(cell => {
            const box = cell.getBoundingClientRect();
            return box.left < 0 || box.right > innerWidth;
        }).map(cell => cell.textContent)""")
        rows = page.locator("#symbols tbody tr")
        assert rows.count() > 40
        assert not cut, cut


# What the pages measured before each was split in two, folded as they open, in a window of 390 by 844. Half of that is
# reached by two chapters; the prose alone, at the budgets of reading.py, is about half. No page may grow again.
OLD_HEIGHTS = {"01": 36440, "02": 63759, "03": 66196, "04": 42023, "05": 56810, "06": 54194}


@pytest.mark.parametrize("name", [name for name in PAGES if "/0" in name and "deeper" not in name])
def test_a_core_page_is_shorter_on_a_phone_than_it_was(name, site, open_page):
    page, _ = open_page(f"{site}/{name}.html", keep=True)
    fold(page)
    page.set_viewport_size({"width": 390, "height": 844})
    at_rest(page)
    height = page.evaluate("document.documentElement.scrollHeight")
    assert height <= 0.8 * OLD_HEIGHTS[name.split("/")[1][:2]]
