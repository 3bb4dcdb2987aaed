"""live.py: the export of the chapters for JupyterLab, Colab and GitHub; and the buttons that open it."""

import copy
import dataclasses
import functools
import itertools
import re
import shutil
import subprocess
from types import SimpleNamespace
from urllib.parse import unquote

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from nbformat import v4

pytest.importorskip("sphinx", reason="needs the extra `book`")

from tools import account, launch, live

HTML = live.ROOT / "_build" / "html"
REPOSITORY = "https://github.com/someone/some-book"
ADDRESS = "https://someone.github.io/some-book"
BOOK = live.this_book()
CONFIG = yaml.safe_load((live.ROOT / "_config.yml").read_text("utf-8"))

needs_the_book = pytest.mark.skipif(
    not (HTML / "index.html").is_file(), reason=f"needs the built book, and {HTML} is not there: make book"
)


# ---- the rules ------------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path):
    """A function that makes a book of chapters, each {page: cells}; a text is a Markdown cell."""

    def make(*chapters):
        paths = []
        for chapter in chapters:
            paths.append([tmp_path / f"{page}.ipynb" for page in chapter])
            for path, cells in zip(paths[-1], chapter.values(), strict=True):
                cells = [v4.new_markdown_cell(c, id=f"c{i}") if isinstance(c, str) else c for i, c in enumerate(cells)]
                nbformat.write(v4.new_notebook(cells=cells), path)
        return live.read(paths, REPOSITORY)

    return make


def figure(name, caption):
    """A cell that draws, with its caption, as the book stores it."""
    metadata = {"mystnb": {"figure": {"name": f"fig-{name}", "caption": caption}}}
    return v4.new_code_cell("draw()", id=name, metadata=metadata)


@pytest.fixture
def exported(made):
    """A function that exports a page of these texts, 02-b, beside another, 01-a, and gives [(id, text), ...]."""

    def export(*texts):
        book = made({"01-a": ["$$x$$ (fwd-x)\n\n## 1. The *paper's* title\n"]}, {"02-b": list(texts)})
        return [(cell.id, cell.source) for cell in live.export(book, "02-b").cells]

    return export


def test_numbers_run_through_a_chapter_and_only_labels_count(made):
    book = made(
        {"01-a": ["$$x$$ (fwd-x)\n\n$$y$$", "$$z$$ (fwd-z)"], "01-a-deeper": ["$$w$$ (fwd-w)"]},
        {"02-b": ["$$v$$ (rev-v)"]},
    )
    assert book.numbers == {"fwd-x": "1.1", "fwd-z": "1.2", "fwd-w": "1.3", "rev-v": "2.1"}
    assert book.home == {"fwd-x": "01-a", "fwd-z": "01-a", "fwd-w": "01-a-deeper", "rev-v": "02-b"}
    assert book.address == ADDRESS


LINES = "\\begin{aligned}\nx\n\\end{aligned}"
QUOTED = "`$$x$$ (rev-x)` and\n\n```\n$$x$$ (rev-x)\n[a](#fwd-x)\n```"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("So\n\n$$x = y. $$ (rev-x)\n\nand", "So\n\n$$x = y. \\tag{2.1} $$\n\nand"),
        ("$$x$$ (rev-x)", "$$x \\tag{2.1}$$"),
        (f"$$\n{LINES}\n$$ (rev-x)", f"$$\n{LINES}\n\\tag{{2.1}}\n$$"),
        ("$$x$$\n\n(not a label)", "$$x$$\n\n(not a label)"),
        (QUOTED, QUOTED),
    ],
)
def test_a_formula_gets_its_number(exported, text, shown):
    assert exported(text) == [("c0", shown)]


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("[the jump](#fwd-x)", f"[the jump (1.1)]({ADDRESS}/book/01-a.html#equation-fwd-x)"),
        ("[eq.](#fwd-x)", f"[(1.1)]({ADDRESS}/book/01-a.html#equation-fwd-x)"),
        ("[the jump to $x_T$](#fwd-x)", f"[the jump to $x_T$ (1.1)]({ADDRESS}/book/01-a.html#equation-fwd-x)"),
        ("[Ho, eq. 4](bibliography.md#ho)", f"[Ho, eq. 4]({ADDRESS}/book/bibliography.html#ho)"),
        ("[notation](notation.md)", f"[notation]({ADDRESS}/book/notation.html)"),
        ("[a](01-a.ipynb#1-the-papers-title)", f"[a]({ADDRESS}/book/01-a.html#the-paper-s-title)"),
        ("[a](01-a.ipynb)", f"[a]({ADDRESS}/book/01-a.html)"),
        ("[a](https://x.org/a.md#b)", "[a](https://x.org/a.md#b)"),
        ("![A round cloud](images/a.png)", f"![A round cloud]({ADDRESS}/_images/a.png)"),
        ("`[a](#fwd-x)`", "`[a](#fwd-x)`"),
    ],
)
def test_a_link_to_another_page_leads_to_the_published_book(exported, link, shown):
    assert exported(f"See {link}.") == [("c0", f"See {shown}.")]


def test_a_link_within_a_notebook_leads_to_a_cell_with_an_anchor(exported):
    """`#scrollTo=ID` is Colab's way to a cell, and JupyterLab looks for an anchor of that name."""
    text = "First.\n\n$$x$$ (rev-x)\n\nThen.\n\n## What is *left*\n\nThe rest."
    assert exported(text, "By [eq.](#rev-x) and [the rest](#what-is-left).") == [
        ("c0", "First."),
        ("eq-rev-x", '<a id="scrollTo=eq-rev-x"></a>\n$$x \\tag{2.1}$$\n\nThen.'),
        ("at-what-is-left", '## What is *left* <a id="scrollTo=at-what-is-left"></a>\n\nThe rest.'),
        ("c1", "By [(2.1)](#scrollTo=eq-rev-x) and [the rest](#scrollTo=at-what-is-left)."),
    ]


def test_a_cell_that_begins_with_what_is_linked_to_is_not_cut(exported):
    assert [name for name, _ in exported("$$x$$ (rev-x)\n\n[the line](#rev-x)")] == ["eq-rev-x"]


def test_what_is_folded_stays_whole_and_is_looked_up_in_the_book(exported):
    folded = "<details><summary>Solution</summary>\n\n$$x$$ (rev-x)\n\n</details>"
    (_, text), (_, link) = exported(folded, "[eq.](#rev-x)")
    assert text == folded.replace("$$x$$ (rev-x)", "$$x \\tag{2.1}$$")
    assert link == f"[(2.1)]({ADDRESS}/book/02-b.html#equation-rev-x)"


def test_long_titles_give_valid_names(exported):
    title = "a " * 40
    (name, text), _ = exported(f"## {title}", f"[far]({'#' + title.strip().replace(' ', '-')})")
    assert len(name) == 64
    assert f"scrollTo={name}" in text


def test_what_was_printed_names_numbers(made):
    said = "✓ (rev-x) holds to 1e-10 · exact\n✓ (rev-x) catches the slip: (rev-x) · exact\nof (rev-x)\n"
    outputs = [
        v4.new_output("stream", text=said),
        v4.new_output("execute_result", {"text/plain": "VBox(children=(IntSlider(value=2)))"}),
        v4.new_output("display_data", {"text/markdown": "[rev-x](#rev-x)", "image/png": "eA=="}),
    ]
    book = made({"02-b": ["$$x$$ (rev-x)", v4.new_code_cell("1", outputs=copy.deepcopy(outputs))]})
    printed, sliders, shown = live.export(book, "02-b").cells[-1].outputs
    assert printed.text == said.replace("✓ (rev-x)", "✓ (1.1)")
    assert sliders.data == {"text/plain": "Sliders: run this cell to move them."}
    assert shown.data["text/markdown"] == f"[rev-x (1.1)]({ADDRESS}/book/02-b.html#equation-rev-x)"
    assert shown.data["image/png"] == "eA=="
    assert book.pages["02-b"].cells[-1].outputs == outputs  # the book itself is as it was


def test_a_caption_stands_below_its_cell_with_its_number(made):
    """Numbers run through a chapter; a link in a caption is one of the page."""
    book = made(
        {
            "01-a": [figure("one", "Does it rise?"), figure("two", "A bell.")],
            "01-a-deeper": [figure("three", "A cat.")],
        },
        {"02-b": ["The law\n\n$$x$$ (rev-x)", figure("four", "Of $x$, by [the law](#rev-x)."), "The end."]},
    )
    cells = live.export(book, "02-b").cells
    assert [(cell.id, cell.cell_type) for cell in cells[-3:]] == [
        ("four", "code"),
        ("fig-four", "markdown"),
        ("c2", "markdown"),
    ]
    assert cells[-2].source == "**Fig. 2.1** Of $x$, by [the law (2.1)](#scrollTo=eq-rev-x)."
    assert cells[1].source == '<a id="scrollTo=eq-rev-x"></a>\n$$x \\tag{2.1}$$'
    assert live.export(book, "01-a").cells[3].source == "**Fig. 1.2** A bell."
    chinese = dataclasses.replace(book, figure="图")
    assert live.export(chinese, "01-a-deeper").cells[1].source == "**图 1.3** A cat."


def test_the_branch_holds_what_binder_needs(tmp_path):
    pinned = re.search(r"^torch==(\S+)$", (live.ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE)[1]
    live.main(tmp_path)
    assert {path.stem for path in (tmp_path / "book").glob("*.ipynb")} == set(BOOK.pages)
    assert (tmp_path / "requirements.txt").read_text("utf-8").splitlines() == [
        "--extra-index-url https://download.pytorch.org/whl/cpu",
        f"torch=={pinned}+cpu",  # on PyPI the same version is the CUDA build
        f"diffnotes[notebooks] @ git+{BOOK.repository}",
    ]
    assert (tmp_path / "runtime.txt").read_text("utf-8").startswith("python-3.")
    assert BOOK.address in (tmp_path / "README.md").read_text("utf-8")


# ---- the book -------------------------------------------------------------------------------------------------


@pytest.fixture(params=BOOK.pages)
def page(request) -> str:
    return request.param


EDITIONS = {"": BOOK, "zh": live.in_chinese(BOOK)}


@functools.cache
def notebook_of(folder: str, page: str):
    """An exported page, made once."""
    return live.export(EDITIONS[folder], page)


@pytest.fixture(params=EDITIONS, ids=["English", "Chinese"])
def folder(request) -> str:
    return request.param


@pytest.fixture
def edition(folder) -> live.Book:
    return EDITIONS[folder]


def texts(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def written(notebook) -> list[str]:
    """The texts of a page of the book, and the captions of its figures, in their order."""
    captions = [cell.metadata.get("mystnb", {}).get("figure", {}).get("caption") for cell in notebook.cells]
    return [
        cell.source if cell.cell_type == "markdown" else caption
        for cell, caption in zip(notebook.cells, captions, strict=True)
        if cell.cell_type == "markdown" or caption
    ]


def links(text: str) -> list[str]:
    """The targets of links and pictures, as a Markdown parser finds them."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).use(dollarmath_plugin).parse(text)
    inner = [child for token in tokens for child in token.children or []]
    return [unquote(str(t.attrs[key])) for t in inner for key in ("href", "src") if key in t.attrs]


def test_every_page_of_the_chapters_is_exported():
    assert set(BOOK.pages) == {path.stem for path in (live.ROOT / "book").glob("0*.ipynb")}


def test_every_link_leads_somewhere(page, edition, folder):
    notebook = notebook_of(folder, page)
    places = {cell.id for cell in notebook.cells if f'<a id="scrollTo={cell.id}"></a>' in cell.source}
    targets = [target for text in texts(notebook) for target in links(text)]
    assert len(targets) == sum(len(links(text)) for text in written(edition.pages[page]))
    for target in targets:
        if target.startswith("#"):
            assert target.removeprefix("#scrollTo=") in places, target
        elif target.startswith(edition.address):
            path, _, place = target.removeprefix(edition.address).partition("#")
            assert path.startswith("/_images/") or any(
                (live.ROOT / path[1:]).with_suffix(kind).is_file() for kind in (".md", ".ipynb")
            ), target
            if (HTML / "index.html").is_file():
                built = (HTML / folder / path[1:]).read_bytes()
                assert not place or f'id="{place}"'.encode() in built, target
        else:
            assert re.match(r"https?://", target), target


@needs_the_book
def test_the_numbers_are_those_of_the_built_book(page, edition, folder):
    soup = BeautifulSoup((HTML / folder / "book" / f"{page}.html").read_text("utf-8"), "html.parser")
    built = {
        formula["id"].removeprefix("equation-"): re.search(r"\([\d.]+\)", formula.select_one(".eqno").get_text())[0]
        for formula in soup.select("[id^=equation-]")
    }
    assert built == {label: f"({BOOK.numbers[label]})" for label, home in BOOK.home.items() if home == page}
    shown = re.findall(r"\\tag\{([\d.]+)\}", "".join(texts(notebook_of(folder, page))))
    assert [f"({number})" for number in shown] == list(built.values())


@needs_the_book
def test_the_captions_are_those_of_the_built_book(page, edition, folder):
    """All figures of the page, in its order, in the words of the edition."""
    soup = BeautifulSoup((HTML / folder / "book" / f"{page}.html").read_text("utf-8"), "html.parser")
    built = [(f["id"], f.select_one(".caption-number").get_text().strip()) for f in soup.select("figure[id^=fig-]")]
    cells = notebook_of(folder, page).cells
    shown = [(c.id, re.match(r"\*\*(.+?)\*\* \S", c.source)[1]) for c in cells if c.id in BOOK.figures]
    assert shown == built
    assert built
    for before, after in itertools.pairwise(cells):
        if after.id in BOOK.figures:
            assert after.id == before.metadata.mystnb.figure.name


def test_the_export_is_valid_and_has_the_same_code(page, edition, folder):
    notebook = notebook_of(folder, page)
    nbformat.validate(notebook)
    code = [[c for c in n.cells if c.cell_type == "code"] for n in (edition.pages[page], notebook)]
    for before, after in zip(*code, strict=True):
        for key in ("id", "source", "metadata", "execution_count"):
            assert before[key] == after[key]
        for was, now in zip(before.outputs, after.outputs, strict=True):
            data = [
                {k: v for k, v in o.get("data", {}).items() if k not in ("text/plain", "text/markdown")}
                for o in (was, now)
            ]
            assert data[0] == data[1]


LABEL = re.compile(r"\$\$[ \t]*\([a-z][a-z0-9-]+\)[ \t]*$", re.MULTILINE)


def words(text: str) -> list[str]:
    """What a reader reads, without what the export may add or change."""
    text = re.sub(r"\]\([^()\s]+\)|<a id=[^>]*></a>|\\tag\{[\d.]+\}", " ", text)
    text = LABEL.sub("$$", text)
    text = re.sub(r"\(\d\.\d+\)|\*\*(Fig\.|图) \d\.\d+\*\*|\[(eqs?\.|式|公式)(?=[\] ])", " ", text)
    return text.replace("$$", " $$ ").replace("[", " ").split()


def test_nothing_of_the_text_is_lost(page, edition, folder):
    before, after = "\n\n".join(written(edition.pages[page])), "\n\n".join(texts(notebook_of(folder, page)))
    assert words(after) == words(before)
    assert not LABEL.search(after)  # no label is left over


def test_the_account_stands_in_one_place():
    """What `make account` sets in _config.yml is in every address of the export, and in no other form."""
    assert CONFIG["repository"]["url"] == BOOK.repository
    assert BOOK.address.startswith(f"https://{account.current(live.ROOT)}.github.io/")
    elsewhere = dataclasses.replace(BOOK, repository=REPOSITORY, address=ADDRESS)
    for page in BOOK.pages:
        text = "".join(texts(live.export(elsewhere, page)))
        assert "github.io" not in text.replace(ADDRESS, "")


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_a_copy_that_a_reader_has_changed_is_kept(tmp_path):
    """By `make lab`, here with a `jupyter` that does nothing."""
    exported, copies = tmp_path / "_build/live/book", tmp_path / "lab"
    (exported / "zh").mkdir(parents=True)
    jupyter = tmp_path / "bin/jupyter"
    jupyter.parent.mkdir()
    jupyter.write_text("#!/bin/sh\n", "utf-8")
    jupyter.chmod(0o755)
    for text in ("exported", "exported again"):
        for page in ("1.ipynb", "zh/1.ipynb"):
            (exported / page).write_text(text, "utf-8")
        command = ["make", "-f", str(live.ROOT / "Makefile"), "-o", "live", "lab", f"BIN={jupyter.parent}"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        (copies / "1.ipynb").write_text("changed", "utf-8")
    assert (copies / "1.ipynb").read_text("utf-8") == "changed"
    (copies / "zh/1.ipynb").unlink()
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert [(copies / page).read_text("utf-8") for page in ("1.ipynb", "zh/1.ipynb")] == ["changed", "exported again"]


# ---- the buttons ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "opened"),
    [
        ("https://c.org/github/main/b/blob/main/book/01.ipynb", "https://c.org/github/main/b/blob/live/book/01.ipynb"),
        ("https://b.org/v2/gh/main/b/main?urlpath=lab/tree/main/01.ipynb", "https://b.org/v2/gh/main/b/live?urlpath=lab/tree/main/01.ipynb"),
        ("https://h.org/hub/git-pull?repo=x/main&urlpath=lab&branch=main", "https://h.org/hub/git-pull?repo=x/main&urlpath=lab&branch=live"),
    ],
)  # fmt: skip
def test_a_launch_button_opens_the_branch(address, opened):
    assert launch.on_live(address, "b", "main") == opened


@pytest.mark.parametrize("language", ["en", "zh_CN"])
@pytest.mark.parametrize("page", ["01-forward", "01-forward-deeper", "notation"])
def test_the_buttons_of_a_chapter_open_its_export(language, page):
    button = {"url": f"https://c.org/github/a/b/blob/main/book/{page}.ipynb"}
    context = {"header_buttons": [{"label": "launch-buttons", "buttons": [button]}, {"type": "link"}]}
    options = {"repository_url": "https://github.com/a/b", "repository_branch": "main"}
    env = SimpleNamespace(toc_secnumbers={"book/01-forward": {"": (1,)}})
    app = SimpleNamespace(env=env, config=SimpleNamespace(html_theme_options=options, language=language))
    launch.launch(app, f"book/{page}", "page.html", context, None)
    folder = "book/zh" if language == "zh_CN" else "book"
    exported = f"https://c.org/github/a/b/blob/live/{folder}/{page}.ipynb"
    assert button["url"] == (
        exported if page in BOOK.pages else f"https://c.org/github/a/b/blob/main/book/{page}.ipynb"
    )


@needs_the_book
def test_the_buttons_of_the_built_book_open_notebooks_that_are_exported():
    for path in sorted((HTML / "book").glob("*.html")):
        soup = BeautifulSoup(path.read_text("utf-8"), "html.parser")
        launched = [a["href"] for a in soup.select("a[href]") if re.search(r"colab|binder", a["href"])]
        branch = "live" if path.stem in BOOK.pages else "main"
        for address in launched:
            assert address.endswith(f"book/{path.stem}.ipynb")
            assert f"/{branch}/" in address or f"/{branch}?" in address, address
        nobody = "<" in BOOK.repository  # then there are no buttons
        assert bool(launched) != nobody or path.stem not in BOOK.pages


def test_the_readme_opens_notebooks_that_are_exported():
    opened = re.findall(r"colab\.research\.google\.com/github/(\S+?)\)", (live.ROOT / "README.md").read_text("utf-8"))
    path = BOOK.repository.removeprefix("https://github.com/")
    assert opened
    assert set(opened) <= {f"{path}/blob/{launch.LIVE}/book/{page}.ipynb" for page in BOOK.pages}
