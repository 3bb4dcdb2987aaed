"""Which pages the book has, from _toc.yml, and where they are built."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"


def _files(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("root", "file"):
                yield value
            else:
                yield from _files(value)
    elif isinstance(node, list):
        for item in node:
            yield from _files(item)


PAGES = list(_files(yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))))  # such as book/01-forward


def source(page: str) -> Path:
    """A page's source: a notebook or a Markdown file."""
    return next(path for kind in ("ipynb", "md") if (path := ROOT / f"{page}.{kind}").is_file())


def built(page: str) -> Path:
    return HTML / f"{page}.html"


# the pages with figures that move
LIVE = [page for page in PAGES if built(page).is_file() and '<div class="explore"' in built(page).read_text("utf-8")]
