"""The ledger: every labelled equation of the notebooks, with the checks that name it.

It reads the files of the notebooks (their JSON, and the syntax tree of their code) and runs nothing. The tests require
its list of problems to be empty; the book's page of checked equations is its table.
"""

import ast
import inspect
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffnotes.book import check

DEEPER = "-deeper"  # a chapter is a core page, 01-forward, and a deeper one, 01-forward-deeper

# function -> word on the page
KINDS = {"symbolic": "symbolic", "exact": "exact", "monte_carlo": "Monte Carlo"}

# `$$ ... $$ (label)`, the only form of a labelled equation in the book. Blocks without a label match too, so that the
# next search starts after them and not at their closing `$$`
DISPLAY = re.compile(r"\$\$(?P<tex>.+?)\$\$(?:[ \t]*\((?P<label>[^()\s]+)\))?", re.DOTALL)
_FENCED = re.compile(r"^ {0,3}(`{3,}|~{3,}).*?^ {0,3}\1[`~]*[ \t]*$", re.DOTALL | re.MULTILINE)
_QUOTED = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n\n).)+?)(?<!`)\1(?!`)", re.DOTALL)


@dataclass(frozen=True)
class Check:
    """One call of a check in a notebook."""

    notebook: str  # file name without .ipynb
    label: str
    kind: str  # "symbolic", "exact" or "Monte Carlo"
    cell: int  # the index of its cell in the notebook
    tolerance: str  # in words, with the numbers in the call; empty for a symbolic check
    why: str  # where the tolerance comes from
    slip: str  # the mistake that it must catch; empty for a check that must hold


@dataclass(frozen=True)
class Equation:
    """One labelled equation, with its checks in the same chapter."""

    notebook: str  # file name without .ipynb
    label: str
    tex: str
    cell: int
    checks: tuple[Check, ...]  # those that must hold
    slips: tuple[Check, ...]  # those that must fail

    @property
    def is_definition(self) -> bool:
        """Whether the equation only defines something, so that there is nothing to check."""
        return self.label.startswith("def-")


@dataclass(frozen=True)
class Ledger:
    """The equations in the order of the book, the title of each notebook, and everything that is wrong."""

    equations: tuple[Equation, ...]
    titles: dict[str, str]
    problems: tuple[str, ...]


def notebooks(folder: Path) -> list[Path]:
    """The notebooks of a folder in the order of the book: each chapter's deeper page behind its core page."""
    return sorted(folder.glob("*.ipynb"), key=lambda path: path.stem)


def chapter(notebook: str) -> str:
    """The chapter that a notebook belongs to, by the name of its core page."""
    return notebook.removesuffix(DEEPER)


def read(notebooks: Sequence[Path]) -> Ledger:
    """Match every labelled equation of the notebooks, paths in the order of the book, with the checks that name it.

    Returns:
        The ledger. Its problems are: an equation without a check that holds on its own page; a check of a label that
        is not in its own chapter; a label that is taken, or not of the form `fwd-step`; a check whose label is not a
        literal string, or which, by the saved outputs, has not run; a slip around more or fewer checks than one; a
        cell that is not Python; and an import of `check` that would hide its calls.
    """
    equations: list[Equation] = []
    titles: dict[str, str] = {}
    pages = {path.stem: json.loads(path.read_text(encoding="utf-8"))["cells"] for path in notebooks}
    readers = [_Reader(name, cells) for name, cells in pages.items()]
    checks = [c for reader in readers for c in reader.checks]
    problems = [problem for reader in readers for problem in reader.problems]
    for name, cells in pages.items():
        heading = re.search(r"^# +(.+)$", "\n".join(prose(cell) for cell in cells), re.MULTILINE)
        titles[name] = heading[1].strip() if heading else name
        for i, cell in enumerate(cells):
            for label, tex in labelled_equations(cell):
                mine = [c for c in checks if c.label == label and chapter(c.notebook) == chapter(name)]
                holding = tuple(c for c in mine if not c.slip)
                equations.append(Equation(name, label, tex, i, holding, tuple(c for c in mine if c.slip)))
    problems += _label_problems(equations, checks)
    return Ledger(tuple(equations), titles, tuple(problems))


def prose(cell: dict[str, Any]) -> str:
    """The text of a Markdown cell, with quoted code reduced to its quotes; empty for a code cell."""
    if cell["cell_type"] != "markdown":
        return ""
    return _QUOTED.sub("``", _FENCED.sub("", "".join(cell["source"])))


def labelled_equations(cell: dict[str, Any]) -> list[tuple[str, str]]:
    """The (label, TeX) pairs of the labelled equations in a cell."""
    displays = DISPLAY.finditer(prose(cell))
    return [(found["label"], found["tex"].strip()) for found in displays if found["label"]]


def syntax_tree(cell: dict[str, Any]) -> ast.Module:
    """The syntax tree of a code cell, with lines such as `%pip install ...` replaced by `pass`.

    Raises:
        SyntaxError: even then it is not Python.
    """
    source = "".join(cell["source"])
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.parse(re.sub(r"^([ \t]*)[%!].*$", r"\1pass", source, flags=re.MULTILINE))


def noticed(results: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """For each label how many mutants of its checks were tried, and how many were noticed: of `make mutants`."""
    counts: dict[str, tuple[int, int]] = {}
    for cells in results.values():
        for cell in cells.values():
            for label, (tried, killed) in cell["labels"].items():
                before = counts.get(label, (0, 0))
                counts[label] = before[0] + tried, before[1] + killed
    return counts


def table(book: Ledger, mutants: Mapping[str, tuple[int, int]] | None = None) -> str:
    """The ledger in Markdown: the totals, then a table for each notebook, with a link to each equation.

    A link `[fwd-step](#fwd-step)` becomes the equation's number in the built book. JupyterLab, Colab and GitHub do not
    follow it, and show the label.

    Args:
        mutants: what `noticed` gives, to be told beside each equation.
    """
    equations = [e for e in book.equations if not e.is_definition]
    checks = [c for e in equations for c in e.checks]
    slips = sum(len(e.slips) for e in equations)
    counts = Counter(c.kind for c in checks)
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS.values())
    lines = [
        f"**{len(equations)} equations, {len(checks)} checks**: {kinds}. **{slips} planted slips**, each caught. "
        f"{len(book.equations) - len(equations)} labelled definitions, which need no check."
    ]
    for name, title in book.titles.items():
        mine = [e for e in equations if e.notebook == name]
        if mine:
            lines += ["", f"**[{title}]({name}.ipynb)**", "", "| | equation, and how it is checked |", "|---|---|"]
            lines += [_row(equation, (mutants or {}).get(equation.label)) for equation in mine]
    return "\n".join(lines)


# ---- what they are made of ------------------------------------------------------------------------------------


def _row(equation: Equation, mutants: tuple[int, int] | None) -> str:
    tex = re.sub(r"\s+", " ", equation.tex).replace("\\|", "\\Vert ").replace("|", "\\vert ")
    ways = Counter((c.kind, c.tolerance, c.why) for c in equation.checks)
    checks = [
        f"**{kind}**{f' ×{n}' * (n > 1)}{f', to {tolerance}' * bool(tolerance)}: {_escaped(why)}"
        for (kind, tolerance, why), n in ways.items()
    ]
    slips = [f"*slip caught*: {_escaped(c.slip)}" for c in equation.slips]
    lines = [f"$\\displaystyle {tex}$", *checks, *slips]
    if mutants:
        lines.append(f"*mutants noticed*: {mutants[1]} of {mutants[0]}")
    return f"| [{equation.label}](#{equation.label}) | {'<br>'.join(lines)} |"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_$|<>\[\]])", r"\\\1", text)


def _label_problems(equations: Sequence[Equation], checks: Sequence[Check]) -> Iterator[str]:
    known = {(chapter(equation.notebook), equation.label) for equation in equations}
    for c in checks:
        if (chapter(c.notebook), c.label) not in known:
            yield f"{c.notebook}, cell {c.cell}: a check names ({c.label}), which is not an equation of this chapter"
    seen: dict[str, str] = {}
    for equation in equations:
        at = f"{equation.notebook}, cell {equation.cell}"
        if equation.label in seen:
            yield f"{at}: the label ({equation.label}) is already taken by {seen[equation.label]}"
        seen.setdefault(equation.label, at)
        if not check.LABEL.fullmatch(equation.label):
            yield f"{at}: ({equation.label}) is not a label: lower-case words joined by '-', a letter first"
        if not equation.is_definition and not any(c.notebook == equation.notebook for c in equation.checks):
            yield f"{at}: ({equation.label}) has no check in this notebook"


class _Reader(ast.NodeVisitor):
    """The checks in a notebook, in order, and whatever is wrong with them."""

    def __init__(self, notebook: str, cells: list[dict[str, Any]]) -> None:
        self.notebook = notebook
        self.texts: dict[str, str] = {}  # literal strings that the notebook has named so far
        self.slip = ""  # the one around the place that is read
        self.checks: list[Check] = []
        self.problems: list[str] = []
        for i, cell in enumerate(cells):
            if cell["cell_type"] == "code":
                self.cell = i
                stdout = ["".join(output["text"]) for output in cell["outputs"] if output.get("name") == "stdout"]
                self.printed = "".join(stdout).splitlines()
                try:
                    self.visit(syntax_tree(cell))
                except SyntaxError as error:
                    self.complain(f"not Python: {error.msg}, line {error.lineno}")

    def complain(self, problem: str) -> None:
        self.problems.append(f"{self.notebook}, cell {self.cell}: {problem}")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        names = [alias.asname for alias in node.names if alias.name == "check"]
        if node.module == "diffnotes.book.check" or (node.module == "diffnotes" and any(names)):
            self.complain("import check as a whole and unrenamed, or its calls are not counted")

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.texts[target.id] = _literal(node.value)
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        slips = [item.context_expr for item in node.items if _called(item.context_expr) == "slip"]
        outer, before = self.slip, len(self.checks)
        for call in slips:
            assert isinstance(call, ast.Call)
            self.slip = _literal(call.args[0]) if call.args else ""
            if not self.slip:
                self.complain("a slip must be described by a literal string")
        self.generic_visit(node)
        self.slip = outer
        if slips and len(self.checks) != before + 1:
            self.complain("a slip must contain exactly one check: nothing runs after one that fails")

    def visit_Call(self, node: ast.Call) -> None:
        function = _called(node)
        if function in KINDS:
            self._add(node, function)
        self.generic_visit(node)

    def _add(self, node: ast.Call, function: str) -> None:
        keywords = {keyword.arg or "**": keyword.value for keyword in node.keywords}
        try:
            given = inspect.signature(getattr(check, function)).bind(*node.args, **keywords)
        except TypeError as error:
            self.complain(f"check.{function}: {error}")
            return
        label = _literal(given.arguments["label"])
        if not label:
            self.complain(f"check.{function}: the label must be a literal string")
            return
        given.apply_defaults()
        words = {k: ast.unparse(v) if isinstance(v, ast.AST) else str(v) for k, v in given.arguments.items()}
        tolerance, usual = _tolerance(function, words)
        given_why = keywords.get("why", ast.Constant(usual))
        why = self.texts.get(given_why.id, "") if isinstance(given_why, ast.Name) else _literal(given_why)
        if not why:
            self.complain(f"check.{function}: why must be a literal string, or the name of an earlier one")
        line = check.verdict(label, KINDS[function], "…", self.slip)
        start, _, end = line.partition("…")  # how close is not looked at
        if not any(text.startswith(start) and text.endswith(end) for text in self.printed):
            self.complain(f"the check has not run: the saved output lacks the line '{line}'")
        self.checks.append(Check(self.notebook, label, KINDS[function], self.cell, tolerance, why, self.slip))


def _called(node: ast.AST) -> str:
    """The name f in a call `check.f(...)`, or an empty string."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="check"), attr=name)):
            return name
    return ""


def _literal(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _tolerance(function: str, words: dict[str, str]) -> tuple[str, str]:
    """The tolerance of a check in words, and where it comes from if the call does not say."""
    if function == "symbolic":
        return "", "the difference simplifies to 0"
    if function == "exact":
        scale = "of each element" if words["elementwise"] == "True" else "of the largest element"
        return f"{words['rtol']} {scale}", "float64 rounding, about 1e-16 per operation"
    finest = f", at most {words['resolution']}" if words["resolution"] != "None" else ""
    return f"{words['z']} standard errors{finest}", "from the spread of the samples"
