"""Every number that a page cites from a paper is in book/citations.toml, which says where it was checked."""

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIST = tomllib.loads((ROOT / "book/citations.toml").read_text("utf-8"))["citation"]
WORD = r"\b(?i:eqs?\.|equations?|sections?|tables?|fig(?:s?\.|ures?)|algorithms?|theorems?|lemmas?|appendi(?:x|ces))"
NUMBER = r"(?:\d+|[A-Z]\b)(?:\.\d+)*"
REFERENCE = rf"{WORD}\s+{NUMBER}(?:(?:,| and| to)\s+{NUMBER})*"
LINK = re.compile(rf"((?:{REFERENCE}(?:,| and)\s+)*{REFERENCE} of )?\[([^\]]*)\]\(bibliography\.md#([\w-]+)\)")
NAMES = {"eq": "eq.", "equation": "eq.", "fig": "figure", "appendice": "appendix"}  # without "." and "s"


def numbers(text: str) -> list[str]:
    """The numbers that a text names, one by one.

    >>> numbers("eqs. 6 to 8 and Algorithm 2 of Ho et al., figs. 1 and 2, appendix D.5")
    ['eq. 6', 'eq. 7', 'eq. 8', 'algorithm 2', 'figure 1', 'figure 2', 'appendix D.5']
    """
    found = []
    for reference in re.findall(REFERENCE, text):
        word, rest = reference.split(maxsplit=1)
        word = word.lower().removesuffix(".").removesuffix("s")
        rest = re.sub(r"(\d+) to (\d+)", lambda m: " ".join(map(str, range(int(m[1]), int(m[2]) + 1))), rest)
        found += [f"{NAMES.get(word, word)} {number}" for number in re.findall(NUMBER, rest)]
    return found


def texts(page: Path, *kinds: str) -> list[str]:
    """The cells of these kinds of a notebook; a page of plain Markdown is one."""
    text = page.read_text("utf-8")
    if page.suffix == ".md":
        return [text]
    return ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] in kinds]


def links(text: str) -> set[tuple[str, str]]:
    """(anchor, number) for the links to the bibliography and the words before them."""
    return {(link[3], number) for link in LINK.finditer(text) for number in numbers(f"{link[1] or ''} {link[2]}")}


def cited() -> set[tuple[str, str, str]]:
    """(anchor, number, page) for the links of the English pages, in Markdown cells."""
    return {
        (paper, number, f"book/{page.name}")
        for kind in ("*.ipynb", "*.md")
        for page in (ROOT / "book").glob(kind)
        for text in texts(page, "markdown")
        for paper, number in links(text)
    }


def test_a_number_is_found_before_a_link_and_in_it():
    text = "See eqs. 6 and 7 of [Ho](bibliography.md#ho), and [Song, table 2](bibliography.md#song); not eq. 1."
    assert links(text) == {("ho", "eq. 6"), ("ho", "eq. 7"), ("song", "table 2")}


def test_every_cited_number_is_listed():
    """Those before a link and in it: what stands behind one, or without one, is not seen."""
    found = cited()
    assert len(found) > 50
    missing = found - {(entry["paper"], entry["what"], page) for entry in LIST for page in entry["where"]}
    assert not missing, "\n".join(map(str, sorted(missing)))


def test_every_listed_number_stands_in_its_page():
    pages = {page for entry in LIST for page in entry["where"] if page.startswith("book/")}
    stands = {page: numbers("\n".join(texts(ROOT / page, "markdown", "code"))) for page in pages}
    gone = [(e["what"], page) for e in LIST for page in e["where"] if page in pages and e["what"] not in stands[page]]
    assert not gone, gone


def test_the_list_names_files_that_exist():
    assert all(entry.keys() == {"paper", "what", "where", "checked"} and entry["where"] for entry in LIST)
    gone = {page for entry in LIST for page in entry["where"] if not (ROOT / page).is_file()}
    assert not gone, gone
