"""The built files, read without a browser: dead links, requests to come, and weight."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from site_map import HTML, PAGES, built, source

MOST_BYTES = 3_000_000
ASKS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}

needs_the_book = pytest.mark.skipif(
    not (HTML / "index.html").is_file(), reason=f"needs the built book, and {HTML} is not there: make book"
)


def parse(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


def dead_links(folder: Path) -> list[str]:
    """Links within a built site to a file or a place that it does not have."""
    pages = {path: parse(path) for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts}
    places = {path: {e.get("id") or e.get("name") for e in soup.find_all(True)} for path, soup in pages.items()}
    problems = []
    for path, soup in pages.items():
        for element in soup.find_all(["a", "link", "img", "script", "source"]):
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
    soup = parse(path)
    asked = [element.get(key) or "" for tag, key in ASKS.items() for element in soup.find_all(tag)]
    kinds = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect"}
    asked += [e.get("href") or "" for e in soup.find_all("link") if kinds & set(e.get("rel") or [])]
    return [address for address in asked if urlsplit(address).netloc]


def weight(path: Path) -> int:
    """The bytes of a page and of its own pictures."""
    pictures = {urlsplit(e["src"]).path for e in parse(path).find_all("img", src=True)}
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


# ---- and these find what they look for ------------------------------------------------------------------------


def page(body: str) -> str:
    return f"<!DOCTYPE html><html lang='en'><head><title>T</title></head><body>{body}</body></html>"


def test_dead_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text(page("<a href='b.html#here'></a><a href='#top'></a><p id='top'></p>"))
    (tmp_path / "b.html").write_text(page("<p id='here'></p><a href='https://x.org/none'></a>"))
    assert dead_links(tmp_path) == []
    (tmp_path / "b.html").write_text(page("<p id='there'></p><img src='c.png'>"))
    assert dead_links(tmp_path) == ["a.html: no place for b.html#here", "b.html: no file for c.png"]


def test_requests_to_come_are_found(tmp_path):
    path = tmp_path / "a.html"
    path.write_text(page("<a href='https://x.org'></a><img src='a.png'><script src='/b.js'></script>"))
    assert requests_to_come(path) == []
    path.write_text(page("<script src='https://x.org/b.js'></script><link rel='stylesheet' href='//x.org/c.css'>"))
    assert requests_to_come(path) == ["https://x.org/b.js", "//x.org/c.css"]


def test_pictures_weigh(tmp_path):
    path = tmp_path / "a.html"
    path.write_text(page("<img src='a.png'><img src='a.png'>"))
    (tmp_path / "a.png").write_bytes(b"x" * 1000)
    assert weight(path) == path.stat().st_size + 1000
