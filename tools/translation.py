"""The Chinese edition against the English one: what is missing, what is stale, what says something else.

    python tools/translation.py             # list what there is to do; the status is 1 where there is anything
    python tools/translation.py sync        # bring book/zh to the shape of book: new cells in English, code as it is
    python tools/translation.py done PATH [ID ...]    # cells (or sections) of PATH are translated as they stand

A notebook in book/zh has the cells of its English twin one for one, by their ids. Its code cells are the English ones
to the letter, without outputs: the build takes those from the twin. Each Markdown cell keeps the digest of the English
text that it translates, in its metadata; so does each figure, of its caption and its description. A page of plain
Markdown does it for each section, in a comment under its heading. Formulas on their own line, their labels and the
targets of links are those of the English.
"""

import argparse
import copy
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffnotes.book import ledger

ROOT = Path(__file__).resolve().parent.parent
KEY = "translates"
CHINESE = re.compile(r"[\u4e00-\u9fff]")
# pairs of an English file and its Chinese twin; the pages that stand outside of book/
README = ("README.md", "README.zh.md")

# the account in the repository's addresses, which `make account` sets in both languages at once
ACCOUNT = re.compile(r"((?:github(?:\.com)?|gh)/)[\w<>-]+(?=/diffnotes)|[\w<>-]+(?=\.github\.io/diffnotes)")

Cell = dict[str, Any]


def digest(text: str) -> str:
    """What a translation remembers of the text that it translates: all but the account in addresses."""
    return hashlib.sha256(ACCOUNT.sub(r"\1<account>", text.strip()).encode()).hexdigest()[:12]


def twins(root: Path = ROOT) -> list[tuple[Path, Path]]:
    """Every page with its Chinese twin, whether that is there or not."""
    book = root / "book"
    pages = [*ledger.notebooks(book), *sorted(book.glob("*.md"))]
    return [(page, book / "zh" / page.name) for page in pages] + [(root / README[0], root / README[1])]


# ---- the parts of a page ------------------------------------------------------------------------------------------


@dataclass
class Part:
    """What is translated in one piece: a Markdown cell, the words of a figure, or a section of a page."""

    name: str
    text: str
    translates: str = ""  # the digest of the English text; empty in an English part


def parts(path: Path) -> list[Part]:
    """The parts of a page in their order."""
    if path.suffix == ".md":
        return sections(path.read_text("utf-8"))
    found = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        remembered = cell["metadata"].get(KEY, "")
        if cell["cell_type"] == "markdown":
            found.append(Part(cell["id"], source(cell), remembered))
        elif words := figure_words(cell):
            found.append(Part(cell["id"], words, remembered))
    return found


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def figure_words(cell: Cell) -> str:
    """The caption and the description of a figure, as one text."""
    shown = cell["metadata"].get("mystnb", {})
    return "\n\n".join(filter(None, [shown.get("figure", {}).get("caption"), shown.get("image", {}).get("alt")]))


COMMENT = re.compile(rf"^<!-- {KEY} ([0-9a-f]*) -->\n+", re.MULTILINE)


def sections(text: str) -> list[Part]:
    """A page of Markdown, cut before each heading outside of code; a section is named by its place."""
    fences = [(m.start(), m.end()) for m in re.finditer(r"^(`{3,}).*?^\1", text, re.DOTALL | re.MULTILINE)]
    starts = [m.start() for m in re.finditer(r"^#{1,6} ", text, re.MULTILINE)]
    cuts = [s for s in starts if not any(a <= s < b for a, b in fences)]
    cuts = sorted({0, *cuts})
    found = []
    for n, (start, end) in enumerate(zip(cuts, [*cuts[1:], len(text)], strict=True)):
        part = text[start:end]
        remembered = COMMENT.search(part)
        found.append(Part(f"section-{n}", COMMENT.sub("", part).strip(), remembered[1] if remembered else ""))
    return [part for part in found if part.text]


def written(found: list[Part]) -> str:
    """The page that is made of these sections, each with its comment under the heading."""
    texts = []
    for part in found:
        head, _, rest = part.text.partition("\n")
        if not head.startswith("#"):
            head, rest = "", part.text
        texts.append("\n\n".join(filter(None, [head, f"<!-- {KEY} {part.translates} -->", rest.strip()])))
    return "\n\n".join(texts) + "\n"


# ---- what a translation must keep ---------------------------------------------------------------------------------


def formulas(text: str) -> list[str]:
    """The displayed formulas with their labels."""
    return [" ".join(found[0].split()) for found in ledger.DISPLAY.finditer(text)]


def targets(text: str) -> Counter[str]:
    """Where the links and the pictures of a text lead. Pictures lie one folder up from the Chinese pages."""
    text = re.sub(r"\$\$.+?\$\$", "", text, flags=re.DOTALL)
    text = text.replace(README[1], README[0])  # each links to the other
    return Counter(found.removeprefix("../") for found in re.findall(r"\]\(([^)\s]+)\)", text))


def headings(text: str) -> list[int]:
    """The levels of the headings."""
    text = re.sub(r"^(`{3,}).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
    return [len(found) for found in re.findall(r"^(#{1,6}) ", text, re.MULTILINE)]


def differences(english: str, chinese: str) -> Iterator[str]:
    """What the two texts of a part do not have in common, though they should."""
    for formula in {*formulas(english)} ^ {*formulas(chinese)}:
        yield f"a formula of one language only: {formula[:70]}"
    if sorted(formulas(english)) == sorted(formulas(chinese)) and formulas(english) != formulas(chinese):
        yield "the formulas stand in another order"
    here, there = targets(english), targets(chinese)
    for target in sorted((here - there) | (there - here)):
        yield f"a link of one language only: {target}"
    if headings(english) != headings(chinese):
        yield f"headings of the levels {headings(chinese)}, expected {headings(english)}"
    for tag in ("<details", "</details>", "```", "\n|"):
        if english.count(tag) != chinese.count(tag):
            yield f"{tag.strip()!r} stands {chinese.count(tag)} times, expected {english.count(tag)}"


def problems(english: Path, chinese: Path) -> Iterator[str]:
    """What there is to do on one page."""
    if not chinese.exists():
        yield "is missing"
        return
    ours, theirs = parts(english), parts(chinese)
    if [part.name for part in ours] != [part.name for part in theirs]:
        extra = {part.name for part in theirs} ^ {part.name for part in ours}
        yield f"has other parts, or in another order: {', '.join(sorted(extra)) or 'moved'}; run sync"
        return
    for one, other in zip(ours, theirs, strict=True):
        state = (
            "is not translated" if not other.translates else "is stale" if other.translates != digest(one.text) else ""
        )
        if state:
            yield f"{one.name}: {state}: {one.text.strip()[:60]!r}"
            continue
        yield from (f"{one.name}: {said}" for said in differences(one.text, other.text))
    if english.suffix == ".ipynb":
        code = [[frame(c) for c in json.loads(p.read_text("utf-8"))["cells"]] for p in (english, chinese)]
        if code[0] != code[1]:
            yield "its code or the order of its cells is another; run sync"


def frame(cell: Cell) -> tuple[Any, ...]:
    """All of a cell that both languages share."""
    shown = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name", "")
    code = source(cell) if cell["cell_type"] == "code" else ""
    return cell["cell_type"], cell["id"], code, tuple(cell["metadata"].get("tags", [])), shown


# ---- bringing them together -----------------------------------------------------------------------------------------


def sync(english: Path, chinese: Path) -> None:
    """Give the Chinese page the parts of the English one. What is translated stays; what is new stands in English."""
    chinese.parent.mkdir(exist_ok=True)
    known = {part.name: part for part in parts(chinese)} if chinese.exists() else {}
    if english.suffix == ".md":
        ours = parts(english)
        by_digest = {part.translates: part for part in known.values() if part.translates}
        current = {digest(part.text) for part in ours}
        stale = {name: part for name, part in known.items() if part.translates not in current}
        found = []
        for part in ours:
            old = by_digest.get(digest(part.text)) or stale.get(part.name)
            found.append(old if old and old.translates else part)
        chinese.write_text(written(found), "utf-8")
        return
    notebook = json.loads(english.read_text("utf-8"))
    old_cells = {c["id"]: c for c in json.loads(chinese.read_text("utf-8"))["cells"]} if chinese.exists() else {}
    for cell in notebook["cells"]:
        translated = old_cells.get(cell["id"], {"metadata": {}})  # or not, where it remembers nothing
        digest_then = translated["metadata"].get(KEY, "")
        if cell["cell_type"] == "markdown":
            cell["source"] = translated["source"] if digest_then else cell["source"]
            cell["metadata"][KEY] = digest_then
            continue
        cell["outputs"], cell["execution_count"] = [], None
        if figure_words(cell):
            words = copy.deepcopy(translated["metadata"].get("mystnb")) if digest_then else None
            if words:
                words.get("figure", {})["name"] = cell["metadata"]["mystnb"]["figure"]["name"]
                cell["metadata"]["mystnb"] = words
            cell["metadata"][KEY] = digest_then
    save(chinese, notebook)


def done(english: Path, chinese: Path, names: list[str]) -> list[str]:
    """Remember that parts (all that hold Chinese, where none are named) are translated; return their names."""
    now = {part.name: digest(part.text) for part in parts(english)}
    marked = [part.name for part in parts(chinese) if (part.name in names if names else CHINESE.search(part.text))]
    if english.suffix == ".md":
        found = parts(chinese)
        for part in found:
            part.translates = now[part.name] if part.name in marked else part.translates
        chinese.write_text(written(found), "utf-8")
        return marked
    notebook = json.loads(chinese.read_text("utf-8"))
    for cell in notebook["cells"]:
        if cell["id"] in marked:
            cell["metadata"][KEY] = now[cell["id"]]
    save(chinese, notebook)
    return marked


def save(path: Path, notebook: dict[str, Any]) -> None:
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="list", choices=["list", "sync", "done"])
    parser.add_argument("path", nargs="?", type=Path, help="a page of book/zh, or README.zh.md")
    parser.add_argument("names", nargs="*", help="ids of cells, or section-3")
    asked = parser.parse_args()
    pairs = [(e, c) for e, c in twins() if asked.path is None or c == asked.path.resolve()]
    if not pairs or (asked.what == "done" and asked.path is None):
        parser.error(f"path must be one of {[str(c.relative_to(ROOT)) for _, c in twins()]}, got {asked.path}")
    to_do = 0
    for english, chinese in pairs:
        if asked.what == "sync":
            sync(english, chinese)
        elif asked.what == "done":
            print(*done(english, chinese, asked.names))
        for problem in problems(english, chinese):
            to_do += 1
            print(f"{chinese.relative_to(ROOT)}: {problem}")
    print(f"{to_do} to do")
    sys.exit(asked.what == "list" and to_do > 0)


if __name__ == "__main__":
    main()
