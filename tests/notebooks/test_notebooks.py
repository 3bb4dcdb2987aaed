"""Every notebook of the book under every rule, and the ledger over all of them."""

import json
import re
from pathlib import Path

import hygiene
import nbformat
import pytest
import reading
from hygiene import ROOT, RULES
from markdown_it import MarkdownIt
from mdit_py_plugins.anchors.index import slugify
from mdit_py_plugins.dollarmath import dollarmath_plugin

from diffnotes.book import ledger
from tools import check_mutants

NOTEBOOKS = ledger.notebooks(ROOT / "book")
PAGES = sorted((ROOT / "book").glob("*.md")) + sorted(ROOT.glob("*.md"))
PREFIXES = {"def", "fwd", "rev", "obj", "ddim", "img", "gen", "ledger"}


def load(path: Path) -> hygiene.Notebook:
    return json.loads(path.read_text("utf-8"))


def name(path: Path) -> str:
    return path.name


def test_there_are_notebooks():
    assert "01-forward.ipynb" in map(name, NOTEBOOKS)
    assert "checked-equations.ipynb" in map(name, NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(path, rule):
    problems = list(rule(load(path)))
    assert not problems, f"{rule.__doc__}\n" + "\n".join(f"{path.name}, {problem}" for problem in problems)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_the_file_is_written_as_nbformat_writes_it(path):
    """So that a run of `make notebooks` changes only what has changed."""
    assert path.read_text("utf-8") == nbformat.writes(nbformat.read(path, as_version=4)) + "\n"


def test_a_figure_has_a_name_of_its_own():
    figures = [c["metadata"].get("mystnb", {}).get("figure") for path in NOTEBOOKS for c in load(path)["cells"]]
    names = [figure["name"] for figure in figures if figure]
    assert sorted(names) == sorted(set(names))


CHAPTERS = [path for path in NOTEBOOKS if path.name[0] == "0"]


def test_every_chapter_has_a_core_page_and_a_deeper_one():
    assert [path.stem for path in CHAPTERS] == [name for core in reading.WORDS for name in (core, core + ledger.DEEPER)]


@pytest.mark.parametrize("path", CHAPTERS, ids=name)
def test_a_page_says_at_its_top_how_long_it_takes(path):
    notebook = load(path)
    second = hygiene.source(notebook["cells"][0]).split("\n\n")[1]
    assert second.startswith(f"*{reading.orientation(notebook)}"), second


@pytest.mark.parametrize("core", reading.WORDS)
def test_a_core_page_is_read_in_one_sitting(core):
    notebook = load(ROOT / "book" / f"{core}.ipynb")
    assert reading.words(notebook) <= reading.WORDS[core]
    assert reading.minutes(notebook) <= reading.MINUTES


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_pages_are_spelt_the_british_way(path):
    if path.name == "bibliography.md":
        pytest.skip("titles of papers keep their own spelling")
    words = hygiene.american(path.read_text("utf-8"))
    assert not words, f"{path.name}: {words}"


# ---- the ledger -----------------------------------------------------------------------------------------------


def test_every_equation_is_checked_and_every_check_has_an_equation():
    book = ledger.read(NOTEBOOKS)
    assert not book.problems, "\n".join(book.problems)
    assert len(book.equations) > 0


def test_every_check_has_been_mutated_as_it_stands():
    results = json.loads(check_mutants.RESULTS.read_text("utf-8"))
    for path in NOTEBOOKS:
        for cell in load(path)["cells"]:
            if cell["cell_type"] == "code" and check_mutants.sites(ledger.syntax_tree(cell)):
                known = results.get(path.stem, {}).get(cell["id"], {}).get("digest")
                said = f"{path.name}, cell {cell['id']}: has changed; run make mutants BOOK=book/{path.name}"
                assert known == check_mutants.digest(hygiene.source(cell)), said


def test_what_survives_has_its_reason_and_no_reason_is_left_over():
    """At least 99% are noticed in each chapter, and each label has a check that notices all."""
    results = json.loads(check_mutants.RESULTS.read_text("utf-8"))
    said = check_mutants.summary(results)
    assert said.splitlines()[-1].startswith("|"), said  # the table, and no line after it
    survivors = {
        (name, s["old"], s["new"])
        for name, cells in results.items()
        for cell in cells.values()
        for s in cell["survivors"]
    }
    assert set(check_mutants.excuses()) <= survivors


def test_labels_begin_with_the_name_of_a_chapter():
    labels = [equation.label for equation in ledger.read(NOTEBOOKS).equations]
    strangers = [label for label in labels if label.split("-")[0] not in PREFIXES]
    assert not strangers, f"{strangers}: a label begins with one of {sorted(PREFIXES)}"


def test_labelled_equations_stand_in_notebooks_only():
    """An equation on a page of plain Markdown gets a number, and no code cell can check it."""
    found = [
        (path.name, label)
        for path in PAGES
        for label, _ in ledger.labelled_equations({"cell_type": "markdown", "source": path.read_text("utf-8")})
        if not label.startswith("def-")
    ]
    assert not found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_the_ledger_reads_markdown_as_the_build_does(path):
    """The ledger finds the labelled equations with a regular expression, the build with a parser: they agree."""
    parser = MarkdownIt().use(dollarmath_plugin)
    for i, cell in hygiene.cells(load(path), "markdown"):
        tokens = [t for t in parser.parse(hygiene.source(cell)) if t.type == "math_block_label"]
        built = [(token.info, token.content.strip()) for token in tokens]
        assert ledger.labelled_equations(cell) == built, f"{path.name}, cell {i}"


def slugs(text: str) -> set[str]:
    """The anchors of the headings in a Markdown text."""
    headings = re.findall(r"^#{1,3} +(.+?) *$", text, re.MULTILINE)
    return {slugify(re.sub(r"[*`$]", "", heading)) for heading in headings}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_every_reference_has_a_target(path):
    labels = {equation.label for equation in ledger.read(NOTEBOOKS).equations}
    texts = [ledger.prose(cell) for _, cell in hygiene.cells(load(path), "markdown")]
    known = labels | {slug for text in texts for slug in slugs(text)}
    wanted = {target for text in texts for target in re.findall(r"\]\(#([^)\s]+)\)", text)}
    assert wanted <= known, f"{path.name}: no target for {sorted(wanted - known)}"
    for file in {link for text in texts for link in re.findall(r"\]\(([\w./-]+\.(?:md|ipynb))\b", text)}:
        assert (path.parent / file).is_file(), f"{path.name}: no file {file}"
