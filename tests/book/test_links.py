"""The built files, read without a browser: links, ways on, requests to come, and weight."""

import ast
import re
import textwrap
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from site_map import HTML, PAGES, ROOT, built, source

from diffnotes.book.explore import SCRIPTS, STYLE

MOST_BYTES = 3_000_000
ASKS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}

needs_the_book = pytest.mark.skipif(
    not (HTML / "index.html").is_file(), reason=f"needs the built book, and {HTML} is not there: make book"
)


def parse(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


class Elements(HTMLParser):
    """The elements that lead somewhere or can be led to, and figures that move, each with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        own = {name: value or "" for name, value in attributes}
        if {"id", "name", "href", "src", "data-figure"} & own.keys():
            self.found.append((tag, own))


def elements(path: Path) -> list[tuple[str, dict[str, str]]]:
    return _elements(path, path.stat().st_mtime_ns)


@cache
def _elements(path: Path, _: int) -> list[tuple[str, dict[str, str]]]:
    parser = Elements()
    parser.feed(path.read_text("utf-8"))
    return parser.found


def dead_links(folder: Path) -> list[str]:
    """Links within a built site to a file or a place that it does not have."""
    pages = {path: elements(path) for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts}
    places = {path: {e.get("id") or e.get("name") for _, e in found} for path, found in pages.items()}
    problems = []
    for path, found in pages.items():
        for element in [e for tag, e in found if tag in ("a", "link", "img", "script", "source")]:
            link = element.get("href") or element.get("src")
            parts = urlsplit(link or "")
            if not link or parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            if not target.is_file():
                problems.append(f"{path.relative_to(folder)}: no file for {link}")
            elif place and target in places and place not in places[target]:
                problems.append(f"{path.relative_to(folder)}: no place for {link}")
    return problems


def requests_to_come(path: Path) -> list[str]:
    """What a page would fetch from another host when it loads."""
    asked = [e.get(ASKS[tag], "") for tag, e in elements(path) if tag in ASKS]
    kinds = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect"}
    asked += [e.get("href", "") for tag, e in elements(path) if tag == "link" and kinds & {*e.get("rel", "").split()}]
    return [address for address in asked if urlsplit(address).netloc]


def weight(path: Path) -> int:
    """The bytes of a page and of its own pictures."""
    addresses = {urlsplit(e["src"]) for tag, e in elements(path) if tag == "img" and "src" in e}
    pictures = {address.path for address in addresses if address.scheme != "data"}  # those are in the page itself
    files = [(path.parent / unquote(p)).resolve() for p in pictures if p]
    return path.stat().st_size + sum(file.stat().st_size for file in files if file.is_file())


@needs_the_book
def test_every_page_is_built_and_not_older_than_its_source():
    for name in PAGES:
        assert built(name).is_file(), f"{name} is not built"
        assert built(name).stat().st_mtime >= source(name).stat().st_mtime, f"{name} has changed: make book"


@needs_the_book
def test_no_link_is_dead():
    problems = dead_links(HTML)
    assert not problems, "\n".join(problems)


@needs_the_book
def test_no_page_asks_another_host():
    problems = [f"{path.name}: {asked}" for path in HTML.rglob("*.html") for asked in requests_to_come(path)]
    assert not problems, "\n".join(problems)


@needs_the_book
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_light(name):
    assert weight(built(name)) <= MOST_BYTES


def addresses_of_nobody(path: Path) -> list[str]:
    """Links to the placeholder for an account that is not known yet."""
    links = [e["href"] for tag, e in elements(path) if tag == "a" and "href" in e]
    return [link for link in links if re.search("<|%3c|&lt;", link, re.IGNORECASE)]


@needs_the_book
def test_no_button_leads_to_the_placeholder():
    problems = [f"{path.name}: {found}" for path in HTML.rglob("*.html") for found in addresses_of_nobody(path)]
    assert not problems, "\n".join(problems)


def sets_up(path: Path) -> bool:
    """Whether a page shows the cell that sets up a fresh machine."""
    return "find_spec" in re.sub("<[^>]*>", "", path.read_text("utf-8"))


@needs_the_book
def test_no_page_shows_how_a_fresh_machine_is_set_up():
    assert not [page for name in PAGES for page in (name, f"zh/{name}") if sets_up(built(page))]


@needs_the_book
@pytest.mark.parametrize("name", [*PAGES, "search"])
def test_only_pages_with_a_figure_that_moves_load_its_code(name):
    loaded = [e.get("src") or e.get("href") for tag, e in elements(built(name)) if tag in ("script", "link")]
    loaded = [Path(urlsplit(address).path).name for address in loaded if address]
    moving = any("data-figure" in e for _, e in elements(built(name)))
    assert [file for file in loaded if file in SCRIPTS] == list(SCRIPTS if moving else ())
    assert (STYLE in loaded) is moving


def markup_left(path: Path) -> list[str]:
    """Words that were meant to stand out, and stand between asterisks instead."""
    bare = re.sub(r"(?s)<(pre|code|script|style|dt)\b.*?</\1>", "", path.read_text("utf-8"))
    text = re.sub("<[^>]*>", "", bare)
    return [found[0] for found in re.finditer(r"\*\*[^\s*][^*\n]*\*\*|(?<![\w*])\*[A-Za-z][^*\n]*\*(?!\w)", text)]


@needs_the_book
@pytest.mark.parametrize("name", [f"{edition}{page}" for edition in ("", "zh/") for page in PAGES])
def test_no_markup_is_left_in_the_text(name):
    assert not markup_left(built(name))


# ---- ways through the book ------------------------------------------------------------------------------------------

CORE = [name for name in PAGES if f"{name}-deeper" in PAGES]


def ways(name: str) -> dict[str, str | None]:
    """Where the foot of a page leads, by the class of the link."""
    soup = parse(built(name))
    found = {kind: soup.select_one(f"a.{kind}-{side}") for kind, side in (("left", "prev"), ("right", "next"))}
    found["deeper"] = soup.select_one("p.deeper a")
    return {kind: link["href"].removesuffix(".html") if link else None for kind, link in found.items()}


@needs_the_book
@pytest.mark.parametrize("name", CORE)
def test_a_core_page_leads_to_the_next_chapter_and_deeper(name):
    i = CORE.index(name)
    around = ["index", *(core.removeprefix("book/") for core in CORE), "stuck"]
    before, here, after = around[i : i + 3]
    assert ways(name) == {"left": before, "right": after, "deeper": f"{here}-deeper"}
    assert ways(f"{name}-deeper") == {"left": here, "right": after, "deeper": None}


@needs_the_book
@pytest.mark.parametrize("name", CORE)
def test_the_side_shows_each_chapter_with_its_deeper_page_within(name):
    """Of the chapter that is read they are seen, of the others one arrow away; and they have no number of a section."""
    chapters = parse(built(name)).select("nav.bd-links li.toctree-l1:has(> details)")
    assert len(chapters) == len(CORE)
    for chapter, core in zip(chapters, CORE, strict=True):
        (deeper,) = chapter.select("li.toctree-l2 a")
        assert deeper["href"] == f"{core}-deeper.html".removeprefix("book/")
        assert re.match("[A-Z]", deeper.get_text())
        assert chapter.details.has_attr("open") is (core == name)


@needs_the_book
@pytest.mark.parametrize("name", [page for core in CORE for page in (core, f"{core}-deeper")])
def test_a_page_says_first_how_long_it_takes(name):
    line = parse(built(name)).select_one("article h1 + p.orientation")
    assert line, "no line below the title"
    assert re.match(r"About \d+ minutes · \d+ checked equations", line.get_text())
    assert not line.find("em", recursive=False)


@needs_the_book
def test_the_printed_book_is_linked_where_it_lies_beside_the_pages():
    link = parse(built("book/index")).select_one("article a[href$='.pdf']")
    assert (link is not None) is bool(list(HTML.glob("*.pdf")))


# ---- the package's reference ----------------------------------------------------------------------------------------


def set_in(docstring: str) -> list[str]:
    """The blocks of a docstring that are indented after an empty line: commands, lists of files."""
    blocks = re.findall(r"(?m)^\S.*\n\n((?:    .*\n|\n(?=    ))+)", f"{docstring}\n")
    return [textwrap.dedent(block).strip() for block in blocks if ">>>" not in block]


@needs_the_book
def test_commands_in_docstrings_are_shown_line_by_line():
    soup = parse(built("book/api"))
    shown = [pre.get_text().strip() for pre in soup.find_all("pre")]
    expected = [
        block
        for path in sorted((ROOT / "diffnotes").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Module)
        for block in set_in(ast.get_docstring(node) or "")
        if path.stem not in ("__init__", "__main__")
    ]
    assert len(expected) >= 3
    for block in expected:
        assert block in shown, block
    assert not re.findall(r"\s–\w+", soup.article.get_text())  # what was an option's two hyphens


# ---- and these find what they look for ------------------------------------------------------------------------


def page(body: str) -> str:
    return f"<!DOCTYPE html><html lang='en'><head><title>T</title></head><body>{body}</body></html>"


def test_dead_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text(page("<a href='b.html#here'></a><a href='#top'></a><p id='top'></p>"))
    (tmp_path / "b.html").write_text(page("<p id='here'></p><a href='https://x.org/none'></a>"))
    assert dead_links(tmp_path) == []
    (tmp_path / "b.html").write_text(page("<p id='there'></p><img src='c.png'>"))
    assert dead_links(tmp_path) == ["a.html: no place for b.html#here", "b.html: no file for c.png"]


def test_what_sets_up_a_machine_is_found(tmp_path):
    path = tmp_path / "a.html"
    path.write_text(page('<pre><span class="n">importlib.util</span><span class="o">.</span>find_<b>spec</b></pre>'))
    assert sets_up(path)
    path.write_text(page("<pre find_spec=''><span class='kn'>import</span> torch</pre>"))
    assert not sets_up(path)


def test_markup_that_is_left_is_found(tmp_path):
    path = tmp_path / "a.html"
    path.write_text(page("<p>2 * 3 * 4, 2**-53, <code>**options</code> and <em>words</em></p>"))
    assert not markup_left(path)
    path.write_text(page("<p>**第一次？**从这里；a *noise predictor* is any</p>"))
    assert markup_left(path) == ["**第一次？**", "*noise predictor*"]


def test_addresses_of_nobody_are_found(tmp_path):
    path = tmp_path / "a.html"
    for address in ("https://github.com/<account>/x", "https://colab.org/%3Caccount%3E", "//x/&lt;account&gt;"):
        path.write_text(page(f'<a href="{address}">x</a>'))
        assert addresses_of_nobody(path), address
    path.write_text(page("<a href='https://github.com/me'>&lt;x&gt;</a>"))
    assert not addresses_of_nobody(path)


def test_requests_to_come_are_found(tmp_path):
    path = tmp_path / "a.html"
    path.write_text(page("<a href='https://x.org'></a><img src='a.png'><script src='/b.js'></script>"))
    assert requests_to_come(path) == []
    path.write_text(page("<script src='https://x.org/b.js'></script><link rel='stylesheet' href='//x.org/c.css'>"))
    assert requests_to_come(path) == ["https://x.org/b.js", "//x.org/c.css"]


def test_pictures_weigh(tmp_path):
    path = tmp_path / "a.html"
    path.write_text(page(f"<img src='a.png'><img src='a.png'><img src='data:image/png;base64,{'A' * 5000}'>"))
    (tmp_path / "a.png").write_bytes(b"x" * 1000)
    assert weight(path) == path.stat().st_size + 1000
