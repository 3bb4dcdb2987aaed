"""What is declared of versions agrees, in all the files that declare it. What is declared is run by `make matrix`."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools import matrix

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOR_THE_NOTEBOOKS = [Requirement(line) for line in PROJECT["dependencies"] + EXTRAS["notebooks"]]
NAMES = [requirement.name for requirement in FOR_THE_NOTEBOOKS]


def lines(path: str) -> list[str]:
    """The lines of a requirements file, without comments and options."""
    text = (ROOT / path).read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith(("#", "-"))]


def pins(path: str) -> dict[str, str]:
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines(path))}


# ---- Colab ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("requirement", FOR_THE_NOTEBOOKS, ids=NAMES)
def test_an_install_on_colab_keeps_what_colab_has(requirement):
    """Its version is within our bounds; or Colab has none, and this is known."""
    has = pins("tests/constraints/colab.txt").get(canonicalize_name(requirement.name))
    if canonicalize_name(requirement.name) in matrix.NOT_ON_COLAB:
        assert has is None
    else:
        assert has is not None, f"{requirement.name} is neither in colab.txt nor in NOT_ON_COLAB"
        assert has in requirement.specifier, f"pip would replace Colab's {requirement.name} {has}"


def test_colabs_list_says_when_and_whence():
    head = (ROOT / "tests/constraints/colab.txt").read_text("utf-8").split("anyio")[0]
    assert re.search(r"\b20\d\d-\d\d-\d\d\b", head)
    assert "googlecolab/backend-info" in head


# ---- Binder -----------------------------------------------------------------------------------------------------


def test_binder_takes_what_the_notebooks_need_in_the_versions_of_the_requirements_and_torch_for_the_cpu():
    asked = [Requirement(line) for line in lines(".binder/requirements.txt")]
    assert [requirement.name for requirement in asked if requirement.specifier] == ["torch"]
    assert {canonicalize_name(r.name) for r in asked} == set(map(canonicalize_name, NAMES))
    assert "-c ../requirements.txt" in (ROOT / ".binder/requirements.txt").read_text("utf-8").splitlines()
    assert str(asked[0].specifier) == f"=={pins('requirements.txt')['torch']}+cpu"


def test_binder_has_a_python_that_the_package_supports():
    found = (ROOT / ".binder/runtime.txt").read_text("utf-8").strip().removeprefix("python-")
    assert found in {version for version, _ in matrix.ENVIRONMENTS.values()}


# ---- what is declared, and what is run --------------------------------------------------------------------------


def test_every_requirement_has_a_lower_bound():
    for requirement in map(Requirement, [line for rs in [PROJECT["dependencies"], *EXTRAS.values()] for line in rs]):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert requirement.name == "diffnotes" or ">=" in operators, requirement


def test_the_pythons_that_are_declared_are_those_that_are_run():
    run = {version for version, _ in matrix.ENVIRONMENTS.values()}
    declared = {c.split(" :: ")[-1] for c in PROJECT["classifiers"] if "Python :: 3." in c}
    assert declared == run
    assert PROJECT["requires-python"] == f">={min(run, key=Version)}"
    assert matrix.ENVIRONMENTS["lowest"][0] == min(run, key=Version)


def test_the_workflow_runs_each_environment_on_its_python_and_every_week():
    workflow = yaml.safe_load((ROOT / ".github/workflows/book.yml").read_text("utf-8"))
    included = workflow["jobs"]["versions"]["strategy"]["matrix"]["include"]
    assert {job["name"]: job["python"] for job in included} == {
        name: version for name, (version, _) in matrix.ENVIRONMENTS.items()
    }
    assert workflow[True]["schedule"]  # YAML reads the word "on" so
    assert workflow["jobs"]["publish"]["needs"] == "check"


def test_the_workflow_lets_the_check_cut_the_network_off():
    """Ubuntu forbids user namespaces to those who are not root, and then tools/offline cuts nothing off."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/book.yml").read_text("utf-8"))
    commands = [step.get("run", "") for step in workflow["jobs"]["check"]["steps"]]
    allowed = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    assert allowed in commands[: commands.index(".ci/run")]


def test_the_wheel_has_every_file_of_the_package():
    """What is not Python comes by the patterns of pyproject.toml; each folder with Python in it is a package."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "diffnotes"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = {ROOT / name for name in filter(None, listed.stdout.split("\0"))}
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    taken = {file for pattern in patterns["diffnotes"] for file in (ROOT / "diffnotes").glob(pattern)}
    assert [file for file in files if file.suffix != ".py" and file not in taken] == []
    assert [file for file in files if file.suffix == ".py" and not (file.parent / "__init__.py").is_file()] == []


# ---- the matrix itself ------------------------------------------------------------------------------------------


def test_a_missing_interpreter_is_skipped_with_its_reason(monkeypatch, tmp_path):
    """One that is on the PATH and does not run, as a shim of pyenv, is missing, too."""
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\nexit 127\n", "utf-8")
    shim.chmod(0o755)
    monkeypatch.setattr(matrix, "BUILT", tmp_path)
    monkeypatch.setattr(matrix.shutil, "which", {"python3.12": str(shim)}.get)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "none"))
    found = matrix.measure("py312", None)
    assert found == {"missing": "skipped: no Python 3.12 here"}
    assert "| py312 | skipped: no Python 3.12 here |" in matrix.table({"py312": found})


def test_an_interpreter_of_pyenv_is_found(monkeypatch, tmp_path):
    python = tmp_path / "versions/3.12.9/bin/python3.12"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 0\n", "utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(matrix.shutil, "which", lambda name: None)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert matrix.interpreter("3.12") == str(python)
    assert matrix.interpreter("3.1") is None


def test_the_table_has_versions_and_counts():
    counts = {"passed": 3, "failed": 1, "skipped": 0, "names": ["a::b"], "seconds": 2}
    done = {"date": "2026-11-27", "python": "3.13.1", "versions": {"torch": "2.11.0"}, "notebooks": counts}
    last = matrix.table({"colab": done | {"sliders": "sliders passed"}}).splitlines()[-1]
    assert last.startswith("| colab | 3.13.1 | 2.11.0 |")
    assert "| 3 passed, 1 failed, 0 skipped, sliders passed | not run | 2026-11-27 |" in last


@pytest.mark.parametrize(
    ("added", "refused"), [(["diffnotes", "POT", "wadler_lindig"], None), (["diffnotes", "ipywidgets"], "ipywidgets")]
)
def test_what_pip_would_change_on_colab_stops_the_matrix(monkeypatch, tmp_path, added, refused):
    report = {"install": [{"metadata": {"name": name}} for name in added]}
    done = matrix.subprocess.CompletedProcess([], 0, stdout=json.dumps(report))
    monkeypatch.setattr(matrix, "wheel", lambda: tmp_path / "diffnotes.whl")
    monkeypatch.setattr(matrix, "run", lambda *_, **__: done)
    if refused:
        with pytest.raises(SystemExit, match=refused):
            matrix.changes_nothing(tmp_path)
    else:
        matrix.changes_nothing(tmp_path)


SOME = """import pytest
def test_a(): pass
def test_b(): assert 0
@pytest.mark.skip
def test_c(): pass
"""


@pytest.mark.parametrize(("body", "counts"), [(SOME, (1, 1, 1)), ("import none_such", (0, 1, 0))])
def test_what_pytest_found_is_counted(tmp_path, body, counts):
    (tmp_path / "test_it.py").write_text(body, "utf-8")
    python = tmp_path / "a/b/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{matrix.sys.executable}" "$@"\n', "utf-8")
    python.chmod(0o755)
    found = matrix.pytest(python, "tests", "-c", "/dev/null", "--noconftest", tmp_path / "test_it.py")
    assert (found["passed"], found["failed"], found["skipped"]) == counts
    assert (tmp_path / "tests.xml").is_file()
