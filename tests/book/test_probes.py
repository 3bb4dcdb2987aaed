"""Each probe finds what it looks for on a page made to have it, and nothing on a good one."""

import base64
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from probes import (
    barriers,
    clipped_cells,
    contrast,
    cut_formulas,
    figures_without_words,
    formulas,
    lifeless,
    lost_equation_links,
    marked_section,
    mute_formulas,
    on_a_phone,
    scrolling_formulas,
    search_boxes,
    settle,
    sheet_and_ink,
    sideways_scroll,
    squeezed_formulas,
    stale_marks,
    stranded_punctuation,
    unmarked_links,
    unreadable_figures,
)

pytestmark = pytest.mark.browser


def png(ground: tuple[int, ...], ink: tuple[int, ...]) -> bytes:
    """A picture of a few lines of ink on a ground, RGB or RGBA."""
    pixels = np.full((60, 80, len(ground)), ground, dtype=np.uint8)
    pixels[10:50:8, 10:70] = ink
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def figure(ground: tuple[int, ...], ink: tuple[int, ...], style: str = "") -> str:
    data = base64.b64encode(png(ground, ink)).decode()
    return f"<img alt='some lines of ink on paper' style='{style}' src='data:image/png;base64,{data}'>"


WHITE, BLACK, CLEAR = (255, 255, 255), (0, 0, 0), (0, 0, 0, 0)
HEAD = """<!DOCTYPE html><html lang='en'><head><title>A page</title><link rel='icon' href='data:,'>
<meta charset='utf-8'><meta name='viewport' content='width=device-width'>
<style>:root { color-scheme: light dark } a { color: CanvasText }</style></head>"""
SEARCH = "<input type='search' aria-label='Search'>"
SET = "<span class='math'><mjx-container><mjx-assistive-mml>x</mjx-assistive-mml></mjx-container></span>"
FAR = "<p style='height: 5000px'>far</p>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "empty.html").write_text(f"{HEAD}<body></body></html>")
    return folder


@pytest.fixture(scope="module")
def site(serve, folder) -> str:
    return serve(folder)


NUMBERS = itertools.count()


@pytest.fixture
def show(site, folder, open_page):
    """A function that writes the body of a page, and of others beside it, and opens the page."""

    def open_(body: str, scheme: str = "light", **others: str):
        for name, text in {"page.html": body, **others}.items():
            page = f"{HEAD}<body><main><article><h1>A page</h1>{text}</article></main></body></html>"
            (folder / name).write_text(page, "utf-8")
        page, log = open_page(f"{site}/empty.html", scheme, keep=True)
        page.goto("about:blank")  # so that nothing of the page before is still to come
        log.problems.clear()
        page.goto(f"{site}/page.html?{next(NUMBERS)}")  # not the page before, out of the cache
        settle(page)
        return page, log

    return open_


def test_a_good_page_has_no_problem(show):
    page, log = show(
        f"<p>It costs $5 or $6, see a_b and <code>$x_1$</code>. {SET}</p>{figure(WHITE, BLACK)}"
        f"<a href='#equation-a'>(1)</a>{FAR}<div id='equation-a'>{SET} here</div>{SEARCH}",
        "dark",
    )
    assert log.problems == []
    for probe in (
        formulas,
        sideways_scroll,
        cut_formulas,
        clipped_cells,
        figures_without_words,
        unreadable_figures,
        lost_equation_links,
        barriers,
    ):
        assert list(probe(page)) == [], probe.__name__
    assert len(search_boxes(page)) == 1


BAD_LOADING = [
    ("<img alt='' src='https://example.org/a.png'>", "a request leaves the page: https://example.org/a.png"),
    ("<script>fetch('http://example.org/')</script>", "a request leaves the page: http://example.org/"),
    ("<img alt='' src='missing.png'>", "404"),
    ("<img alt='' src='http://127.0.0.1:1/a.png'>", "a request fails: http://127.0.0.1:1/a.png"),
    ("<script>console.error('oh')</script>", "the console says: oh"),
    ("<script>nothing()</script>", "an uncaught error: nothing is not defined"),
    ("<script>Promise.reject(new Error('late'))</script>", "an uncaught error: late"),
]


@pytest.mark.parametrize(("body", "said"), BAD_LOADING)
def test_bad_loading_is_found(show, body, said):
    page, log = show(body)
    page.wait_for_load_state("networkidle")
    assert any(said in problem for problem in log.problems), log.problems


def test_bad_loading_is_found_in_a_context(show, site, open_page):
    show("", **{"bad.html": "".join(body for body, _ in BAD_LOADING)})
    page, log = open_page(f"{site}/bad.html")
    page.wait_for_load_state("networkidle")
    for _, said in BAD_LOADING:
        assert any(said in problem for problem in log.problems), (said, log.problems)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<span class='math'>\\(x\\)</span>", "a formula is not set"),
        ("<span class='math'><mjx-container><mjx-merror>?</mjx-merror></mjx-container></span>", "cannot read"),
        (SET.replace(">x<", ">\\nosuch<"), "does not know a command"),
        ("<p>So $x_t = 1$ holds.</p>", "TeX in the text: '$x_t = 1$'"),
        ("<p>So \\(x\\) holds.</p>", "TeX in the text"),
        ("<p>The \\frac of it.</p>", "TeX in the text: '\\\\frac'"),
        ("<p>$$</p>", "TeX in the text: '$$'"),
    ],
)
def test_unset_formulas_are_found(show, body, said):
    page, _ = show(body)
    assert any(said in problem for problem in formulas(page)), list(formulas(page))


@pytest.mark.parametrize(
    ("body", "machine", "wide"),
    [
        ("<div style='width: 600px'>wide</div>", True, True),
        ("<div style='overflow: auto'><div style='width: 600px'>scrolls in itself</div></div>", False, False),
        (f"<p>{'unbreakable' * 6}</p>", True, True),
        (f"<p>{'letters' * 5}</p>", False, True),  # 35 letters of 16 px: 381 px when they are wide
        (f"<p style='overflow-wrap: anywhere'>{'unbreakable' * 6}</p>", False, False),
    ],
)
def test_a_wide_page_is_found(show, body, machine, wide):
    page, _ = show(body)
    for letters, too_wide in ((False, machine), (True, wide), (False, machine)):
        with on_a_phone(page, letters):
            found = sideways_scroll(page)
        assert bool(found) is too_wide, found
        assert not found or body[:5] in found[0]  # and not what lies around it


@pytest.mark.parametrize(
    ("style", "cut"),
    [("", True), ("overflow: hidden; max-width: 100%", True), ("overflow: auto; max-width: 100%", False)],
)
@pytest.mark.parametrize("around", ["", "overflow: hidden"])
def test_cut_formulas_are_found(show, style, cut, around):
    formula = f"<mjx-container style='display: inline-flex; {style}'><mjx-math style='min-width: 600px'>x</mjx-math>"
    page, _ = show(f"<p style='{around}'>where <span class='math'>{formula}</mjx-container></span>.</p>")
    with on_a_phone(page):
        assert bool(cut_formulas(page)) is cut


@pytest.mark.parametrize(
    ("line", "formula", "squeezed"), [("500px", "30px", True), ("500px", "200px", False), ("80px", "30px", False)]
)
def test_squeezed_formulas_are_found(show, line, formula, squeezed):
    part = "<mjx-mi style='display: inline-block; width: 200px'>x</mjx-mi>"
    style = f"display: inline-block; overflow: auto; width: {formula}"
    formula = f"<mjx-container style='{style}'><mjx-math>{part}</mjx-math></mjx-container>"
    page, _ = show(f"<p style='width: {line}'>where {formula} holds</p>")
    assert bool(squeezed_formulas(page)) is squeezed


@pytest.mark.parametrize(
    ("style", "cell", "clipped"),
    [
        ("", "eta = 0.25", False),
        ("table-layout: fixed; width: 100px", "unbreakable", True),
        ("table-layout: fixed; width: 100px", "<div style='overflow: auto'>unbreakable</div>", False),
    ],
)
def test_clipped_cells_are_found(show, style, cell, clipped):
    page, _ = show(f"<table style='{style}'><tr><td>{cell}</td><td>1</td><td>2</td></tr></table>")
    assert bool(clipped_cells(page)) is clipped


@pytest.mark.parametrize(
    ("body", "stranded"),
    [
        ("<p>So <b>x</b>, and</p>", False),
        ("<p>So <b>x</b><br>, and</p>", True),
        ("<p>So <code>x<br></code><code>...</code></p>", False),
        ("<p>设 <b>x</b>，则</p>", False),
        *((f"<p>设 <b>x</b><br>{mark}则</p>", True) for mark in "。、」』\uff01\uff09\uff0c\uff1a\uff1b\uff1f"),
    ],
)
def test_stranded_punctuation_is_found(show, body, stranded):
    page, _ = show(body)
    assert bool(stranded_punctuation(page)) is stranded


@pytest.mark.parametrize(
    ("style", "said"),
    [
        ("overflow: auto", "scrolls without a cue"),
        ("overflow: auto; background: linear-gradient(red, red) local, linear-gradient(red, red) scroll", None),
        ("float: left; max-width: 50%; overflow: auto", "does not have the whole width"),
        ("float: left; max-width: 50%; overflow: auto", "has its number beside it"),
    ],
)
def test_mute_formulas_are_found(show, style, said):
    formula = f"<mjx-container style='display: block; {style}'><div style='width: 600px'>x</div></mjx-container>"
    page, _ = show(f"<div class='math'>{formula}<span class='eqno'>(1)</span></div>")
    with on_a_phone(page):
        assert len(scrolling_formulas(page)) == 1
        found = mute_formulas(page)
        assert any(said in problem for problem in found) if said else not found, found


@pytest.mark.parametrize(
    ("attributes", "values", "found"),
    [
        ("data-alive", "{}", []),
        ("", "{}", ["x, 375 wide", "x, 1400 wide"]),
        ("data-alive", "null", ["x, 375 wide", "x, 1400 wide"]),
        ("data-alive style='width: 600px'", "{}", ["x, 375 wide"]),
    ],
)
def test_lifeless_figures_are_found(show, attributes, values, found):
    script = f"<script>document.querySelector('.explore').values = {values}</script>"
    page, _ = show(f"<div class='explore' data-figure='x' {attributes}>x</div>{script}")
    assert lifeless(page) == found


@pytest.mark.parametrize("alt", ["", "../_images/a_plot of one thing.png", "figure", "two words"])
def test_figures_without_words_are_found(show, alt):
    page, _ = show(figure(WHITE, BLACK).replace("some lines of ink on paper", alt))
    assert list(figures_without_words(page))


@pytest.mark.parametrize(
    ("scheme", "body", "readable"),
    [
        ("light", figure(WHITE, BLACK), True),
        ("dark", figure(WHITE, BLACK), True),
        ("dark", figure(WHITE, BLACK, "filter: brightness(0.9)"), True),
        ("light", figure(CLEAR, (*BLACK, 255)), True),
        ("dark", figure(CLEAR, (*BLACK, 255)), False),  # black letters on the dark page
        ("dark", figure(CLEAR, (*BLACK, 255), "background: white"), True),
        ("dark", figure(WHITE, BLACK, "filter: invert(1)"), False),
        ("dark", f"<div style='filter: invert(1)'>{figure(BLACK, WHITE)}</div>", False),
        ("light", figure(WHITE, (200, 200, 200)), False),  # pale ink
        ("light", figure((40, 40, 40), BLACK), False),
    ],
)
def test_unreadable_figures_are_found(show, scheme, body, readable):
    page, _ = show(body, scheme)
    assert (list(unreadable_figures(page)) == []) is readable


def test_contrast_is_that_of_wcag():
    assert contrast(*sheet_and_ink(png(WHITE, BLACK))) == pytest.approx(21)
    assert contrast(*sheet_and_ink(png(WHITE, (118, 118, 118)))) == pytest.approx(
        4.54, abs=0.01
    )  # #767676, the classic


def test_search_boxes_are_counted_if_seen(show):
    page, _ = show(SEARCH * 2 + f"<div hidden>{SEARCH}</div><div style='visibility: hidden'>{SEARCH}</div>")
    assert len(search_boxes(page)) == 2


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("", "no such place"),
        ("<div id='equation-a'></div>", "nothing to see"),
        ("<div id='equation-a' style='position: fixed; top: -90px'>x</div>", "out of view"),
        (
            "<div style='position: fixed; top: 0; width: 100%; height: 60px; background: Canvas'>bar</div>"
            "<div id='equation-a'>x</div><p style='height: 5000px'>more</p>",
            "hidden behind",
        ),
    ],
)
def test_lost_links_are_found(show, target, said):
    page, _ = show(f"<a href='#equation-a'>(1)</a>{FAR}{target}")
    assert any(said in problem for problem in lost_equation_links(page)), list(lost_equation_links(page))


def test_what_other_pages_link_to_is_asked_for(show):
    page, _ = show(f"{FAR}<p id='equation-a'>x</p>{FAR}<p id='equation-b' style='position: fixed; top: -90px'>x</p>")
    out, gone = lost_equation_links(page, asked=["equation-a", "equation-b", "equation-c"])
    assert out.startswith("equation-b, from elsewhere: out of view")
    assert gone == "equation-c, from elsewhere: no such place"


def test_links_to_another_page_are_followed(show):
    links = "<a href='other.html#equation-a'>(1)</a> <a href='other.html#equation-b'>(2)</a>"
    page, _ = show(links, **{"other.html": f"{FAR}<div id='equation-a'>x</div>{FAR}"})
    problems = list(lost_equation_links(page))
    assert [problem.rsplit("#")[1] for problem in problems] == ["equation-b: no such place"]


def contents(one: str, two: str) -> str:
    """Two sections, and contents that mark them like this wherever the page is scrolled to."""
    links = f"<nav class='page-toc'><a href='#one' {one}>one</a> <a href='#two' {two}>two</a></nav>"
    return f"{links}{FAR}<section id='one'>one{FAR}</section><section id='two'>two{FAR}</section>"


MARK = "class='active' aria-current='true'"


@pytest.mark.parametrize(
    ("marks", "stale", "unmarked"),
    [
        ((MARK, ""), "the contents mark one, and two has come", "#two: the contents mark one"),
        (("", MARK), "the contents mark two, which is not reached", "#one: the contents mark two"),
        (("", ""), "the contents mark None, which is not reached", "#one: the contents mark None"),
    ],
)
def test_wrong_marks_in_the_contents_are_found(show, marks, stale, unmarked):
    page, _ = show(contents(*marks))
    assert any(stale in problem for problem in stale_marks(page))
    assert unmarked in list(unmarked_links(page))


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        (("class='active'", ""), r"\(\['one'\], \[\]\)"),
        (("", "aria-current='true'"), r"\(\[\], \['two'\]\)"),
        ((MARK, MARK), r"\['one', 'two'\]"),
    ],
)
def test_marks_that_contradict_each_other_are_found(show, marks, said):
    page, _ = show(contents(*marks))
    with pytest.raises(AssertionError, match=said):
        marked_section(page)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (figure(WHITE, BLACK).replace("alt=", "title="), "image-alt"),
        ("<p style='color: #999; background: #fff'>pale</p>", "color-contrast"),
        ("<input type='text'>", "label"),
        ("<a href='#x'></a>", "link-name"),
    ],
)
def test_barriers_are_found(show, body, rule):
    page, _ = show(body)
    # axe counts a missing title on a picture as described, so the title must go as well
    if rule == "image-alt":
        page.evaluate("document.querySelector('img').removeAttribute('title')")
    assert any(f"({rule})" in problem for problem in barriers(page)), list(barriers(page))
    assert any(f"({rule})" in problem for problem in barriers(page, code=False))
    colours = [problem for problem in barriers(page, colours_only=True) if f"({rule})" in problem]
    assert bool(colours) is (rule == "color-contrast")
    others = [problem for problem in barriers(page, colours=False) if f"({rule})" in problem]
    assert bool(others) is (rule != "color-contrast")
