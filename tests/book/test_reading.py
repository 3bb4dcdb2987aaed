"""What a reader does with the book: plays an animation, opens a solution, searches, uses a phone, turns it dark."""

import pytest
from playwright.sync_api import Page, expect
from probes import NARROW, formulas, search_boxes, settle
from site_map import HTML, PAGES, source

pytestmark = pytest.mark.browser

PLAYERS = [
    name for name in PAGES if source(name).suffix == ".ipynb" and "anim-controls" in source(name).read_text("utf-8")
]
CHECKED = [name for name in PAGES if "/0" in name]
SOLUTIONS = [name for name in PAGES if "<details>" in source(name).read_text("utf-8")]


@pytest.fixture(scope="module")
def site(serve) -> str:
    return serve(HTML)


def frame(page: Page) -> str:
    """The picture that the first player shows."""
    return str(page.locator(".animation img").first.get_attribute("src"))


def test_chapter_1_has_something_to_play_with():
    assert "book/01-forward" in PLAYERS
    assert "book/01-forward" in SOLUTIONS


@pytest.mark.parametrize("name", PLAYERS)
def test_an_animation_plays_and_scrubs(name, site, open_page):
    page, log = open_page(f"{site}/{name}.html")
    player = page.locator(".animation").first
    player.scroll_into_view_if_needed()
    slider = player.locator("input[type=range]")
    first = frame(page)
    assert first.startswith("data:image/png;base64,")

    player.get_by_role("button", name="Next frame").click()
    second = frame(page)
    assert second != first
    assert slider.input_value() == "1"
    player.get_by_role("button", name="Previous frame").click()
    assert frame(page) == first

    last = str(slider.get_attribute("max"))
    slider.fill(last)  # scrub to the end
    assert frame(page) not in (first, second)
    slider.fill("0")
    assert frame(page) == first

    player.get_by_role("button", name="Play", exact=True).click()
    page.wait_for_function("old => document.querySelector('.animation img').src !== old", arg=first)
    expect(slider).to_have_value(last, timeout=60_000)  # it plays to its end by itself, once
    assert not log.problems


@pytest.mark.parametrize("name", CHECKED)
def test_a_verdict_leads_to_its_equation_and_back(name, site, open_page):
    """Every equation that is checked has a mark, which leads to a verdict with its number."""
    page, _ = open_page(f"{site}/{name}.html")
    assert page.locator(".cell_output pre", has_text="✓ (").count() == 0  # none is left as it was printed
    marks = page.locator("a.checked").all()
    assert marks
    for mark in marks:
        verdict = page.locator(str(mark.get_attribute("href")))
        number = mark.locator("xpath=..").inner_text().replace("✓", "").replace("#", "").strip()
        assert verdict.locator("a").first.inner_text() == number
    marks[-1].click()
    expect(page.locator(str(marks[-1].get_attribute("href")))).to_be_in_viewport()


@pytest.mark.parametrize("name", SOLUTIONS)
def test_every_folded_solution_opens(name, site, open_page):
    page, _ = open_page(f"{site}/{name}.html")
    solutions = page.locator("article details:has(> summary:text('Solution'))")
    assert solutions.count() > 0
    for solution in solutions.all():
        body = solution.locator("> :not(summary)").first
        expect(body).to_be_hidden()
        solution.locator("summary").click()
        expect(body).to_be_visible()
        assert "$" not in body.inner_text()
    assert not list(formulas(page))


@pytest.mark.parametrize("term", ["variance", "Markov"])
def test_search_finds_a_term(term, site, open_page):
    page, log = open_page(f"{site}/book/index.html")
    page.locator(".search-button-field").click()
    page.get_by_role("searchbox").or_(page.locator("dialog input[type=search]")).first.fill(term)
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=*")
    result = page.locator("#search-results li a").filter(has_text="forward process").first
    result.wait_for()
    result.click()
    settle(page)
    assert "/book/01-forward.html" in page.url
    assert page.locator("article .highlighted").count() > 0  # marked where it is found
    assert not log.problems


def test_a_phone_finds_the_contents_and_the_search(site, open_page):
    page, log = open_page(f"{site}/book/index.html")
    page.set_viewport_size(NARROW)
    assert len(search_boxes(page)) <= 1
    page.get_by_label("Toggle primary sidebar").filter(visible=True).first.click()
    link = (
        page.locator(".bd-sidebar-primary, dialog").get_by_role("link", name="The forward process").filter(visible=True)
    )
    link.first.click()
    page.wait_for_url("**/01-forward.html")
    assert not log.problems


def test_the_root_leads_to_the_first_page(site, open_page):
    page, log = open_page(f"{site}/")
    page.wait_for_url("**/book/index.html")
    assert not log.problems


def test_the_theme_can_be_turned(site, open_page):
    page, log = open_page(f"{site}/book/index.html")
    paper = "getComputedStyle(document.body).backgroundColor"
    shades = set()
    for _ in range(3):  # light, dark, as the system has it
        page.locator(".theme-switch-button").filter(visible=True).first.click()
        shades.add(page.evaluate(paper))
    assert len(shades) == 2
    assert not log.problems
