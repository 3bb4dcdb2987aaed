"""Wrong equations, the slips that people make: each is put into the check of its label, which must fail.

The list is in wrong_equations.toml: a replacement of `old` by `new` in the cell that checks `label`, and what the slip
is. `make mutants` makes thousands of them by machine; these stand here so that every run of the tests tries them.
"""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from diffnotes.book import ledger
from tools.check_mutants import needed

ROOT = Path(__file__).resolve().parents[2]
LIST = tomllib.loads(Path(__file__).with_name("wrong_equations.toml").read_text("utf-8"))["wrong"]
CODE = {
    path.stem: ["".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"]]
    for path in (ROOT / "book").glob("0*.ipynb")
}


def holds(code: str, entry: dict[str, str]) -> bool:
    return entry["old"] in code and f'"{entry["label"]}"' in code


BY_NOTEBOOK = {
    name: [entry for entry in LIST if any(holds(code, entry) for code in cells)] for name, cells in CODE.items()
}
BY_NOTEBOOK = {name: entries for name, entries in BY_NOTEBOOK.items() if entries}

TRY = """
import json, sys
from pathlib import Path
import torch
from tools.check_mutants import unnoticed
torch.set_num_threads(1)
print(json.dumps(unnoticed(Path(sys.argv[1]), json.loads(sys.argv[2]))))
"""


def test_each_stands_once_in_one_cell():
    cells = [code for cells in CODE.values() for code in cells]
    counts = [[code.count(entry["old"]) for code in cells if holds(code, entry)] for entry in LIST]
    odd = [entry for entry, found in zip(LIST, counts, strict=True) if found != [1]]
    assert odd == [], "no cell with a check of the label holds this text, or it stands there more than once"
    assert len({(entry["label"], entry["old"], entry["new"]) for entry in LIST}) == len(LIST), "an entry stands twice"


def test_each_equation_that_is_no_definition_has_one():
    equations = ledger.read(ledger.notebooks(ROOT / "book")).equations
    labels = [equation.label for equation in equations if not equation.is_definition]
    assert len(labels) > 100
    assert sorted(set(labels) - {entry["label"] for entry in LIST}) == [], "equations without a wrong one"


def test_what_a_cell_depends_on_is_run_and_no_more():
    cells = [
        "import math\nslow = math.pi\nrows = {}\nn = 1",
        "n = 2\nn += 1\nrows['a'] = n\nfor k in 'bc':\n    rows[k] = k\ntable = [slow]\ncheck.exact('a-b', table, 1)",
        "total = lambda slow: slow + len(rows)",
        "check.exact('a-c', total(1), 4)",
    ]
    kept = needed([ast.parse(cell) for cell in cells], {(3, 1)})
    assert [ast.unparse(tree).split("\n") for tree in kept] == [
        ["import math", "rows = {}"],
        ["n = 2", "n += 1", "rows['a'] = n", "for k in 'bc':", "    rows[k] = k"],
        ["total = lambda slow: slow + len(rows)"],
        ["check.exact('a-c', total(1), 4)"],
    ]
    assert ast.unparse(needed([ast.parse("a = 1\nb = a\nc = 2\nprint(b)")], {(0, 2)})[0]) == "a = 1\nb = a"


def test_a_wrong_equation_that_cannot_be_computed_is_told(tmp_path):
    code = "from diffnotes.book import check\na = 2.0\ncheck.exact('a-b', a * a, 4.0)"
    cell = {"cell_type": "code", "id": "c", "source": code.splitlines(keepends=True), "outputs": []}
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [cell]}), "utf-8")
    asked = [
        {"label": "a-b", "old": "a * a", "new": new, "slip": "a slip"} for new in ("a", "nosuch * a", "[a]", "2 * a")
    ]
    ran = subprocess.run(
        [sys.executable, "-c", TRY, str(tmp_path / "a.ipynb"), json.dumps(asked)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found == [f"(a-b) passes with a slip: {new}" for new in ("nosuch * a", "[a]", "2 * a")], ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BY_NOTEBOOK))
def test_a_wrong_equation_is_noticed(name):
    """In a process of its own, which forks: the notebook runs up to the last cell on the list."""
    path = ROOT / "book" / f"{name}.ipynb"
    ran = subprocess.run(
        [sys.executable, "-c", TRY, str(path), json.dumps(BY_NOTEBOOK[name])], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == []
