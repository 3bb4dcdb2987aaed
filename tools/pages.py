"""Sphinx extension: what the pages have beside their text.

- The line below a title that says how long the page takes is set as a strip.
- A core page ends with two ways on: the next chapter, and its deeper page. A deeper page has no section number.
- Only pages with a figure that moves load the figures' code, and the search page can set formulas.
- The printed book lies beside the pages, and is linked, if it has been printed (`make pdf`).
- No button leads to an account that is not known yet (`make account`).
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform

from diffnotes.book.explore import SCRIPTS, STYLE
from diffnotes.book.ledger import DEEPER

ROOT = Path(__file__).resolve().parent.parent
ON_PAPER = re.compile(r"<!-- printed: (.*?)\[(.*?)\]\(PDF\)(.*?) -->")


def printed(app: Sphinx) -> Path:
    """Where the printed book lies, in the language of the pages."""
    return ROOT / "_build" / f"from-ddpm-to-ddim{'-zh' * (app.config.language == 'zh_CN')}.pdf"


class Orientation(SphinxTransform):
    """Mark the first paragraph of a page if it is one line in italics, its parts between dots."""

    default_priority = 400

    def apply(self, **_: Any) -> None:
        """In one document."""
        for first in self.document.findall(nodes.paragraph):
            if len(first) == 1 and isinstance(first[0], nodes.emphasis) and " · " in first.astext():
                first["classes"].append("orientation")
                first[:] = first[0].children
            return


def without_account(app: Sphinx, config: Config) -> None:
    """No launch or repository button while the account is a placeholder."""
    options = config.html_theme_options
    if "<" in options.get("repository_url", ""):
        options |= {"launch_buttons": {}, "use_repository_button": False, "repository_url": ""}


def unnumber_deeper(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """A deeper page would have the number of its chapter's next section. Its equations keep theirs."""
    for name in env.all_docs:
        if name.endswith(DEEPER):
            env.toc_secnumbers.pop(name, None)
            for node in (env.titles[name], *env.tocs[name].findall(nodes.reference)):
                node.attributes.pop("secnumber", None)
    return []


def complete(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Before a page is written."""
    builder: Any = app.builder
    if builder.name != "html":  # printed: a figure that moves is its static picture
        return
    body = context.get("body", "")
    if '<div class="explore"' in body:
        builder.add_css_file(STYLE)
        for script in SCRIPTS:
            builder.add_js_file(script)
    if name == "search":
        builder.add_js_file("", body=f"window.MathJax = {json.dumps(app.config.mathjax3_config)}")
        builder.add_js_file(app.config.mathjax_path, defer="defer")
    if doctree is None:  # no page of the book
        return

    def to(page: str) -> dict[str, str]:
        title = builder.render_partial(app.env.titles[page])["title"]
        return {"link": builder.get_relative_uri(name, page), "title": title}

    _, before, after = builder.relations[name]
    if before and before.endswith(DEEPER):
        context["prev"] = to(before.removesuffix(DEEPER))
    if after == name + DEEPER:
        deeper, context["next"] = to(after), to(builder.relations[after][2])
        body += '<p class="deeper"><a href="{link}">{title}</a></p>'.format(**deeper)
    pdf = printed(app)
    link = rf'<p>\1<a href="{"../" * name.count("/")}{pdf.name}">\2</a>\3</p>' if pdf.is_file() else ""
    context["body"] = ON_PAPER.sub(link, body)


def add_printed(app: Sphinx, failed: Exception | None) -> None:
    """Put the printed book beside the pages."""
    if app.builder.name == "html" and printed(app).is_file() and not failed:
        shutil.copy(printed(app), app.outdir)


def setup(app: Sphinx) -> dict[str, Any]:
    """For Sphinx."""
    app.add_transform(Orientation)
    app.connect("config-inited", without_account, 900)  # after Jupyter Book has set the theme's options
    app.connect("env-get-updated", unnumber_deeper, 900)  # after all numbers have been given
    app.connect("html-page-context", complete)
    app.connect("build-finished", add_printed)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
