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


def cited() -> set[tuple[str, str, str]]:
    """(anchor, number, page) for the links to the bibliography and the words before them, in Markdown cells."""
    return {
        (link[3], number, f"book/{page.name}")
        for page in (ROOT / "book").glob("*.ipynb")
        for cell in json.loads(page.read_text("utf-8"))["cells"]
        if cell["cell_type"] == "markdown"
        for link in LINK.finditer("".join(cell["source"]))
        for number in numbers(f"{link[1] or ''} {link[2]}")
    }


def test_every_cited_number_is_listed():
    missing = cited() - {(entry["paper"], entry["what"], page) for entry in LIST for page in entry["where"]}
    assert not missing, "\n".join(map(str, sorted(missing)))


def test_the_list_names_files_that_exist():
    assert all(entry.keys() == {"paper", "what", "where", "checked"} and entry["where"] for entry in LIST)
    gone = {page for entry in LIST for page in entry["where"] if not (ROOT / page).is_file()}
    assert not gone, gone
