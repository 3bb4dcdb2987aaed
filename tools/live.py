"""The chapters for JupyterLab, Colab and GitHub: `python -m tools.live [FOLDER]`, by default _build/live.

The built book numbers its equations and resolves its links. Elsewhere a notebook is shown as it stands, so this writes
copies in which that is done already. `make live` makes them; the workflow publishes them on the branch `live`.

- `$$ .. $$ (fwd-step)` becomes the formula with the number that it has in the book.
- A link to an equation says its number. Within a notebook a link goes to `#scrollTo=eq-fwd-step`, or to `at-..` for a
  section. Colab takes this for the id of a cell, so the text is cut in two there, and the second cell has this id.
  JupyterLab, since 4.5, looks for an anchor of that name, `<a id="scrollTo=eq-fwd-step"></a>`. (GitHub follows no link
  within a notebook.)
- Links to other pages lead to the published book, and pictures in the text come from there.
- The caption of a figure stands below its cell, with the figure's number.
- A saved verdict names the equation's number.

The code and the other outputs are left as they are. The Chinese edition is exported too, into book/zh.
"""

import copy
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nbformat
import yaml
from docutils.nodes import make_id
from myst_parser.mdit_to_docutils.base import default_slugify

from diffnotes.book.ledger import labelled_equations
from tools.chinese import merged

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "_build" / "live"
BARE = {"eq.", "eqs.", "式", "公式"}  # words that say nothing beside a number
CODE = r"^ {0,3}(?P<fence>`{3,}|~{3,}).*?^ {0,3}(?P=fence)|(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"
FORMULA = r"\$\$(?P<tex>.+?)(?P<end>\s*)\$\$(?:[ \t]*\((?P<label>[^()\s]+)\))?"
INLINE = re.compile(rf"{CODE}|{FORMULA}|(?P<picture>!?)\[(?P<words>[^\[\]]*)\]\((?P<to>[^()\s]+)\)", re.S | re.M)
TARGET = re.compile(rf"{CODE}|<details>.*?</details>|^{FORMULA}|^\#+[ ]+(?P<heading>[^\n]+)", re.S | re.M)
MARKS = re.compile(r"[$*`]")
VERDICT = re.compile(r"^✓ \(([a-z0-9-]+)\)(?= .* · )", re.M)
README = """\
The chapters of [From DDPM to DDIM]({book}) for JupyterLab, Colab and GitHub, made by `make live` from
[their sources]({repository}). Each change there replaces this branch, so change nothing here.
"""


@dataclass(frozen=True)
class Book:
    """The chapters' notebooks by their names, the numbers of labels and figures, and what addresses need."""

    pages: dict[str, Any]
    numbers: dict[str, str]  # of equations, by their labels
    home: dict[str, str]  # the page of each label
    figures: dict[str, str]  # the numbers of figures, by their names
    sections: dict[tuple[str, str], str]  # the id of a section in the built page, by the page and what links call it
    repository: str
    address: str  # of the published pages
    slug: Callable[[str], str] = default_slugify  # what links call a heading
    figure: str = "Fig."  # the word before its number


def read(chapters: Sequence[Sequence[Path]], repository: str) -> Book:
    """The book of these chapters, each with its pages in their order, and its repository https://github.com/A/B."""
    account, name = repository.removeprefix("https://github.com/").split("/")
    book = Book({}, {}, {}, {}, {}, repository, f"https://{account}.github.io/{name}")
    for n, chapter in enumerate(chapters, start=1):
        count = figures = 0
        for path in chapter:
            book.pages[path.stem] = nbformat.read(path, as_version=4)
            for cell in book.pages[path.stem].cells:
                for label, _ in labelled_equations(cell):
                    count += 1
                    book.numbers[label], book.home[label] = f"{n}.{count}", path.stem
                if figure := figure_of(cell):
                    figures += 1
                    book.figures[figure["name"]] = f"{n}.{figures}"
    for path in chapters[0][0].parent.iterdir():
        if path.suffix in (".md", ".ipynb"):
            for title in titles(path):
                book.sections[path.stem, default_slugify(title)] = make_id(title)
    return book


def figure_of(cell: Any) -> dict[str, str]:
    """The name and the caption of a cell's figure, or nothing."""
    return cell.metadata.get("mystnb", {}).get("figure", {})  # type: ignore[no-any-return]


def titles(path: Path) -> Iterator[str]:
    """The headings of a page, without their marks."""
    texts = [path.read_text("utf-8")]
    if path.suffix == ".ipynb":
        texts = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    for found in (found for text in texts for found in TARGET.finditer(text) if found["heading"]):
        yield MARKS.sub("", found["heading"]).strip()


def this_book() -> Book:
    """The book of this repository."""
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))["parts"]
    chapters = next(part["chapters"] for part in parts if part.get("numbered"))
    paths = [[ROOT / f"{page['file']}.ipynb" for page in (core, *core.get("sections", []))] for core in chapters]
    return read(paths, yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["repository"]["url"])


def in_chinese(book: Book) -> Book:
    """The same book in Chinese: its words, the English outputs; what links call a heading is English."""
    pages, slugs = {}, dict[str, str]()
    for page in book.pages:
        english, chinese = (ROOT / "book" / folder / f"{page}.ipynb" for folder in ("", "zh"))
        pages[page] = nbformat.reads(json.dumps(merged(english, chinese)), as_version=4)
        slugs |= dict(zip(titles(chinese), map(default_slugify, titles(english)), strict=True))
    return replace(
        book, pages=pages, address=f"{book.address}/zh", slug=lambda title: slugs.get(title, title), figure="图"
    )


def export(book: Book, page: str) -> Any:
    """The notebook of a page, for live use."""
    notebook = copy.deepcopy(book.pages[page])
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    captions = [figure["caption"] for cell in notebook.cells if (figure := figure_of(cell))]
    asked = {link["to"][1:] for text in texts + captions for link in INLINE.finditer(text) if link["to"]}
    places = {target: name for text in texts for target, name, _ in pieces(text, asked, book.slug) if target}
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for target, name, text in pieces(cell.source, asked, book.slug):
                text = (
                    anchored(numbered(book, page, text, places), name) if target else numbered(book, page, text, places)
                )
                cells.append(nbformat.from_dict({**cell, "id": name or cell.id, "source": text}))
        else:
            for output in cell.get("outputs", []):
                printed(book, page, output)
            cells.append(cell)
            if figure := figure_of(cell):
                text = f"**{book.figure} {book.figures[figure['name']]}** {figure['caption']}"
                text = numbered(book, page, text, places)
                cells.append(nbformat.v4.new_markdown_cell(text, id=figure["name"]))
    notebook.cells = cells
    nbformat.validate(notebook)
    return notebook


def pieces(text: str, asked: set[str], slug: Callable[[str], str] = default_slugify) -> Iterator[tuple[str, str, str]]:
    """A text cut before each formula and heading that is asked for: the target, the name of its place, the piece.

    What is folded stays whole, and cannot be gone to.
    """
    target, name, start = "", "", 0
    for found in TARGET.finditer(text):
        label, heading = found["label"], slug(MARKS.sub("", found["heading"] or "").strip())
        if (label or heading) in asked:
            if before := text[start : found.start()].rstrip():
                yield target, name, before
            target, start = label or heading, found.start()
            name = f"{'eq' if label else 'at'}-{target}"[:64]
    yield target, name, text[start:]


def anchored(text: str, name: str) -> str:
    """A piece with the anchor of its place: before a formula, at the end of a heading."""
    first, *rest = text.split("\n", 1)
    anchor = f'<a id="scrollTo={name}"></a>'
    return "\n".join([f"{first} {anchor}" if first.startswith("#") else f"{anchor}\n{first}", *rest])


def numbered(book: Book, page: str, text: str, places: dict[str, str]) -> str:
    """Markdown of a page with numbers at its formulas, and links that lead somewhere."""

    def changed(found: re.Match[str]) -> str:
        if found["label"]:
            return f"$${found['tex']}{found['end'] or ' '}\\tag{{{book.numbers[found['label']]}}}{found['end']}$$"
        if not found["to"]:
            return found[0]
        words, number = found["words"], book.numbers.get(found["to"][1:])
        if number:
            words = f"({number})" if words in BARE else f"{words} ({number})"
        return f"{found['picture']}[{words}]({address(book, page, found['to'], places)})"

    return INLINE.sub(changed, text)


def address(book: Book, page: str, to: str, places: dict[str, str]) -> str:
    """Where a link of a page leads."""
    path, _, place = to.partition("#")
    if re.match(r"[a-z]+:", to):
        return to
    if path and not path.endswith((".md", ".ipynb")):
        return f"{book.address}/_images/{path.rsplit('/', 1)[-1]}"
    if not path and place in places:
        return f"#scrollTo={places[place]}"
    name = path.rsplit(".", 1)[0] or book.home.get(place, page)
    identity = f"equation-{place}" if place in book.home else book.sections.get((name, place), place)
    return f"{book.address}/book/{name}.html" + f"#{identity}" * bool(place)


def printed(book: Book, page: str, output: Any) -> None:
    """Change an output in place: numbers in its verdicts, links in its Markdown, words for absent sliders."""
    if output.output_type == "stream":
        output.text = VERDICT.sub(lambda said: f"✓ ({book.numbers.get(said[1], said[1])})", output.text)
    data = output.get("data", {})
    if "text/markdown" in data:
        data["text/markdown"] = numbered(book, page, data["text/markdown"], {})
    if data.get("text/plain", "").startswith("VBox("):
        data["text/plain"] = "Sliders: run this cell to move them."


def requirements(repository: str) -> str:
    """For Binder: torch as .binder/requirements.txt has it, the CPU build from PyTorch's own index; and the package."""
    lines = (ROOT / ".binder/requirements.txt").read_text("utf-8").splitlines()
    torch = [line for line in lines if line.startswith(("--extra-index-url ", "torch=="))]
    return "\n".join([*torch, f"diffnotes[notebooks] @ git+{repository}\n"])


def main(out: Path) -> None:
    """Write the export to a folder: the branch `live`, with what Binder needs."""
    book = this_book()
    for folder, edition in {out / "book": book, out / "book" / "zh": in_chinese(book)}.items():
        folder.mkdir(parents=True, exist_ok=True)
        for page in edition.pages:
            nbformat.write(export(edition, page), folder / f"{page}.ipynb")
    (out / "README.md").write_text(README.format(book=book.address, repository=book.repository), "utf-8")
    (out / "requirements.txt").write_text(requirements(book.repository), "utf-8")
    (out / "runtime.txt").write_text("python-3.11\n", "utf-8")
    print(f"{out}: {len(book.pages)} notebooks in each language, {len(book.numbers)} numbered equations")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit("usage: python -m tools.live [FOLDER]")
    main(Path(sys.argv[1]) if sys.argv[1:] else OUT)
