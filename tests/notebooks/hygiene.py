"""The rules for a committed notebook, each a function from the notebook (a dict, as in its file) to its problems.

They hold what no reader sees and every reader needs: that the page, Colab, JupyterLab and GitHub all show the same,
that the saved outputs are those of one run from top to bottom, and that another machine's run gives the same text.
"""

import ast
import copy
import io
import itertools
import json
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import yaml

from diffnotes.book.ledger import prose, syntax_tree
from tools.notebooks import normalise

ROOT = Path(__file__).resolve().parents[2]
Notebook = dict[str, Any]
Cell = dict[str, Any]

MOST_LINES = 20  # of code in a cell, imports and blank lines not counted
MOST_BYTES = 3_000_000
PICTURE = "image/png"
TAGS = {"hide-input", "hide-output", "hide-cell", "remove-input", "remove-output", "remove-cell"}


@cache
def address() -> str:
    """The repository's address, from _config.yml."""
    return str(yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["repository"]["url"])


def bootstrap() -> str:
    """The first code cell of every notebook."""
    return (
        "# Colab and other fresh machines: install the package only where it is missing.\n"
        "import importlib.util\n\n"
        'if importlib.util.find_spec("diffnotes") is None:\n'
        f'    %pip install -q "diffnotes[notebooks] @ git+{address()}"'
    )


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def cells(notebook: Notebook, kind: str) -> Iterator[tuple[int, Cell]]:
    return ((i, cell) for i, cell in enumerate(notebook["cells"]) if cell["cell_type"] == kind)


def outputs(notebook: Notebook) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((i, output) for i, cell in cells(notebook, "code") for output in cell["outputs"])


def texts(output: dict[str, Any]) -> Iterator[str]:
    """What an output shows as text: a stream, or its plain, Markdown and HTML forms (embedded pictures left out)."""
    yield "".join(output.get("text", ""))
    for kind, data in output.get("data", {}).items():
        if kind.startswith("text/"):
            yield re.sub(r"data:image/\w+;base64,[\w+/=\\\s]+", "", "".join(data))


def alt_text(cell: Cell) -> str:
    return str(cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", ""))


def comments(cell: Cell) -> str:
    """The comments in a code cell."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source(cell)).readline))
    except (tokenize.TokenError, SyntaxError):  # such as a line `%pip`: its words are no prose
        return ""
    return " ".join(token.string for token in tokens if token.type == tokenize.COMMENT)


# ---- one run, from top to bottom ------------------------------------------------------------------------------


def executed_in_order(notebook: Notebook) -> Iterator[str]:
    """The execution counts are 1, 2, 3, ...: every code cell has run, once, in a fresh kernel."""
    for expected, (i, cell) in enumerate(cells(notebook, "code"), start=1):
        if cell.get("execution_count") != expected:
            yield f"cell {i}: execution count {cell.get('execution_count')}, expected {expected}"


def outputs_are_kept(notebook: Notebook) -> Iterator[str]:
    """A cell that shows something when it runs has an output: a stripped notebook would pass every comparison."""
    for i, cell in cells(notebook, "code"):
        if alt_text(cell) and not any(_is_figure(output) for output in cell["outputs"]):
            yield f"cell {i}: describes a figure, and has none"
        try:
            statements = [s for s in syntax_tree(cell).body if isinstance(s, ast.Expr | ast.With | ast.For)]
        except SyntaxError:
            yield f"cell {i}: is not Python"
            continue
        called = {ast.unparse(n.func) for s in statements for n in ast.walk(s) if isinstance(n, ast.Call)}
        shows = {f for f in called if f in ("print", "display", "plt.show") or f.startswith("check.")}
        if shows and not cell["outputs"]:
            yield f"cell {i}: calls {', '.join(sorted(shows))}, and has no output"


def nothing_went_wrong(notebook: Notebook) -> Iterator[str]:
    """No error and no stderr, which is where warnings and progress bars go."""
    for i, output in outputs(notebook):
        if output["output_type"] == "error":
            yield f"cell {i}: {output['ename']}: {output['evalue']}"
        elif output.get("name") == "stderr":
            yield f"cell {i}: stderr: {''.join(output['text'])[:80]!r}"
        elif output["output_type"] == "stream" and "\r" in "".join(output["text"]):
            yield f"cell {i}: a progress bar in the output"


# ---- the same file on every machine ---------------------------------------------------------------------------


def metadata_is_normalised(notebook: Notebook) -> Iterator[str]:
    """A valid notebook that `make notebooks` would save as it is: one kernel name, no timings, no editor's metadata."""
    if unnamed := [i for i, cell in enumerate(notebook["cells"]) if "id" not in cell]:
        yield f"not a valid notebook: no id on cells {unnamed}"
        return
    try:
        nbformat.validate(copy.deepcopy(notebook))  # which may mend what it validates
    except nbformat.ValidationError as error:
        yield f"not a valid notebook: {error.message}"
        return
    wanted = json.loads(json.dumps(normalise(nbformat.from_dict(copy.deepcopy(notebook)))))
    for key in sorted({*notebook, *wanted} - {"cells"}):
        if notebook.get(key) != wanted.get(key):
            yield f"{key}: {notebook.get(key)}, expected {wanted.get(key)}"
    for i, (cell, expected) in enumerate(zip(notebook["cells"], wanted["cells"], strict=True)):
        for key in sorted({*cell, *expected}):
            if cell.get(key) != expected.get(key):
                yield f"cell {i}: {key} is not normalised; run make notebooks"


def text_is_stable(notebook: Notebook) -> Iterator[str]:
    """No address in memory, which changes from run to run, and no path of the machine that ran it."""
    for i, output in outputs(notebook):
        for text in texts(output):
            if found := re.search(r"\bat 0x[0-9a-f]{6,}", text):
                yield f"cell {i}: the output holds an address in memory, {found[0]!r}"
    shown = [(i, source(cell)) for i, cell in enumerate(notebook["cells"])]
    shown += [(i, text) for i, output in outputs(notebook) for text in texts(output)]
    for i, text in shown:
        if found := re.search(
            r"(?<![\w.:/<])(/(home|root|work|tmp|Users|usr|opt|mnt|content|var)/|[A-Z]:\\\\)\S*", text
        ):
            yield f"cell {i}: an absolute path, {found[0]!r}"


def outputs_are_compared(notebook: Notebook) -> Iterator[str]:
    """Nothing that tells nbval, or the build, to look away; pictures as PNG or in HTML, which pictures.py compares.

    ipywidgets' `interact` draws at once into an output area that only a browser has: nbval then sees outputs that the
    saved notebook lacks, and a run without a browser can hang. A slider that redraws on change has neither fault.
    """
    for i, cell in cells(notebook, "code"):
        for tag in sorted(set(cell["metadata"].get("tags", [])) - TAGS):
            yield f"cell {i}: the tag {tag!r} is none of {sorted(TAGS)}"
        if re.search(r"^\s*#\s*(NBVAL|PYTEST_VALIDATE)_", source(cell), re.MULTILINE):
            yield f"cell {i}: a comment that switches nbval off"
        if found := re.search(r"\b(interact|interactive|interactive_output)\(", source(cell)):
            yield f"cell {i}: {found[1]} draws before there is a browser; redraw on change instead"
    allowed = {PICTURE, "text/plain", "text/html", "text/markdown", "text/latex"}
    for i, output in outputs(notebook):
        for kind in sorted(set(output.get("data", {})) - allowed):
            yield f"cell {i}: an output of type {kind}, expected one of {sorted(allowed)}"


def nothing_from_outside(notebook: Notebook) -> Iterator[str]:
    """No script, style, font or picture that the page would fetch from another host."""
    for i, text in [(i, text) for i, output in outputs(notebook) for text in texts(output)] + [
        (i, source(cell)) for i, cell in cells(notebook, "markdown")
    ]:
        for tag in re.findall(r"<(?:script|link|img|iframe|source|video)\b[^>]*?(?:https?:)?//[^>]*>", text):
            yield f"cell {i}: fetches from outside: {tag[:80]}"
        for image in re.findall(r"!\[[^\]]*\]\(\s*(?:https?:)?//[^)]*\)", text):
            yield f"cell {i}: fetches from outside: {image[:80]}"


def is_small(notebook: Notebook) -> Iterator[str]:
    """A page stays under 3 MB, so the notebook does."""
    size = len(json.dumps(notebook, ensure_ascii=False).encode())
    if size > MOST_BYTES:
        yield f"{size / 1e6:.1f} MB, at most {MOST_BYTES / 1e6:.1f}"


# ---- for the reader -------------------------------------------------------------------------------------------


def bootstrap_comes_first(notebook: Notebook) -> Iterator[str]:
    """The first code cell installs the package where it is missing, word for word, and no other cell installs."""
    for n, (i, cell) in enumerate(cells(notebook, "code")):
        if n == 0 and source(cell) != bootstrap():
            yield f"cell {i}: the first code cell must be the bootstrap cell:\n{bootstrap()}"
        if n > 0 and re.search(r"\b(pip|conda) install\b", source(cell)):
            yield f"cell {i}: only the bootstrap cell may install"
    if not any(cells(notebook, "code")):
        yield "no code cell, and so no bootstrap cell"


def _is_figure(output: dict[str, Any]) -> bool:
    data = output.get("data", {})
    return PICTURE in data or "<img" in "".join(data.get("text/html", ""))


def figures_are_described(notebook: Notebook) -> Iterator[str]:
    """Every figure has a text for those who cannot see it: in the cell's metadata, or on an HTML player itself."""
    for i, cell in cells(notebook, "code"):
        for output in cell["outputs"]:
            if not _is_figure(output):
                continue
            page = "".join(output["data"].get("text/html", ""))
            described = re.findall(r"<img\b[^>]*?\balt=\"([^\"]*)\"", page) if "<img" in page else [alt_text(cell)]
            if len(described) < page.count("<img"):
                yield f"cell {i}: a picture in the HTML has no alt"
            for alt in described:
                if len(alt.split()) < 5 or re.search(r"\.(png|jpe?g|svg)\b", alt):
                    yield f"cell {i}: the figure's alt text says too little: {alt!r}"
    for i, cell in cells(notebook, "markdown"):
        for alt in re.findall(r"!\[([^\]]*)\]\(", prose(cell)):
            if len(alt.split()) < 5:
                yield f"cell {i}: the picture's alt text says too little: {alt!r}"


def cells_are_short(notebook: Notebook) -> Iterator[str]:
    """A longer code cell belongs in the package."""
    for i, cell in cells(notebook, "code"):
        written = [line for line in source(cell).splitlines() if line.strip()]
        lines = [line for line in written if not re.match(r"\s*(import|from)\b", line)]
        if len(lines) > MOST_LINES:
            yield f"cell {i}: {len(lines)} lines of code, at most {MOST_LINES}"


def figures_have_captions(notebook: Notebook) -> Iterator[str]:
    """Every figure has a number, by its name `fig-...`, and a caption that says what to see in it."""
    names: set[str] = set()
    for i, cell in cells(notebook, "code"):
        if not any(_is_figure(output) for output in cell["outputs"]):
            continue
        figure = cell["metadata"].get("mystnb", {}).get("figure", {})
        name, caption = figure.get("name", ""), figure.get("caption", "")
        if not re.fullmatch(r"fig-[a-z0-9-]+", name) or name in names:
            yield f"cell {i}: the figure's name must be a new one of the form fig-..., got {name!r}"
        if len(caption.split()) < 5 or not caption.endswith("."):
            yield f"cell {i}: the figure's caption must be a sentence, got {caption!r}"
        names.add(name)


def checks_and_drawings_are_folded(notebook: Notebook) -> Iterator[str]:
    """What a reader looks at is the verdict or the figure; a cell that teaches by being read does neither."""
    for n, (i, cell) in enumerate(cells(notebook, "code")):
        folded = {"hide-input", "remove-cell"} & set(cell["metadata"].get("tags", []))
        checks = re.search(r"\bcheck\.\w+\(", source(cell))
        draws = any(_is_figure(output) for output in cell["outputs"])
        imports = re.search(r"^(import|from)\b", source(cell), re.MULTILINE)
        if (checks or draws or (imports and n)) and not folded:
            kind = "checks" if checks else "draws" if draws else "imports"
            yield f"cell {i}: a cell that {kind} needs the tag 'hide-input'"
        if imports and n > 1:
            yield f"cell {i}: imports belong in the second code cell"


def code_is_plain(notebook: Notebook) -> Iterator[str]:
    """No two statements packed into a tuple, and no comment behind a bracket that it would split."""
    for i, cell in cells(notebook, "code"):
        for line in source(cell).splitlines():
            if re.search(r"[(\[{]\s+#|^\s*[)\]}]+\s+#", line) and not line.strip().endswith(("fmt: skip", "noqa")):
                yield f"cell {i}: a comment goes above its statement: {line.strip()!r}"
        try:
            nodes = list(ast.walk(syntax_tree(cell)))
        except SyntaxError:
            continue
        for node in nodes:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
                packed = [v for v in node.value.elts if not isinstance(v, ast.Name | ast.Constant | ast.Attribute)]
                if any(isinstance(target, ast.Tuple) for target in node.targets) and packed:
                    yield f"cell {i}: several statements in one line: {ast.unparse(node)!r}"


FREE = {"fig", "ax", "axes", "_"}


def names_mean_one_thing(notebook: Notebook) -> Iterator[str]:
    """A global name is given in one cell only. Those of loops may be used again, by loops."""
    given: dict[str, tuple[int, str]] = {}
    for i, cell in cells(notebook, "code"):
        try:
            body = syntax_tree(cell).body
        except SyntaxError:
            continue
        for name, kind in sorted(set(_globals(body))):
            before, how = given.setdefault(name, (i, kind))
            if name not in FREE and (before != i or how != kind) and not how == kind == "loop":
                yield f"cell {i}: {name} is given ({kind}), and already in cell {before} ({how})"


def _globals(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """The global names that statements give, each with how: by a loop, or otherwise."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, "def"
        elif isinstance(node, ast.For):
            yield from ((n.id, "loop") for n in ast.walk(node.target) if isinstance(n, ast.Name))
            yield from _globals(node.body)
        elif isinstance(node, ast.If | ast.With | ast.Try | ast.While):
            for item in getattr(node, "items", []):
                if item.optional_vars is not None:
                    yield from ((n.id, "loop") for n in ast.walk(item.optional_vars) if isinstance(n, ast.Name))
            yield from _globals(node.body)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                yield from (
                    (n.id, "=") for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
                )


def headings_are_in_order(notebook: Notebook) -> Iterator[str]:
    """The first cell opens with the only heading of level 1, the title, and no level is left out on the way down."""
    found = [
        (i, len(hashes))
        for i, cell in cells(notebook, "markdown")
        for hashes in re.findall(r"^(#{1,6}) ", prose(cell), re.MULTILINE)
    ]
    if not found or found[0] != (0, 1):
        yield "the first cell must open with a heading of level 1"
    for (_, above), (i, level) in itertools.pairwise(found):
        if level == 1:
            yield f"cell {i}: a second heading of level 1"
        elif level > above + 1:
            yield f"cell {i}: a heading of level {level} under one of level {above}"


NOT_PORTABLE = {
    "a MyST directive": r"^ {0,3}(`{3,}|~{3,}|:{3,}) *\{",
    "a MyST colon fence": r"^ {0,3}:{3,}",
    "a MyST role": r"\{[a-z][a-z:+-]*\}`",
    "a MyST target": r"^\([\w-]+\)=\s*$",
    "a MyST block break": r"^\+\+\+",
    "a MyST comment": r"^%",
    "a MyST substitution": r"\{\{.*?\}\}",
    "a footnote": r"\[\^",
    "a link definition apart from its link": r"^\[[^\]]+\]:",
    "an admonition of GitHub's own": r"\[!(NOTE|TIP|IMPORTANT|WARNING|CAUTION)\]",
    "a definition list": r"^:[ \t]+\S",
    "a label, tag or reference in TeX; write $$ ... $$ (label)": r"\\(label|tag|eqref|ref|nonumber|notag)\b",
    "an environment; write aligned in $$ ... $$": r"\\begin\{(align|equation|gather|multline|eqnarray)\*?\}",
    "maths quotes of GitHub's own": r"\$`|`\$",
    "maths in brackets; write $ or $$": r"\\[(\[][^\n]*\\[)\]]",
    "TeX outside of $": r"\\[a-zA-Z]{2,}|\b[a-zA-Z]_\{",
    "HTML": r"<(?!/?(details|summary|br|sub|sup|kbd|img|https?:)\b)/?[a-zA-Z][^>\n]*>",
}


def markdown_is_portable(notebook: Notebook) -> Iterator[str]:
    """Only what the book, Colab, JupyterLab and GitHub all render."""
    for i, cell in cells(notebook, "markdown"):
        text = prose(cell)
        words = re.sub(r"\$\$.*?\$\$|\$[^$]+\$", "", text, flags=re.DOTALL)
        # code fences are the form of a directive, and a < in a formula opens no tag
        readings = {"a MyST directive": source(cell), "HTML": words, "TeX outside of $": words}
        for name, pattern in NOT_PORTABLE.items():
            if found := re.search(pattern, readings.get(name, text), re.MULTILINE):
                yield f"cell {i}: not portable: {name}: {found[0]!r}"
        yield from (f"cell {i}: {problem}" for problem in (*_display_maths(text), *_table_maths(text), *_details(text)))


def _display_maths(text: str) -> Iterator[str]:
    """`$$` stands in pairs, each block apart from the prose, with nothing after it but its label."""
    parts = text.split("$$")
    if len(parts) % 2 == 0:
        yield "an odd number of $$"
        return
    for i in range(1, len(parts), 2):
        tex, before, after = parts[i].strip(), parts[i - 1], parts[i + 1]
        if not tex:
            yield "an empty $$ $$"
        if "\n\n" in parts[i].replace(" ", ""):
            yield f"a blank line within $$ ... $$, which ends it for most readers: {tex[:40]!r}"
        if before and not re.search(r"(^|\n[ \t]*\n)[ \t]*$", before):
            yield f"$$ must open a paragraph of its own: {tex[:40]!r}"
        if not re.match(r"([ \t]+\([a-z][a-z0-9-]*\))?[ \t]*(\n[ \t]*\n|\n?\s*$)", after):
            yield f"$$ must close a paragraph of its own, with ' (label)' or nothing behind it: {tex[:40]!r}"


def _table_maths(text: str) -> Iterator[str]:
    """A bar ends a column, in a formula too."""
    for row in re.findall(r"^\|.*\|[ \t]*$", text, re.MULTILINE):
        for formula in re.findall(r"\$[^$]+\$", row):
            if "|" in formula:
                yield f"a bar in a formula in a table, write \\mid, \\vert or \\Vert: {formula}"


_OPENING = re.compile(r"^<details>\s*<summary>[^<\n]+</summary>[ \t]*\n[ \t]*\n", re.MULTILINE)
_CLOSING = re.compile(r"\n[ \t]*\n</details>[ \t]*(?:\n[ \t]*\n|\s*$)")


def _details(text: str) -> Iterator[str]:
    """A folded solution has blank lines inside its tags, or its Markdown would stay raw."""
    opened, closed = text.count("<details"), text.count("</details>")
    if opened != closed:
        yield "details are opened and closed unequally often"
    if len(_OPENING.findall(text)) != opened:
        yield "a <details> must read <details><summary>...</summary>, then a blank line"
    if len(_CLOSING.findall(text)) != closed:
        yield "a </details> must stand between blank lines"


_STEMS = (
    "character discret factor general initial local margin maxim memor minim normal optim organ parameter penal quant "
    "random real recogn regular stabil standard summar symbol synchron util visual"
).replace(" ", "|")
AMERICAN = re.compile(
    rf"\b\w*(?:{_STEMS})iz(?:e[drs]?|ers|ing|ations?)\b"
    r"|\b\w*(?:color(?:s|ed|ing|ful)?|behaviors?|favor(?:s|ed|ite|able)?|neighbor\w*|honor\w*|labor)\b"
    r"|\b(?:model|label|cancel|travel)(?:ed|ing)\b"
    r"|\b(?:analyz\w*|paralyz\w*|center(?:s|ed|ing)?|fiber|gray|catalog|defense|skeptic\w*|artifacts?|fulfill)\b",
    re.IGNORECASE,
)


def american(text: str) -> list[str]:
    """The words of a text that are spelt the American way; maths, code, link targets and addresses are not read."""
    text = _CODE_AND_MATHS.sub(" ", text)
    return [found[0] for found in AMERICAN.finditer(text)]


_CODE_AND_MATHS = re.compile(
    r"^ *(`{3,}|~{3,}).*?^ *\1|\$\$.*?\$\$|\$[^$\n]+\$|(`+)[^`].*?\2|\]\([^)]*\)|https?://\S+|<[^>\n]*>",
    re.DOTALL | re.MULTILINE,
)


def spelling_is_british(notebook: Notebook) -> Iterator[str]:
    """In the prose, the comments and the alt texts."""
    for i, cell in enumerate(notebook["cells"]):
        text = source(cell) if cell["cell_type"] == "markdown" else f"{comments(cell)} {alt_text(cell)}"
        for word in american(text):
            yield f"cell {i}: {word!r} is not British spelling"


RULES = (
    executed_in_order,
    outputs_are_kept,
    nothing_went_wrong,
    metadata_is_normalised,
    text_is_stable,
    outputs_are_compared,
    nothing_from_outside,
    is_small,
    bootstrap_comes_first,
    figures_are_described,
    figures_have_captions,
    checks_and_drawings_are_folded,
    cells_are_short,
    code_is_plain,
    names_mean_one_thing,
    headings_are_in_order,
    markdown_is_portable,
    spelling_is_british,
)
