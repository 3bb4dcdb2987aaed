"""The Chinese edition: its sources, and its place in _build/html/zh. (tools/book.py builds both.)

A page of it is the translation in book/zh with the outputs and figures of its English twin. It is a Sphinx extension
too, for both: a section has the id that it has in English, and each page has a link to its twin, at the same section.
"""

import filecmp
import functools
import html
import itertools
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from markdown_it import MarkdownIt
from mdit_py_plugins.anchors.index import slugify
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "_build" / "html"
SOURCE = ROOT / "_build" / "zh"
ANCHORS = SOURCE / "anchors.json"  # "slugs": of each Chinese heading; "ids": of the sections of each page, in order
CAPTIONS = {"Chapters": "正文", "Reference": "参考"}


# ---- the sources, and building them ---------------------------------------------------------------------------------


def prepare() -> None:
    """Write what Jupyter Book needs into _build/zh: pages, contents, configuration, anchors."""
    from tools.translation import COMMENT, twins  # not where Sphinx imports this as an extension

    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "book", SOURCE / "book", ignore=shutil.ignore_patterns("zh", "*.ipynb", "*.md"))
    slugs: dict[str, str] = {}
    ids: dict[str, list[str]] = {}
    for english, chinese in twins(ROOT):
        if english.parent != ROOT / "book":
            continue
        if english.suffix == ".ipynb":
            page = json.dumps(merged(english, chinese), ensure_ascii=False)
        else:
            page = COMMENT.sub("", (chinese if chinese.exists() else english).read_text("utf-8"))
            page = page.replace("](../images/", "](images/")
        (SOURCE / "book" / english.name).write_text(page, "utf-8")
        for title, anchor in zip(titles(SOURCE / "book" / english.name), map(slugify, titles(english)), strict=False):
            if slugs.setdefault(title, anchor) != anchor:
                raise ValueError(f"{chinese.name}: the heading {title!r} stands for {anchor} and for {slugs[title]}")
        ids[f"book/{english.stem}"] = section_ids(titles(english))
    ANCHORS.write_text(json.dumps({"slugs": slugs, "ids": ids}, ensure_ascii=False), "utf-8")
    (SOURCE / "terms.txt").write_text("\n".join(f"{term} 1000" for term in terms()), "utf-8")
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    for part in toc["parts"]:
        part["caption"] = CAPTIONS.get(part["caption"], part["caption"])
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    for name, content in {"_toc.yml": toc, "_config.yml": in_chinese(config)}.items():
        (SOURCE / name).write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), "utf-8")


def terms() -> list[str]:
    """The Chinese terms of the glossary, which the search is to keep whole."""
    text = (ROOT / "book" / "glossary.md").read_text("utf-8")
    names = re.findall(r'<span lang="zh-Hans">([^<]+)</span>', text)
    return sorted({term for name in names for term in re.findall("[\u4e00-\u9fff]+", name)})


def merged(english: Path, chinese: Path) -> dict[str, Any]:
    """A notebook with the words of the Chinese one, and the outputs of the English one."""
    notebook: dict[str, Any] = json.loads(english.read_text("utf-8"))
    if not chinese.exists():
        return notebook
    words = {cell["id"]: cell for cell in json.loads(chinese.read_text("utf-8"))["cells"]}
    for cell in notebook["cells"]:
        other = words.get(cell["id"])
        if other is None:
            continue
        if cell["cell_type"] == "markdown":
            cell["source"] = "".join(other["source"]).replace("](../images/", "](images/")
            continue
        cell["metadata"] = {key: value for key, value in other["metadata"].items() if key in ("mystnb", "tags")}
        alt = other["metadata"].get("mystnb", {}).get("image", {}).get("alt")
        for output in cell["outputs"]:
            page = "".join(output.get("data", {}).get("text/html", ""))
            if alt and "<img" in page:
                output["data"]["text/html"] = re.sub(
                    r'alt="[^"]*"', f'alt="{html.escape(alt)}"'.replace("\\", r"\\"), page, count=1
                )
    return notebook


def titles(path: Path) -> list[str]:
    """The headings of a page, as MyST reads them for their anchors."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text("utf-8"))["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    else:
        text = path.read_text("utf-8")
    tokens = MarkdownIt().parse(text)
    inline = [after for token, after in itertools.pairwise(tokens) if token.type == "heading_open"]
    return ["".join(c.content for c in t.children or [] if c.type in ("text", "code_inline")) for t in inline]


def in_chinese(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the Chinese edition: the English one in another language, one folder further down."""
    config["title"] = "从 DDPM 到 DDIM"
    config["author"] = "diffnotes 作者"
    config["html"]["extra_footer"] = "文字与图片采用 CC BY 4.0 许可，代码采用 MIT 许可。"
    config["html"]["favicon"] = str(ROOT / config["html"]["favicon"])
    sphinx = config["sphinx"]
    sphinx["local_extensions"] = {name: str(ROOT / folder) for name, folder in sphinx["local_extensions"].items()}
    own = sphinx["config"]
    own["language"] = "zh_CN"
    own["html_search_options"] = {"dict": str(SOURCE / "terms.txt")}
    own["math_eqref_format"] = "式 ({number})"
    own["nb_code_prompt_show"], own["nb_code_prompt_hide"] = "▸ 代码", "▾ 代码"
    own["html_theme_options"]["search_bar_text"] = "搜索本书"
    own["html_static_path"] = [str(ROOT / folder) for folder in own["html_static_path"]]
    own["html_search_scorer"] = str(ROOT / own["html_search_scorer"])
    own["myst_heading_slug_func"] = "chinese.slug"
    return config


def section_ids(titles: Sequence[str]) -> list[str]:
    """The ids that docutils gives to sections with these titles."""
    ids: list[str] = []
    numbers = itertools.count(1)
    for title in titles:
        wanted = nodes.make_id(nodes.fully_normalize_name(title))
        ids.append(wanted if wanted and wanted not in ids else f"id{next(numbers)}")
    return ids


def lay_beside() -> None:
    """Lay what was built beside the English pages; what is the same file is stored once."""
    made, target = SOURCE / "_build" / "html", BUILT / "zh"
    shutil.rmtree(target, ignore_errors=True)

    def copy(source: str, destination: str) -> None:
        same = BUILT / Path(source).relative_to(made)
        if same.exists() and filecmp.cmp(source, same, shallow=False):
            os.link(same, destination)
        else:
            shutil.copy2(source, destination)

    shutil.copytree(made, target, copy_function=copy)


# ---- the Sphinx extension -------------------------------------------------------------------------------------------


@functools.cache
def anchors() -> dict[str, Any]:
    """What `prepare` wrote, read once in a build."""
    return json.loads(ANCHORS.read_text("utf-8"))  # type: ignore[no-any-return]


def slug(title: str) -> str:
    """The anchor of a Chinese heading: that of the English one."""
    return str(anchors()["slugs"].get(title) or slugify(title))


class SameSections(SphinxTransform):
    """Give each section of a Chinese page the id that it has in English."""

    default_priority = 300

    def apply(self, **_: Any) -> None:
        if self.config.language != "zh_CN":
            return
        ids = anchors()["ids"].get(self.env.docname, [])
        found = list(self.document.findall(nodes.section))
        if len(found) == len(ids):
            for section, identity in zip(found, ids, strict=True):
                if identity not in section["ids"]:
                    section["ids"].insert(0, identity)
                    self.document.ids[identity] = section


def link_to_twin(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """A button to the same page in the other language; book.js adds the section in view."""
    if not pagename.startswith("book/") or doctree is None:
        return
    up = "../" * pagename.count("/")
    if app.config.language == "zh_CN":
        url, text, tip = f"{up}../{pagename}.html", "English", "This page in English"
    else:
        url, text, tip = f"{up}zh/{pagename}.html", "中文", "本页的中文版"
    button = {"type": "link", "url": url, "text": text, "tooltip": tip, "classes": "twin"}
    context.setdefault("header_buttons", []).insert(0, button)


def mark_english(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Say so of paragraphs without a Chinese letter: they are read in English, with its narrow apostrophes."""
    if app.config.language == "zh_CN" and doctree is not None:
        context["body"] = re.sub(r"<p>(?=[^\u4e00-\u9fff]*?</p>)", '<p lang="en">', context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    """For Sphinx."""
    app.add_transform(SameSections)
    app.connect("html-page-context", mark_english)
    app.connect("html-page-context", link_to_twin, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
