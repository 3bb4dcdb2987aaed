"""Each rule passes a good notebook and catches a bad one."""

import copy
import json
from pathlib import Path

import hygiene
import pytest
from hygiene import RULES, bootstrap

from diffnotes.book import ledger

ALT = "A red and a blue bell curve that merge into one."
PLAYER = f'<img alt="{ALT}" src="data:image/png;base64,iVBORw0KGgo\\\nAAA="><script>play("//local")</script>'

PART_TEXT = "## A part\n\nBy [the step](#fwd-step):\n\n$$\n\\begin{aligned} a &= b \\\\ c &< d \\end{aligned}\n$$"
EXERCISE_TEXT = (
    "### Exercise\n\n<details><summary>Solution</summary>\n\nIt is $1<2>0$.\n\n</details>\n\n> **Note.** Yes."
)


CAPTION = "Two bells merge as time goes on."
FOLDED = {"tags": ["hide-input"], "jupyter": {"source_hidden": True}, "cellView": "form"}


def alt(text: str, name: str = "fig-bells", caption: str = CAPTION) -> dict:
    return {"mystnb": {"image": {"alt": text}, "figure": {"name": name, "caption": caption}}, **FOLDED}


def markdown(text: str, name: str) -> hygiene.Cell:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}


def code(text: str, name: str, count: int, *outputs: dict, **metadata: object) -> hygiene.Cell:
    return {
        "cell_type": "code",
        "id": name,
        "metadata": metadata,
        "source": text,
        "execution_count": count,
        "outputs": list(outputs),
    }


def stream(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


def display(**data: str) -> dict:
    data = {kind.replace("_", "/"): value for kind, value in data.items()}
    return {"output_type": "display_data", "metadata": {}, "data": data}


def good() -> hygiene.Notebook:
    return {
        "cells": [
            markdown("# The title\n\nA colour, in $x$, and `code $$ {role}`.\n\n$$x = y. $$ (fwd-step)\n", "title"),
            code(bootstrap(), "bootstrap", 1),
            code(
                "check.exact('fwd-step', 1, one)", "check", 2, stream("✓ (fwd-step) holds to 1e-10 · exact\n"), **FOLDED
            ),
            markdown(PART_TEXT, "part"),
            code("plt.show()", "figure", 3, display(image_png="iVBORw0=", text_plain="<Figure>"), **alt(ALT)),
            code(
                "plots.player(fig)", "player", 4, display(text_html=PLAYER, text_plain="<HTML>"), **alt("", "fig-play")
            ),
            markdown(EXERCISE_TEXT, "exercise"),
        ],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }  # fmt: skip


TITLE, BOOTSTRAP, CHECK, PART, FIGURE, MOVIE, EXERCISE = range(7)


def put(key: str, value: object, cell: int) -> object:
    """A change: set a key of a cell."""
    return lambda notebook: notebook["cells"][cell].__setitem__(key, value)


def say(text: str) -> object:
    """A change: add a paragraph to the first cell."""

    def change(notebook: hygiene.Notebook) -> None:
        notebook["cells"][TITLE]["source"] += f"\n\n{text}"

    return change


def add(*cells: hygiene.Cell) -> object:
    return lambda notebook: notebook["cells"].extend(cells)


def metadata(**entries: object) -> object:
    return lambda notebook: notebook["metadata"].update(entries)


BAD = [
    ("executed_in_order", put("execution_count", None, CHECK), "execution count None, expected 2"),
    ("executed_in_order", put("execution_count", 7, FIGURE), "execution count 7, expected 3"),
    ("executed_in_order", lambda n: n["cells"].__setitem__(slice(2, 5), n["cells"][4:1:-1]), "expected 2"),
    ("outputs_are_kept", put("outputs", [], CHECK), "calls check.exact, and has no output"),
    ("outputs_are_kept", put("outputs", [], FIGURE), "describes a figure, and has none"),
    ("outputs_are_kept", add(code("with x:\n    print(1)", "more", 5)), "calls print"),
    ("outputs_are_kept", add(code("for if", "more", 5)), "is not Python"),
    ("nothing_went_wrong", put("outputs", [stream("UserWarning", "stderr")], CHECK), "stderr: 'UserWarning'"),
    ("nothing_went_wrong", put("outputs", [stream("10%\r20%")], CHECK), "a progress bar"),
    (
        "nothing_went_wrong",
        put("outputs", [{"output_type": "error", "ename": "Boom", "evalue": "no", "traceback": []}], CHECK),
        "Boom: no",
    ),
    ("metadata_is_normalised", metadata(kernelspec={"name": "venv", "display_name": "V"}), "metadata: "),
    ("metadata_is_normalised", metadata(widgets={"state": {}}), "metadata: "),
    ("metadata_is_normalised", metadata(language_info={"name": "python", "version": "3.11.7"}), "metadata: "),
    ("metadata_is_normalised", put("metadata", {"collapsed": True}, CHECK), "cell 2: metadata is not normalised"),
    ("metadata_is_normalised", put("metadata", {"execution": {"iopub.status": "1"}}, CHECK), "cell 2: metadata"),
    ("metadata_is_normalised", lambda n: n["cells"][0].pop("id"), "not a valid notebook"),
    ("metadata_is_normalised", lambda n: n.update(nbformat_minor=4), "not a valid notebook"),
    ("text_is_stable", put("outputs", [stream("<object at 0x7f00deadbeef>")], CHECK), "address in memory"),
    ("text_is_stable", put("outputs", [stream("File /home/ann/x.py")], CHECK), "absolute path, '/home/ann/x.py'"),
    ("text_is_stable", say("Open /Users/ann/book."), "absolute path"),
    ("outputs_are_compared", put("metadata", {"tags": ["nbval-skip"]}, CHECK), "the tag 'nbval-skip'"),
    ("outputs_are_compared", put("source", "# NBVAL_IGNORE_OUTPUT\nx", CHECK), "switches nbval off"),
    ("outputs_are_compared", put("outputs", [display(image_jpeg="/9j/")], FIGURE), "an output of type image/jpeg"),
    ("outputs_are_compared", add(code("_ = interact(f, t=3)", "more", 5)), "interact draws before"),
    ("outputs_are_compared", put("outputs", [display(**{"image/svg+xml": "<svg/>"})], FIGURE), "type image/svg+xml"),
    ("nothing_from_outside", put("outputs", [display(text_html="<img src='https://x.org/a'>")], MOVIE), "fetches"),
    ("nothing_from_outside", put("outputs", [display(text_html='<link href="//x.org/a.css">')], MOVIE), "fetches"),
    ("nothing_from_outside", say("![a picture of a thing there](https://x.org/a.png)"), "fetches"),
    ("is_small", put("outputs", [stream("x" * 3_000_000)], CHECK), "3.0 MB, at most 3.0"),
    ("bootstrap_comes_first", put("source", bootstrap() + "\n", BOOTSTRAP), "must be the bootstrap cell"),
    ("bootstrap_comes_first", lambda n: n["cells"].pop(BOOTSTRAP), "must be the bootstrap cell"),
    ("bootstrap_comes_first", put("source", "%pip install scipy", CHECK), "only the bootstrap cell may install"),
    ("bootstrap_comes_first", lambda n: n.update(cells=n["cells"][:1]), "no code cell"),
    ("figures_are_described", put("metadata", {}, FIGURE), "says too little: ''"),
    ("figures_are_described", put("metadata", alt("out/figure_1 .png a b c"), FIGURE), "too little"),
    ("figures_are_described", put("outputs", [display(text_html=PLAYER.replace("alt=", "id="))], MOVIE), "has no alt"),
    ("figures_are_described", put("outputs", [display(text_html=PLAYER.replace(ALT, "figure"))], MOVIE), "too little"),
    ("figures_are_described", say("![figure](images/a.png)"), "says too little: 'figure'"),
    ("figures_have_captions", put("metadata", alt(ALT, name="bells"), FIGURE), "of the form fig-..., got 'bells'"),
    ("figures_have_captions", put("metadata", alt(ALT, name="fig-play"), FIGURE), "must be a new one"),
    ("figures_have_captions", put("metadata", alt(ALT, caption="Two bells"), FIGURE), "must be a sentence"),
    ("checks_and_drawings_are_folded", put("metadata", {}, CHECK), "a cell that checks needs the tag"),
    ("checks_and_drawings_are_folded", put("metadata", {}, MOVIE), "a cell that draws needs the tag"),
    ("checks_and_drawings_are_folded", add(code("import math", "more", 5)), "a cell that imports needs the tag"),
    ("checks_and_drawings_are_folded", put("source", "import math", FIGURE), "belong in the second code cell"),
    ("cells_are_short", put("source", "import y\n" + "x = 1\n\n" * 20 + "y", CHECK), "21 lines of code, at most 20"),
    ("code_is_plain", put("source", "x = f(  # of it\n    1\n)", CHECK), "a comment goes above"),
    ("code_is_plain", put("source", "x = f(\n    1\n)  # of it", CHECK), "a comment goes above"),
    ("code_is_plain", put("source", "a, b = f(1), 2", CHECK), "several statements in one line"),
    ("names_mean_one_thing", add(code("x = 1", "m", 5), code("x = 2", "n", 6)), "x is given (=), and already in"),
    ("names_mean_one_thing", add(code("for x in y:\n    x = 1", "m", 5)), "x is given (loop)"),
    ("names_mean_one_thing", add(code("def x(): pass", "m", 5), code("x, y = 2", "n", 6)), "x is given (=)"),
    ("headings_are_in_order", say("# Another"), "a second heading of level 1"),
    ("headings_are_in_order", say("### Too deep"), "a heading of level 3 under one of level 1"),
    ("headings_are_in_order", lambda n: n["cells"].insert(0, n["cells"].pop(BOOTSTRAP)), "first cell must open"),
    ("markdown_is_portable", say("```{note}\nHear.\n```"), "a MyST directive"),
    ("markdown_is_portable", say(":::\nHear.\n:::"), "a MyST colon fence"),
    ("markdown_is_portable", say("See {eq}`fwd-step`."), "a MyST role"),
    ("markdown_is_portable", say("(target)=\n## Part"), "a MyST target"),
    ("markdown_is_portable", say("+++"), "a MyST block break"),
    ("markdown_is_portable", say("% silent"), "a MyST comment"),
    ("markdown_is_portable", say("The {{ name }}."), "a MyST substitution"),
    ("markdown_is_portable", say("Hear.[^1]"), "a footnote"),
    ("markdown_is_portable", say("[a]: https://x.org"), "a link definition"),
    ("markdown_is_portable", say("> [!NOTE]\n> Hear."), "an admonition of GitHub's own"),
    ("markdown_is_portable", say("term\n: meaning"), "a definition list"),
    ("markdown_is_portable", say("$$\na \\label{fwd-b}\n$$"), "a label, tag or reference"),
    ("markdown_is_portable", say("See $\\eqref{fwd-a}$."), "a label, tag or reference"),
    ("markdown_is_portable", say("\\begin{align} a \\end{align}"), "an environment; write"),
    ("markdown_is_portable", say("Say $`x`$."), "maths quotes of GitHub's own"),
    ("markdown_is_portable", say("Say \\(x\\)."), "maths in brackets"),
    ("markdown_is_portable", say('<div class="note">Hear.</div>'), "not portable: HTML"),
    ("markdown_is_portable", say("The \\sqrt of it."), "TeX outside of $"),
    ("markdown_is_portable", say("So x_{t-1} is."), "TeX outside of $"),
    ("markdown_is_portable", say("| a | b |\n|---|---|\n| $q$ | $q(x|y)$ |"), "a bar in a formula"),
    ("markdown_is_portable", say("$$a = b"), "an odd number of $$"),
    ("markdown_is_portable", say("$$ $$"), "an empty $$ $$"),
    ("markdown_is_portable", say("$$\na\n\nb\n$$"), "a blank line within"),
    ("markdown_is_portable", say("Text\n$$a$$"), "must open a paragraph"),
    ("markdown_is_portable", say("$$a$$\ntext"), "must close a paragraph"),
    ("markdown_is_portable", say("$$a$$ (1.4 b)"), "must close a paragraph"),
    ("markdown_is_portable", say("$$a$$ (1-step)"), "must close a paragraph"),
    ("markdown_is_portable", say("<details><summary>Solution</summary>\nHear.\n\n</details>"), "a <details> must"),
    ("markdown_is_portable", say("<details><summary>Solution</summary>\n\nHear.\n</details>"), "a </details> must"),
    ("markdown_is_portable", say("<details><summary>Solution</summary>\n\nHear."), "unequally often"),
    ("spelling_is_british", say("A generalization."), "'generalization' is not British"),
    ("spelling_is_british", say("We normalize the colors' behavior."), "'normalize'"),
    ("spelling_is_british", put("source", "x = 1  # the neighbors", CHECK), "'neighbors'"),
    ("spelling_is_british", put("metadata", alt(ALT + " In gray."), FIGURE), "'gray'"),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_notebook_passes(rule):
    assert list(rule(good())) == []
    assert rule.__name__ in {name for name, _, _ in BAD}, "no bad notebook for this rule"


@pytest.mark.parametrize(("name", "change", "said"), BAD, ids=[f"{name}-{i}" for i, (name, _, _) in enumerate(BAD)])
def test_a_bad_notebook_is_caught(name, change, said):
    notebook = good()
    change(notebook)
    problems = list(getattr(hygiene, name)(notebook))
    assert any(said in problem for problem in problems), problems


def test_rules_change_nothing():
    notebook = good()
    before = copy.deepcopy(notebook)
    for rule in RULES:
        list(rule(notebook))
    assert notebook == before


@pytest.mark.parametrize("word", ["generalisation", "size", "coloured", "denoised", "`color`", "$color$", "horizon"])
def test_british_words_and_code_are_let_be(word):
    assert hygiene.american(f"The {word} of it, see [it](color.md).") == []


# ---- the ledger -----------------------------------------------------------------------------------------------


def read(tmp_path: Path, *cells: hygiene.Cell, name: str = "01-a") -> ledger.Ledger:
    path = tmp_path / f"{name}.ipynb"
    path.write_text(json.dumps({**good(), "cells": list(cells)}))
    return ledger.read([path])


EQUATION = markdown("# T\n\n$$\nx = y\n$$ (fwd-step)\n\n$$z$$ (def-z)\n\n`$$a$$ (fwd-not)`\n\n$$b$$\n\n$$(c)$$", "a")
HOLDS = stream("✓ (fwd-step) holds to 1e-10 · exact\n")


def test_the_ledger_of_a_good_notebook(tmp_path):
    monte_carlo = "✓ (fwd-step) holds within 4 standard errors of 1% · Monte Carlo\n"
    slip = "with check.slip('no root'):\n    check.exact('fwd-step', 1, 2)"
    book = read(
        tmp_path,
        EQUATION,
        code("%pip list\nrounding = 'two roundings'", "z", 1),
        code("check.exact('fwd-step', a, b, rtol=1e-12, why=rounding)", "b", 1, HOLDS),
        code("check.monte_carlo('fwd-step', a, b, resolution=0.01)", "c", 2, stream(monte_carlo)),
        code(slip, "d", 3, stream("✓ (fwd-step) catches the slip: no root · exact\n")),
    )  # fmt: skip
    assert book.problems == ()
    assert book.titles == {"01-a": "T"}
    step, definition = book.equations
    assert (step.label, step.tex, step.cell, step.is_definition) == ("fwd-step", "x = y", 0, False)
    assert (definition.label, definition.is_definition, definition.checks) == ("def-z", True, ())
    assert [(c.kind, c.cell, c.tolerance, c.why) for c in step.checks] == [
        ("exact", 2, "1e-12 of the largest element", "two roundings"),
        ("Monte Carlo", 3, "4 standard errors, at most 0.01", "from the spread of the samples"),
    ]
    assert [(c.slip, c.cell) for c in step.slips] == [("no root", 4)]
    table = ledger.table(book)
    assert table.startswith("**1 equations, 2 checks**: 0 symbolic, 1 exact, 1 Monte Carlo. **1 planted slips**")
    assert table.endswith(
        "| [fwd-step](#fwd-step) | $\\displaystyle x = y$"
        "<br>**exact**, to 1e-12 of the largest element: two roundings"
        "<br>**Monte Carlo**, to 4 standard errors, at most 0.01: from the spread of the samples"
        "<br>*slip caught*: no root |"
    )


def test_the_table_escapes_what_would_break_it(tmp_path):
    book = read(
        tmp_path,
        markdown("# T\n\n$$q(x|y) = \\|x\\|$$ (fwd-step)", "a"),
        code("check.exact('fwd-step', a, b, why='a | b * c_d')\n" * 2, "b", 1, HOLDS),
    )
    assert ledger.table(book).splitlines()[-1] == (
        "| [fwd-step](#fwd-step) | $\\displaystyle q(x\\vert y) = \\Vert x\\Vert $"
        "<br>**exact** ×2, to 1e-10 of the largest element: a \\| b \\* c\\_d |"
    )


LEDGER_PROBLEMS = [
    ([EQUATION], "(fwd-step) has no check in this notebook"),
    ([EQUATION, code("if False:\n    check.exact('fwd-step', a, b)", "b", 1)], "the check has not run"),
    ([EQUATION, code("check.exact('fwd-stop', a, b)", "b", 1, HOLDS)], "(fwd-stop), which is not an equation"),
    ([EQUATION, code("check.exact(f'fwd-{x}', a, b)", "b", 1, HOLDS)], "the label must be a literal string"),
    ([EQUATION, code("check.exact(lhs=a, rhs=b)", "b", 1, HOLDS)], "missing a required argument: 'label'"),
    ([EQUATION, code("check.exact(*everything)", "b", 1, HOLDS)], "missing a required argument: 'lhs'"),
    ([EQUATION, code("check.exact('fwd-step', a, b, tol=1)", "b", 1, HOLDS)], "unexpected keyword argument 'tol'"),
    ([EQUATION, code("check.exact('fwd-step', a, b, why=w)", "b", 1, HOLDS)], "why must be a literal string"),
    ([EQUATION, code("from diffnotes.book.check import exact", "b", 1)], "import check as a whole"),
    ([EQUATION, code("from diffnotes import check as c", "b", 1)], "import check as a whole"),
    ([EQUATION, code("for if", "b", 1)], "not Python"),
    ([EQUATION, code("with check.slip('no root'):\n    pass", "b", 1)], "exactly one check"),
    ([EQUATION, code("with check.slip(words):\n    check.exact('fwd-step', a, b)", "b", 1)], "described by a literal"),
    ([EQUATION] * 2 + [code("check.exact('fwd-step', a, b)", "b", 1, HOLDS)], "label (fwd-step) is already taken"),
    ([markdown("$$a$$ (1-step)", "a")], "(1-step) is not a label"),
    ([markdown("$$a$$ (fwd_step)", "a")], "(fwd_step) is not a label"),
    (
        [EQUATION, code("with check.slip('x'):\n    check.exact('fwd-step', 1, 2)", "b", 1,
                        stream("✓ (fwd-step) catches the slip: x · exact\n"))],
        "(fwd-step) has no check in this notebook",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "said"), LEDGER_PROBLEMS, ids=[f"{i}-{said}" for i, (_, said) in enumerate(LEDGER_PROBLEMS)]
)
def test_the_ledger_sees(tmp_path, cells, said):
    problems = read(tmp_path, *cells).problems
    assert any(said in problem for problem in problems), problems
