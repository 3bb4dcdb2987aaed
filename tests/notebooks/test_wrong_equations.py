"""Wrong equations, the slips that people make: each is put into the check of its label, which must fail.

The list is in wrong_equations.toml: a replacement of `old` by `new` in the cell that checks `label`, and what the slip
is. `make mutants` makes thousands of them by machine; these stand here so that every run of the tests tries them.
"""

import json
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIST = tomllib.loads(Path(__file__).with_name("wrong_equations.toml").read_text("utf-8"))["wrong"]
BY_NOTEBOOK = defaultdict(list)
for entry in LIST:
    BY_NOTEBOOK[entry["notebook"]].append(entry)

TRY = """
import json, sys
from pathlib import Path
import torch
from tools.check_mutants import unnoticed
torch.set_num_threads(1)
print(json.dumps(unnoticed(Path(sys.argv[1]), json.loads(sys.argv[2]))))
"""


def test_there_are_forty():
    assert len(LIST) >= 40


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
