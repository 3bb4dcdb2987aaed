"""The Chinese edition as a reader meets it: the rules of the English pages, and the way between the two."""

import json
import re

import pytest
from playwright.sync_api import Page, expect
from probes import (
    barriers,
    clipped_cells,
    cut_formulas,
    figures_without_words,
    formulas,
    on_a_phone,
    settle,
    sideways_scroll,
    squeezed_formulas,
    stranded_punctuation,
    unfold,
)
from site_map import PAGES, built

pytest.importorskip("sphinx", reason="needs the extra `book`")

from tools import chinese

pytestmark = pytest.mark.browser
COLOURED = ["book/index", "book/04-ddim", "book/glossary"]
READ_OUT = [*COLOURED, "book/01-forward-deeper", "book/05-images", "book/stuck", "book/api", "book/checked-equations"]
CHINESE = re.compile("[\u4e00-\u9fff]")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_right_wide_and_on_a_phone(name, site, open_page):
    page, log = open_page(f"{site}/zh/{name}.html", keep=True)
    assert not log.problems, log.problems
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    assert CHINESE.search(page.locator("article h1").inner_text())
    found = [*formulas(page), *squeezed_formulas(page), *figures_without_words(page), *stranded_punctuation(page)]
    unfold(page)
    found += sideways_scroll(page)
    for wide in (False, True):
        with on_a_phone(page, wide_letters=wide):
            found += [*sideways_scroll(page), *cut_formulas(page), *squeezed_formulas(page), *clipped_cells(page)]
            if not wide:
                found += stranded_punctuation(page)
    if name in READ_OUT:  # on the others the elements are those of the English page
        found += barriers(page, colours=name in COLOURED, code=False)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", COLOURED)
def test_a_page_can_be_read_in_the_dark(name, site, open_page):
    page, _ = open_page(f"{site}/zh/{name}.html", "dark", keep=True)
    assert not (found := list(barriers(page, colours_only=True, code=False))), "\n".join(found)


def section_ids(name: str) -> list[str]:
    return re.findall(r'<section[^>]* id="([^"]+)"', built(name).read_text("utf-8"))


def equations(name: str) -> list[tuple[str, str]]:
    """Each equation's id and number."""
    numbered = r'<div class="math[^>]* id="([^"]+)">\s*<span class="eqno">\D*([\d.]+)'
    return re.findall(numbered, built(name).read_text("utf-8"))


def test_ids_are_those_of_docutils():
    assert chinese.section_ids(["A b", "A b!", "On $x_t$", "$", "a B"]) == ["a-b", "id1", "on-x-t", "id2", "id3"]


@pytest.mark.parametrize("name", PAGES)
def test_the_twins_have_the_same_sections_and_equations(name):
    assert section_ids(f"zh/{name}") == section_ids(name)
    assert equations(f"zh/{name}") == equations(name)
    assert section_ids(name)
    assert bool(equations(name)) == ("/0" in name)


def twin(page: Page):
    return page.locator(".article-header-buttons a.twin, .header-article a.twin").first


def test_a_link_leads_to_the_same_section_of_the_twin_and_back(site, open_page):
    page, log = open_page(f"{site}/book/02-reverse.html#the-third-row-the-drift")
    for address in ("zh/book/02-reverse.html", "book/02-reverse.html"):
        twin(page).click()
        page.wait_for_url(f"{site}/{address}#*")
        settle(page)
        assert page.url.endswith("#the-third-row-the-drift")
        expect(page.locator("#the-third-row-the-drift > h2")).to_be_in_viewport()
    assert not log.problems


def test_no_page_is_without_its_twin(site, open_page):
    for name in PAGES:
        for page in (name, f"zh/{name}"):
            tags = re.findall(r"<a\b[^>]*>", built(page).read_text("utf-8"))
            twins = [tag for tag in tags if re.search(r'class="[^"]*\btwin\b', tag)]
            links = {re.search(r'href="([^"]*)"', tag)[1] for tag in twins}
            assert len(links) == 1, page
            assert (built(page).parent / links.pop()).resolve().is_file()


@pytest.mark.parametrize("term", ["逆过程", "漂移", "噪声调度的方差"])
def test_search_leads_to_chinese_sections(term, site, open_page):
    page, log = open_page(f"{site}/zh/search.html?q={term}")
    link = page.locator("#search-results a.section").first
    link.wait_for()
    settle(page)
    address = str(link.get_attribute("href"))
    assert re.search(r"/zh/book/[\w-]+\.html.*#[\w.-]+$|^book/[\w-]+\.html.*#[\w.-]+$", address), address
    for line in page.locator("#search-results p.context").all():
        assert len(line.inner_text()) < 700
    link.click()
    page.wait_for_url(f"**/{address.split('/')[-1]}")
    settle(page)
    arrived = page.locator(f"#{address.split('#')[1]}")
    expect(arrived.locator(":is(h1, h2, h3)").first).to_be_in_viewport()
    expect(arrived).to_contain_text(re.compile("噪声|方差" if len(term) > 5 else term))
    assert not log.problems


def test_the_figures_that_move_speak_chinese(site, open_page):
    page, _ = open_page(f"{site}/zh/book/04-ddim.html")
    figure = page.locator(".explore").first
    expect(figure.locator(".readout")).to_contain_text(CHINESE)
    words = json.dumps(figure.locator("label").all_inner_texts(), ensure_ascii=False)
    assert CHINESE.search(words), words
