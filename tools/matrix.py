"""Run the notebooks and the tests on the versions that the project declares: `python tools/matrix.py [NAME ...]`.

uv creates each environment in `_build/matrix/NAME`, and again only if its requirements have changed. There every
notebook is run and its text outputs are compared with the saved ones; then the unit tests are run. The notebooks import
the package from the built wheel. The results are kept in `_build/matrix`: table.md and results.json.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "_build/matrix"
COLAB = ROOT / "tests/constraints/colab.txt"
NOT_ON_COLAB = {"diffnotes", "jaxtyping", "wadler-lindig", "pot", "jedi"}
ENVIRONMENTS = {  # the Python of each, and how uv chooses the versions
    "py311": ("3.11", ()),
    "py312": ("3.12", ()),
    "py313": ("3.13", ()),
    "lowest": ("3.11", ("--resolution", "lowest-direct")),
    "colab": ("3.13", ("--constraint", COLAB)),
}
KINDS, COUNTS = ("notebooks", "tests"), ("passed", "failed", "skipped")
SHOWN = ("torch", "numpy", "scipy", "matplotlib", "ipywidgets")

# One thread; only interpreters that are installed; the installed package, not one on a path; and modules compiled when
# they are installed, as pip does: otherwise a library's SyntaxWarning would show in the first notebook to import it.
OWN = {"PYTHONPATH", "VIRTUAL_ENV", "PYENV_VERSION", "MPLBACKEND", "PYTHONDONTWRITEBYTECODE"}  # the caller's
ENVIRON = {k: v for k, v in os.environ.items() if k not in OWN}
ENVIRON |= {"OMP_NUM_THREADS": "1", "UV_PYTHON_DOWNLOADS": "never", "UV_COMPILE_BYTECODE": "1"}


def run(*command: object, check: bool = True, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    """Run `command` from the root; `quiet` captures stdout and, without `check`, stderr."""
    out = subprocess.PIPE if quiet else None
    err = None if check else out
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=ROOT, env=ENVIRON, check=check, text=True, stdout=out, stderr=err)


def uv(*arguments: object, **how: bool) -> subprocess.CompletedProcess[str]:
    """Run uv, from the PATH or else installed here for this purpose."""
    own = BUILT / "uv"
    if not (found := shutil.which("uv")) and not (own / "bin/uv").is_file():
        venv.create(own, with_pip=True)
        run(own / "bin/python", "-m", "pip", "install", "-q", "uv")
    return run(found or own / "bin/uv", *arguments, **how)


def interpreter(version: str) -> str | None:
    """A working Python of this version, from the PATH, from pyenv or from uv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python{version}"), *map(str, pyenv.glob(f"{version}.*/bin/python{version}"))]
    for path in filter(None, found):
        if run(path, "-c", "import ssl, venv", check=False, quiet=True).returncode == 0:
            return path
    asked = ("python", "find", "-q", version)
    return uv(*asked, check=False, quiet=True).stdout.strip() or None if shutil.which("uv") else None


def make(name: str, base: str) -> Path:
    """The Python of the environment, with everything the tests need."""
    home, how = BUILT / name, ENVIRONMENTS[name][1]
    python, stamp = home / "venv/bin/python", home / "made-of"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [base, str(how), project["dependencies"], project["optional-dependencies"], COLAB.read_text("utf-8")]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    install = ("pip", "install", "-q", "--python", python)
    if not stamp.is_file() or stamp.read_text("utf-8") != digest:
        shutil.rmtree(home, ignore_errors=True)
        uv("venv", "-q", "--seed", "--python", base, home / "venv")
        if name == "colab":
            uv(*install, "--requirement", COLAB)
            changes_nothing(python)
        uv(*install, *how, "--requirement", "pyproject.toml", "--extra", "test")
        stamp.write_text(digest, "utf-8")
    uv(*install, "--no-deps", "--reinstall", wheel())
    return python


def wheel() -> Path:
    """The wheel of diffnotes, built from the source distribution, so that a file missing from either is noticed."""
    shutil.rmtree(BUILT / "wheel", ignore_errors=True)
    uv("build", "-q", "--out-dir", BUILT / "wheel")
    return next((BUILT / "wheel").glob("*.whl"))


def changes_nothing(python: Path) -> None:
    """Exit unless pip, on Colab, would only add packages and touch none that is there."""
    asked = f"diffnotes[notebooks] @ {wheel().as_uri()}"
    report = run(python, "-m", "pip", "install", "-q", "--dry-run", "--report", "-", asked, quiet=True).stdout
    found = [item["metadata"]["name"].lower().replace("_", "-") for item in json.loads(report)["install"]]
    print("colab: an install adds", ", ".join(found), flush=True)
    if changed := set(found) - NOT_ON_COLAB:
        raise SystemExit(f"colab: an install would change {', '.join(sorted(changed))}")


def notebooks(name: str) -> list[Path]:
    """The notebooks to run; for Colab, each chapter alone in an empty folder, as it is opened there."""
    paths = sorted((ROOT / "book").glob("*.ipynb"), key=lambda path: path.stem)
    if name != "colab":
        return paths
    empty = BUILT / name / "empty"
    shutil.rmtree(empty, ignore_errors=True)
    chapters = {path: empty / path.stem for path in paths if path.name[0].isdigit()}
    for folder in chapters.values():
        folder.mkdir(parents=True)
    return [Path(shutil.copy(path, folder)) for path, folder in chapters.items()]


def pytest(python: Path, kind: str, *arguments: object) -> dict[str, Any]:
    """The counts of a pytest run, and the names of the tests that failed."""
    report = python.parents[2] / f"{kind}.xml"
    report.unlink(missing_ok=True)
    start = time.perf_counter()
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *arguments, check=False)
    cases = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
    bad = [f"{c.get('classname')}::{c.get('name')}" for c in cases if {"failure", "error"} & {e.tag for e in c}]
    skipped = sum(case.find("skipped") is not None for case in cases)
    counts = {"passed": len(cases) - len(bad) - skipped, "failed": len(bad), "skipped": skipped}
    if not cases:
        bad, counts["failed"] = ["pytest itself: see what it printed"], 1
    return counts | {"names": bad, "seconds": round(time.perf_counter() - start)}


def measure(name: str, only: str | None) -> dict[str, Any]:
    """Run one environment: its versions, and the results of its notebooks and tests."""
    if not (base := interpreter(ENVIRONMENTS[name][0])):
        return {"missing": f"skipped: no Python {ENVIRONMENTS[name][0]} here"}
    python = make(name, base)
    listed = json.loads(uv("pip", "list", "-q", "--format=json", "--python", python, quiet=True).stdout)
    done: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "versions": {i["name"]: i["version"] for i in listed}}
    done["python"] = run(python, "-V", quiet=True).stdout.split()[1]
    # when old versions meet new ones, they warn of each other's age
    options = ("-W", "ignore::DeprecationWarning") if ENVIRONMENTS[name][1] else ()
    if only != "tests":
        paths = notebooks(name)
        done["notebooks"] = pytest(python, "notebooks", *options, "--nbval", "--nbval-current-env", *paths)
        if name == "colab":
            failed = run(python, "tools/sliders.py", *paths, check=False).returncode
            done["sliders"] = "sliders failed" if failed else "sliders passed"
    if only != "notebooks":
        done["tests"] = pytest(python, "tests", *options, "-m", "not browser", "diffnotes", "tests")
    return done


def table(results: dict[str, Any]) -> str:
    """The results as a Markdown table."""
    head = ["environment", "Python", *SHOWN, "cells of the notebooks", "unit tests", "date"]
    rows = [head, ["---"] * len(head)]
    for name, done in results.items():
        counts = [", ".join(f"{done[k][c]} {c}" for c in COUNTS) if k in done else "not run" for k in KINDS]
        counts[0] = ", ".join(filter(None, [counts[0], done.get("sliders")]))
        versions = [done.get("versions", {}).get(package, "") for package in SHOWN]
        rows.append([name, done.get("python", done.get("missing")), *versions, *counts, done.get("date", "")])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", nargs="*", help=f"any of {', '.join(ENVIRONMENTS)} (default: all)")
    parser.add_argument("--only", choices=KINDS, help="run only these, and keep the other results")
    args = parser.parse_args()
    if unknown := set(args.name) - set(ENVIRONMENTS):
        parser.error(f"name must be any of {', '.join(ENVIRONMENTS)}, got {', '.join(sorted(unknown))}")
    BUILT.mkdir(parents=True, exist_ok=True)
    kept = BUILT / "results.json"
    results = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    names = args.name or list(ENVIRONMENTS)
    for name in names:
        print(f"---- {name}", flush=True)
        done = measure(name, args.only)
        if args.only and results.get(name, {}).get("versions") == done.get("versions"):
            done = results[name] | done
        results = {known: (results | {name: done})[known] for known in ENVIRONMENTS if known in {*results, name}}
        kept.write_text(json.dumps(results, indent=1), "utf-8")
        (BUILT / "table.md").write_text(table(results), "utf-8")
    print(table({name: results[name] for name in names}))
    found = [results[name] for name in names]
    failed = sum(done[kind]["failed"] for done in found for kind in KINDS if kind in done)
    absent = args.name and any("missing" in done for done in found)  # one that was asked for by name
    return int(failed > 0 or bool(absent) or any(done.get("sliders") == "sliders failed" for done in found))


if __name__ == "__main__":
    sys.exit(main())
