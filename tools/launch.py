"""Sphinx extension: the launch buttons of a chapter open its export on the branch `live` (tools/live.py).

The theme has one branch for all its buttons. Those that show or edit the source stay where they are.
"""

import re
from typing import Any

from sphinx.application import Sphinx

from diffnotes.book.ledger import DEEPER

LIVE = "live"


def on_live(address: str, repository: str, branch: str) -> str:
    """The address of a launch button with `live` for the branch: on Colab, on Binder, in a JupyterHub."""
    return re.sub(rf"(/blob/|/{repository}/|[?&]branch=){branch}(?=[/?&]|$)", rf"\1{LIVE}", address, count=1)


def launch(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Change the buttons of a page, if it is exported: the core page or the deeper page of a chapter."""
    if not app.env.toc_secnumbers.get(pagename.removesuffix(DEEPER)):  # chapters are numbered, other pages are not
        return
    options = app.config.html_theme_options
    repository = options["repository_url"].rsplit("/", 1)[-1]
    for group in context.get("header_buttons", []):
        if group.get("label") == "launch-buttons":
            for button in group["buttons"]:
                button["url"] = on_live(button["url"], repository, options["repository_branch"])
                if app.config.language == "zh_CN":
                    button["url"] = button["url"].replace(pagename, pagename.replace("book/", "book/zh/"))


def setup(app: Sphinx) -> dict[str, Any]:
    """For Sphinx: after the theme's own buttons, which come at 501."""
    app.connect("html-page-context", launch, priority=502)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
