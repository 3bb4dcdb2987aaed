"""The built book on a loopback server, and a browser that can reach nothing else."""

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from probes import LOOPBACK, WIDE, Log, at_rest, settle
from site_map import HTML

MOST_KEPT = 15  # of the pages that are open at a time
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {"needs a Chromium, and none of chromium, chromium-browser, google-chrome is installed": CHROMIUM is None}
    unbuilt = f"needs the built book, and {HTML} is not there: make book"
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.allow_hosts([LOOPBACK]))
            needs_book = "site" in getattr(item, "fixturenames", ())
            for reason, holds in {**reasons, unbuilt: needs_book and not (HTML / "index.html").is_file()}.items():
                if holds:
                    item.add_marker(pytest.mark.skip(reason=reason))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Path], str]]:
    """A function that serves a folder on loopback and returns its address."""
    servers = []

    def start(folder: Path) -> str:
        server = http.server.ThreadingHTTPServer((LOOPBACK, 0), functools.partial(_Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://{LOOPBACK}:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def site(serve: Callable[[Path], str]) -> str:
    """The address of the built book."""
    return serve(HTML)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    # Without these flags Chromium itself asks hosts outside, which has nothing to do with the page.
    alone = [f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {LOOPBACK}"]
    quiet = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=alone + quiet + root)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def kept(browser: Browser) -> Iterator[dict[str, tuple[Page, Log]]]:
    """The pages that tests share, by their addresses, as long as they only look: the last few."""
    pages: dict[str, tuple[Page, Log]] = {}
    yield pages
    for page, _ in pages.values():
        page.close()


@pytest.fixture(scope="session")
def shared(browser: Browser) -> Iterator[BrowserContext]:
    """The context of the pages that are kept: what one has loaded, the others have in the cache."""
    context = browser.new_context(viewport=WIDE, service_workers="block")
    yield context
    context.close()


@pytest.fixture
def open_page(browser: Browser, shared: BrowserContext, kept: dict) -> Iterator[Callable[..., tuple[Page, Log]]]:
    """A function that opens an address in a fresh context and waits until the page has settled.

    With `keep=True` a page that was opened before is given again, wide, and turned dark or light.
    """
    own = []

    def go(address: str, scheme: str = "light", keep: bool = False) -> tuple[Page, Log]:
        if keep and address in kept:
            page, log = kept[address]
            page.bring_to_front()  # behind another one it would be drawn once a second
            page.set_viewport_size(WIDE)
            if page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") != (scheme == "dark"):
                page.emulate_media(color_scheme=scheme)
                at_rest(page)  # colours fade into each other
                page.wait_for_function("document.getAnimations().every(animation => animation.playState !== 'running')")
            return page, log
        while len(kept) >= MOST_KEPT:
            kept.pop(next(iter(kept)))[0].close()
        context = shared
        if not keep:
            context = browser.new_context(viewport=WIDE, service_workers="block")
            own.append(context)
        context.set_default_timeout(120_000)  # a busy machine
        page = context.new_page()
        log = Log(page if keep else context)
        page.emulate_media(color_scheme=scheme)
        page.goto(address)
        settle(page)
        if keep:
            kept[address] = page, log
        return page, log

    yield go
    for context in own:
        context.close()
