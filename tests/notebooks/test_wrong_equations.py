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


def test_there_are_forty_and_each_stands_on_a_page():
    assert len(LIST) >= 40
    tried = [entry for entries in BY_NOTEBOOK.values() for entry in entries]
    assert [entry for entry in LIST if tried.count(entry) != 1] == []


def test_what_a_cell_depends_on_is_run_and_no_more():
    cells = [
        "import math\nslow = math.pi\nrows = {}\nn = 1",
        "n = 2\nrows['a'] = n\nfor k in 'bc':\n    rows[k] = k\ntable = [slow]\ncheck.exact('a-b', table, table)",
        "total = lambda slow: slow + len(rows)",
        "check.exact('a-c', total(1), 4)",
    ]
    kept = needed([ast.parse(cell) for cell in cells], {3})
    assert [ast.unparse(tree).split("\n") for tree in kept] == [
        ["import math", "rows = {}"],
        ["n = 2", "rows['a'] = n", "for k in 'bc':", "    rows[k] = k"],
        ["total = lambda slow: slow + len(rows)"],
        ["check.exact('a-c', total(1), 4)"],
    ]


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
