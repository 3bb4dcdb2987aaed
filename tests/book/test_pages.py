"""Every page of the built book, as a reader meets it: without a network, in light and in dark, wide and on a phone."""

import json
import re

import pytest
from probes import (
    barriers,
    clipped_cells,
    cut_formulas,
    figures_without_words,
    formulas,
    lost_equation_links,
    on_a_phone,
    search_boxes,
    sideways_scroll,
    squeezed_formulas,
    unreadable_figures,
)
from site_map import HTML, PAGES, source

from diffnotes.book.ledger import prose

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(serve) -> str:
    return serve(HTML)


@pytest.fixture(params=PAGES)
def address(request, site) -> str:
    return f"{site}/{request.param}.html"


@pytest.fixture(params=["light", "dark"])
def scheme(request) -> str:
    return request.param


def listed(problems) -> str:
    return "\n".join(problems)


def test_it_loads_and_asks_nothing_of_the_outside(address, open_page):
    page, log = open_page(address, keep=True)
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


def test_figures_are_dark_ink_on_a_light_sheet(address, scheme, open_page):
    page, _ = open_page(address, scheme, keep=True)
    assert not (found := list(unreadable_figures(page))), listed(found)


def test_there_is_one_search_box(address, open_page):
    page, _ = open_page(address, keep=True)
    assert len(search_boxes(page)) == 1, search_boxes(page)


@pytest.mark.parametrize("letters", ["the machine's", "wide"])
def test_a_phone_does_not_scroll_sideways_and_cuts_nothing_off(address, scheme, letters, open_page):
    page, _ = open_page(address, scheme, keep=True)
    with on_a_phone(page, wide_letters=letters == "wide"):
        found = [*sideways_scroll(page), *cut_formulas(page), *squeezed_formulas(page), *clipped_cells(page)]
    assert not found, listed(found)


def test_nobody_is_shut_out(address, scheme, open_page):
    page, _ = open_page(address, scheme, keep=True)
    assert not (found := list(barriers(page, colours_only=scheme == "dark"))), listed(found)


def test_links_to_equations_land_on_them(address, open_page):
    page, log = open_page(address)
    assert not (found := list(lost_equation_links(page))), listed(found)
    assert not log.problems, listed(log.problems)
