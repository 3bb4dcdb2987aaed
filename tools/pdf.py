"""The whole book as one PDF: `python tools/pdf.py [--zh]`, after `make book`. Needs a Chromium.

`--zh` prints the Chinese edition, for which a font with Chinese letters is needed (on Debian, fonts-noto-cjk).

Sphinx joins all pages into one (with its singlehtml builder); Chromium sets the formulas and prints it. Equation
numbers, links between chapters and the outline are kept.
"""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# Hide what only a screen needs; of an animation, show one frame.
PRINT = """
.bd-sidebar-primary, .bd-sidebar-secondary, .bd-header, .bd-header-article, .header-article, .prev-next-area,
.bd-footer, .bd-footer-content, .headerlink, .copybtn, .skip-link, #pst-skip-link, .pst-scroll-pixel-helper,
.anim-controls, button.enlarge, .back-to-top, #pst-back-to-top {
    display: none !important;
}
.bd-container, .bd-container__inner, .bd-content, .bd-main, .bd-article-container, .bd-article, .bd-page-width {
    display: block !important; max-width: none !important; width: auto !important;
    padding: 0 !important; margin: 0 !important;
}
[id^="document-"] + section { break-before: page; } /* every chapter, every page of reference */
.bd-article { font-size: 10.5pt; line-height: 1.45; }
.bd-article h1, .bd-article h2, .bd-article h3 { break-after: avoid; }
.bd-article div.math, figure, img, tr, .cell_output, .player { break-inside: avoid; }
.bd-article div.math mjx-container[display="true"] { overflow: visible !important; }
.bd-article pre { white-space: pre-wrap !important; font-size: 8pt; }
.bd-article table { font-size: 9pt; }
"""
READY = """async () => {
    document.documentElement.dataset.theme = document.documentElement.dataset.mode = 'light';
    document.querySelectorAll('details').forEach(d => { d.open = true });
    document.querySelectorAll('img[loading]').forEach(i => i.removeAttribute('loading'));
    await MathJax.startup.promise;
    await Promise.all([...document.images].map(i => i.decode().catch(() => null)));
    await document.fonts.ready;
}"""
FOOTER = """<div style="width: 100%; font-size: 8px; text-align: center; color: #555">
    <span class="pageNumber"></span></div>"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def print_page(folder: Path, target: Path, browser: str) -> None:
    """Print `folder`/index.html to `target`."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=browser, args=["--disable-gpu", *root])
        page = chromium.new_page(viewport={"width": 1000, "height": 1400})
        page.set_default_timeout(600_000)
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html", wait_until="load")
        page.add_style_tag(content=PRINT)
        page.evaluate(READY)
        page.emulate_media(media="print", color_scheme="light")
        page.pdf(
            path=target,
            format="A4",
            margin={"top": "18mm", "bottom": "18mm", "left": "18mm", "right": "18mm"},
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER,
            print_background=True,
            outline=True,
            tagged=True,
        )
        chromium.close()
    server.shutdown()


def main(chinese: bool) -> None:
    """Build the single page, print it, and say where it is."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"printing needs a Chromium: none of {', '.join(BROWSERS)} is installed")
    if chinese and not subprocess.run(["fc-list", ":lang=zh"], check=True, capture_output=True).stdout:
        sys.exit("printing Chinese needs a font with Chinese letters (on Debian, fonts-noto-cjk)")
    source = BUILD / "zh" if chinese else ROOT
    built, target = source / "_build" / "singlehtml", BUILD / f"from-ddpm-to-ddim{'-zh' * chinese}.pdf"
    command = [str(Path(sys.executable).parent / "jupyter-book"), "build", ".", "--builder", "singlehtml"]
    subprocess.run(command, cwd=source, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    shutil.copy(built / "book" / "index.html", built)  # its links to scripts and pictures start there
    print_page(built, target, browser)
    print(f"{target}: {target.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--zh"]):
        sys.exit(f"usage: python tools/pdf.py [--zh], got {' '.join(sys.argv[1:])}")
    main(bool(sys.argv[1:]))
