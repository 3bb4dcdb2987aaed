"""What a reader does with the book: plays an animation, opens a solution, searches, uses a phone, turns it dark."""

import re

import pytest
from playwright.sync_api import Page, expect
from probes import NARROW, at_rest, barriers, fold, formulas, search_boxes, settle, unfold
from site_map import HTML, PAGES, source

pytestmark = pytest.mark.browser

PLAYERS = [
    name for name in PAGES if source(name).suffix == ".ipynb" and "anim-controls" in source(name).read_text("utf-8")
]
CHECKED = [name for name in PAGES if "/0" in name]
SOLUTIONS = [name for name in PAGES if "<details>" in source(name).read_text("utf-8")]


def frame(page: Page) -> str:
    """The picture that the first player shows."""
    return str(page.locator(".animation img").first.get_attribute("src"))


def test_chapter_1_has_something_to_play_with():
    assert "book/01-forward" in PLAYERS
    assert "book/01-forward" in SOLUTIONS


@pytest.mark.parametrize("name", PLAYERS)
def test_an_animation_plays_and_scrubs(name, site, open_page):
    page, log = open_page(f"{site}/{name}.html", keep=True)
    before = list(log.problems)
    fold(page)
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
    assert log.problems == before, log.problems


@pytest.mark.parametrize("name", CHECKED)
def test_a_verdict_leads_to_its_equation_and_back(name, site, open_page):
    """Every equation that is checked has a mark, which leads to a verdict with its number."""
    page, _ = open_page(f"{site}/{name}.html", keep=True)
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
    page, _ = open_page(f"{site}/{name}.html", keep=True)
    fold(page)
    solutions = page.locator("article details:has(> summary:text('Solution'))")
    assert solutions.count() > 0
    for solution in solutions.all():
        body = solution.locator("> :not(summary)").first
        expect(body).to_be_hidden()
        solution.locator("summary").click()
        expect(body).to_be_visible()
        assert "$" not in solution.inner_text()
    assert not list(formulas(page))


def test_search_finds_a_term(site, open_page):
    page, log = open_page(f"{site}/book/index.html")
    page.locator(".search-button-field").click()
    page.get_by_role("searchbox").or_(page.locator("dialog input[type=search]")).first.fill("Markov")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=*")
    result = page.locator("#search-results li > a").filter(has_text="forward process").first
    result.wait_for()
    result.click()
    settle(page)
    assert "/book/01-forward" in page.url
    assert page.locator("article .highlighted").count() > 0  # marked where it is found
    assert not log.problems


RAW_TEX = re.compile(r"\\[a-zA-Z(\[]")


@pytest.mark.parametrize("term", ["eta", "variance"])
def test_search_leads_to_sections(term, site, open_page):
    """Each page that is found leads to a section with the word, and shows the lines it stands in."""
    page, log = open_page(f"{site}/search.html?q={term}")
    page.locator("#search-results .search-summary", has_text=re.compile(r"\d+ page")).wait_for()
    found = page.locator("#search-results ul.search > li:has(> div)")
    page.wait_for_load_state("networkidle")
    settle(page)
    assert found.count() >= 3
    for result in found.all():
        link, lines = str(result.locator("a").first.get_attribute("href")), result.locator("p.context").all()
        assert re.search(r"#[\w.-]+$", link), f"{link} is the top of a page"
        assert 1 <= len(lines) <= 3
        for line in lines:
            text = " ".join(line.inner_text().split())
            assert not RAW_TEX.search(text), text
            assert len(text) < 700
            assert line.locator("span.math:not(:has(mjx-container))").count() == 0
    section = found.locator("a.section").first
    address = str(section.get_attribute("href"))
    section.click()
    page.wait_for_url(f"**/{address.split('/')[-1]}")
    settle(page)
    arrived = page.locator(f"#{address.split('#')[1]}")
    expect(arrived.locator(":is(h1, h2, h3, h4)").first).to_be_in_viewport()
    expect(arrived).to_contain_text(re.compile(term, re.IGNORECASE))
    assert not log.problems, log.problems


WITH_FIGURES = [name for name in PAGES if '"figure"' in source(name).read_text("utf-8")]


@pytest.mark.parametrize("name", WITH_FIGURES)
def test_figures_are_numbered(name, site, open_page):
    """1.1, 1.2 and so on, each with a caption that is a sentence."""
    page, _ = open_page(f"{site}/{name}.html", keep=True)
    unnumbered = page.evaluate("""() => [...document.querySelectorAll('article div.cell_output :is(img, .explore)')]
        .filter(e => !e.closest('.animation, .explore img, figure, .explore .explore'))
        .filter(e => !e.parentElement.closest('.explore'))
        .map(e => e.alt || e.dataset.figure)""")
    assert not unnumbered, unnumbered
    captions = page.locator("article figure figcaption").all_inner_texts()
    numbers = [re.match(r"Fig\. (\d+)\.(\d+) (?=\S)", caption) for caption in captions]
    assert all(numbers), captions
    chapter = int(name.split("/")[1][:2])
    places = [int(number[2]) for number in numbers]
    assert {int(number[1]) for number in numbers} == {chapter}
    assert places == list(range(places[0], places[0] + len(places)))
    assert all(caption.rstrip(" #").endswith((".", "?", "”", ")")) for caption in captions), captions


@pytest.mark.parametrize("name", WITH_FIGURES)
def test_figures_are_enlarged(name, site, open_page):
    """By a tap or a key, each with its words; Escape closes it, and the reader is where they were."""
    page, log = open_page(f"{site}/{name}.html", keep=True)
    before = list(log.problems)
    page.set_viewport_size(NARROW)
    unfold(page)
    at_rest(page)
    images = page.locator("article figure img:not(.explore img, .animation img)").all()
    assert len(images) == page.locator("button.enlarge").count()
    dialog = page.locator("dialog.enlarged")
    first = WITH_FIGURES.index(name)  # each page tries another way in and out, and some all of them
    for i, image in enumerate(images[: 3 if name in WITH_FIGURES[::4] else 1], first):
        button = image.locator("xpath=following-sibling::button")
        image.scroll_into_view_if_needed()
        at_rest(page)
        shown, scrolled = image.bounding_box()["width"], page.evaluate("scrollY")
        if i % 2:
            button.evaluate("e => e.focus({ preventScroll: true })")
            page.keyboard.press("Enter")
        else:
            image.click()
        large = dialog.locator("img")
        assert large.get_attribute("alt") == image.get_attribute("alt")
        assert large.bounding_box()["width"] > 1.2 * shown or shown >= large.evaluate("e => e.naturalWidth")
        assert dialog.evaluate("e => e.contains(document.activeElement) && e.matches(':modal')")
        if i % 3 == 0:
            dialog.get_by_role("button").click()
        elif i % 3 == 1:
            large.click()
        else:
            page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        assert button.evaluate("e => e === document.activeElement")
        assert page.evaluate("scrollY") == scrolled
    assert log.problems == before, log.problems
    if name in WITH_FIGURES[::4]:
        images[0].click()
        assert not list(barriers(page, within="dialog.enlarged"))
        page.keyboard.press("Escape")


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


@pytest.mark.parametrize(("root", "said"), [("", 'lang="en"'), ("zh/", 'lang="zh-CN"')])
def test_the_root_leads_to_the_first_page(site, open_page, root, said):
    text = (HTML / root / "index.html").read_text("utf-8")
    assert said in text
    assert 'rel="icon"' in text  # or the browser may ask for one, in vain
    page, log = open_page(f"{site}/search.html")
    page.goto(f"{site}/{root}")
    page.wait_for_url(f"**/{root}book/index.html")
    settle(page)
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
