"""What the repository says about itself, in several places, agrees."""

import ast
import doctest
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from safetensors import safe_open
from test_notebooks import slugs  # tests/notebooks/test_notebooks.py

import diffnotes
from diffnotes.metrics import Estimate
from diffnotes.training.checkpoint import SHIPPED
from tools.measure import sha256

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "diffnotes"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__" or path.parent == PACKAGE
}
ORDER = """
    arguments schedule forward reverse objective ddim guidance interop mixture download data metrics
    training.networks training.distributed training.checkpoint training.loop training.watch training.presets
    training.options training.classifier training.run training.commands
    book.check book.plots book.ledger book.generalisation book.explore
    __init__ __main__
"""
BOOK = [name for name in MODULES if name.startswith("book.")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))


def tracked(root: Path = ROOT) -> dict[str, str]:
    """The text of each file that git knows, by its path."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    texts = {}
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            texts[name] = (root / name).read_bytes().decode("utf-8", errors="replace")
    return texts


def accounts(texts: dict[str, str]) -> dict[str, set[str]]:
    """The accounts that the repository's addresses name, with the files that name them."""
    found: dict[str, set[str]] = {}
    for name, text in texts.items():
        if name not in ("tools/account.py", "tests/test_project.py"):
            named = re.findall(r"(?:github\.com|/github|/gh)/([^/\s\"']+)/diffnotes", text)
            pages = [re.split(r"[/\s\"'`]", before[-60:])[-1] for before in text.split(".github.io/diffnotes")[:-1]]
            for account in filter(None, named + pages):
                found.setdefault(account, set()).add(name)
    return found


# ---- the address ------------------------------------------------------------------------------------------------


def test_every_place_names_the_address_of_the_configuration():
    account = CONFIG["repository"]["url"].removeprefix("https://github.com/").removesuffix("/diffnotes")
    found = accounts(tracked())
    assert set(found) == {account}, f"addresses with other accounts than {account}: {found}"
    expected = {"_config.yml", "pyproject.toml", "README.md", "CITATION.cff", "book/index.md", "book/01-forward.ipynb"}
    assert expected <= found[account]


def test_one_command_sets_the_account_everywhere_and_again(tmp_path):
    for name in tracked():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for command in (["git", "init", "-q"], ["git", "add", "-A", "-N"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    before = accounts(tracked(tmp_path))
    for name in ("Ada-Lovelace9", "someone-else"):
        subprocess.run([sys.executable, "tools/account.py", name], cwd=tmp_path, check=True, capture_output=True)
        after = accounts(tracked(tmp_path))
        assert after == {name: next(iter(before.values()))}
    assert yaml.safe_load((tmp_path / "_config.yml").read_text("utf-8"))["repository"]["url"] == (
        "https://github.com/someone-else/diffnotes"
    )


@pytest.mark.parametrize("name", ["", "<account>", "two words", "-dash", "a/b", "x" * 40])
def test_an_account_that_github_would_refuse_changes_nothing(tmp_path, name):
    (tmp_path / "tools").mkdir()
    (tmp_path / "_config.yml").write_bytes((ROOT / "_config.yml").read_bytes())
    (tmp_path / "tools/account.py").write_bytes((ROOT / "tools/account.py").read_bytes())
    done = subprocess.run(
        [sys.executable, "tools/account.py", name], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "NAME must be a GitHub account" in done.stderr
    assert (tmp_path / "_config.yml").read_bytes() == (ROOT / "_config.yml").read_bytes()


# ---- versions and requirements ----------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)[1]
    assert diffnotes.__version__ == PROJECT["version"] == citation["version"] == newest


def pins() -> dict[str, str]:
    found = {}
    for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", line)
            assert pin, f"not a plain pin: {line!r}"
            assert canonical(pin[1]) not in found, f"pinned twice: {line}"
            found[canonical(pin[1])] = pin[2]
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_the_package_and_its_extras_ask_for_is_pinned_within_their_bounds():
    pinned = pins()
    extras = PROJECT["optional-dependencies"]
    asked = [Requirement(r) for rs in [PROJECT["dependencies"], *extras.values()] for r in rs]
    for requirement in asked:
        if requirement.name == "diffnotes":  # an extra that contains another
            assert requirement.extras <= set(extras)
        else:
            assert canonical(requirement.name) in pinned, f"{requirement.name} is not in requirements.txt"
            assert pinned[canonical(requirement.name)] in requirement.specifier


def test_the_package_itself_sets_lower_bounds_only():
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert [s.operator for s in requirement.specifier] == [">="], requirement


# ---- pages and documents ----------------------------------------------------------------------------------------


def test_the_map_on_the_front_page_has_every_page_of_the_book():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    pages = [Path(chapter["file"]).name for part in toc["parts"] for chapter in part["chapters"]]
    linked = re.findall(r"^(?:\d+\.|-) \[[^\]]+\]\(([\w-]+)\.\w+\)", (ROOT / "book/index.md").read_text("utf-8"), re.M)
    assert linked == pages
    deeper = [
        Path(page["file"]).name for part in toc["parts"] for c in part["chapters"] for page in c.get("sections", [])
    ]
    assert re.findall(r"\[Deeper\]\(([\w-]+)\.ipynb\)", (ROOT / "book/index.md").read_text("utf-8")) == deeper


def test_the_reference_has_every_module():
    listed = re.findall(r"automodule:: diffnotes\.([\w.]+)", (ROOT / "book/api.md").read_text("utf-8"))
    assert sorted(listed) == sorted(name for name in MODULES if name not in ("__init__", "__main__"))


def breaches(name: str, text: str) -> Iterator[str]:
    """What the source of a module does against the order of the layers, or with a private name of another module."""
    layers, tree = ORDER.split(), ast.parse(text)
    asked: list[tuple[str, str]] = []  # what is imported, by its dotted name, and what it is called
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            if getattr(node, "level", 0):
                yield f"{name} imports from where it stands: {ast.unparse(node)}"
                continue
            whence = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            asked += [(whence + alias.name, alias.asname or alias.name) for alias in node.names]
    ours = [(path, called) for path, called in asked if path.split(".")[0] == "diffnotes"]
    for path, _ in ours:
        below = path.removeprefix("diffnotes").strip(".")
        module = below if below in MODULES else below.rpartition(".")[0] or "__init__"
        if module not in layers[: layers.index(name)] or (module in BOOK and name not in ("__main__", *BOOK)):
            yield f"{name} imports {module}"
        if path.split(".")[-1].startswith("_"):
            yield f"{name} imports the private {path}"
    names = {called for _, called in ours}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr) and ast.unparse(node.value) in names:
            yield f"{name} reaches for the private {ast.unparse(node)}"


def test_imports_run_down_the_list_and_never_up():
    """Of modules, the layers; of names, those without an underscore."""
    assert sorted(ORDER.split()) == sorted(MODULES)
    assert [breach for name, path in MODULES.items() for breach in breaches(name, path.read_text("utf-8"))] == []


PLANTED = [
    ("from diffnotes.ddim import ddim_sample", "reverse imports ddim"),
    ("from diffnotes import ddim", "reverse imports ddim"),
    ("import diffnotes.training.loop", "reverse imports training.loop"),
    ("import diffnotes.training.loop as loop", "reverse imports training.loop"),
    ("from diffnotes.book import check", "reverse imports book.check"),
    ("import diffnotes", "reverse imports __init__"),
    ("def f():\n    import diffnotes.ddim", "reverse imports ddim"),
    ("from . import ddim", "reverse imports from where it stands"),
    ("from .training.networks import Network", "reverse imports from where it stands"),
    ("from diffnotes.schedule import _round", "the private diffnotes.schedule._round"),
    ("from diffnotes import schedule\nschedule._round(1)", "the private schedule._round"),
    ("import diffnotes.schedule\ndiffnotes.schedule._round(1)", "the private diffnotes.schedule._round"),
    ("import diffnotes.schedule as s\nx = s._round", "the private s._round"),
]


@pytest.mark.parametrize(("text", "said"), PLANTED)
def test_a_planted_import_is_seen(text, said):
    assert [said in breach for breach in breaches("reverse", text)] == [True]


def test_what_may_be_imported_is_let_be():
    text = "import torch\nfrom torch import _C\nfrom diffnotes import schedule\nimport diffnotes.forward as f"
    assert list(breaches("reverse", f"{text}\nx = schedule.__doc__, self._x, torch._C")) == []
    assert list(breaches("book.explore", "from diffnotes.book import plots")) == []
    assert list(breaches("training.run", "from diffnotes.book import plots")) == ["training.run imports book.plots"]


def test_every_entry_of_the_bibliography_is_there_once():
    keys = re.findall(r"^@\w+\{(\w+),", (ROOT / "book/references.bib").read_text("utf-8"), re.MULTILINE)
    shown = re.findall(r'key == "(\w+)"', (ROOT / "book/bibliography.md").read_text("utf-8"))
    assert sorted(shown) == sorted(set(keys)) == sorted(keys)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_to_files_and_headings_lead_somewhere(name):
    text = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / name).read_text("utf-8"), flags=re.DOTALL)
    found = re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", text)
    assert found or name == "CHANGELOG.md"  # which has no link yet
    for file, place in found:
        path = ROOT / (file or name)
        assert path.exists(), f"{name} links to {file}"
        assert not place or place in slugs(path.read_text("utf-8")), f"{name} links to {file}#{place}"


DOCUMENTS = ("README.md", "README.zh.md", "CONTRIBUTING.md", "book/index.md", "book/zh/index.md")


def test_the_make_targets_that_the_documents_name_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = {}
    for name in (*DOCUMENTS, ".ci/run", ".pre-commit-config.yaml", ".github/workflows/book.yml"):
        text = (ROOT / name).read_text("utf-8")
        named[name] = set(
            " ".join(re.findall(r"(?:^|`|entry: |run: |&& |offline )make ((?:[a-z]+ ?)+)", text, re.M)).split()
        )
        assert named[name] <= targets, f"{name}: make {named[name] - targets}"
    assert named[".ci/run"] >= {"setup", "book", "test"}


LOOK = """
import json, os, pathlib, socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10)
    reached = True
except OSError:
    reached = False
print(json.dumps([reached, "DIFFNOTES_DATA" in os.environ, os.listdir(sys.argv[2]), os.listdir(pathlib.Path.home())]))
"""


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_offline_there_is_no_network_no_home_and_no_data_set(tmp_path):
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    namespaces = [shutil.which("unshare") or "false", *user, "--net", "--mount", "true"]
    if subprocess.run(namespaces, capture_output=True, check=False).returncode:
        pytest.skip("this user may not make namespaces, so tools/offline cannot cut anything off")
    (cache := tmp_path / ".cache").mkdir()
    (cache / "data").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        look = [sys.executable, "-c", LOOK, str(server.getsockname()[1]), str(cache)]
        user = os.environ | {"HOME": str(tmp_path), "DIFFNOTES_DATA": str(cache)}
        outside, inside = (
            subprocess.run(command, capture_output=True, text=True, check=True, env=user)
            for command in (look, [ROOT / "tools/offline", *look])
        )
    assert json.loads(outside.stdout) == [True, True, ["data"], [".cache"]]
    assert (json.loads(inside.stdout), inside.stderr) == ([False, False, [], []], "")


def test_the_example_in_the_readme_runs():
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0


def test_the_model_card_says_what_the_files_say():
    """Each network's SHA-256 and command, and the measured numbers, which are of these very weights."""
    card = (SHIPPED / "README.md").read_text("utf-8")
    for path in SHIPPED.glob("*.safetensors"):
        section = card.split(f"## {path.name}")[1].split("\n## ")[0]
        assert sha256(path) in section
        header = json.loads(safe_open(path, "pt").metadata()["diffnotes"])
        assert f"`{header['provenance']['command']}`" in section
    measured = json.loads((SHIPPED.parent / "measured/images.json").read_text("utf-8"))
    for name, digest in measured["provenance"]["weights"].items():
        assert digest == sha256(SHIPPED / f"{name}.safetensors")
    entries = measured["entries"]
    floor = entries["floor/1000"]
    rows = {"DDIM, 10 steps": "sample/10/0.0", "DDPM, 1000 steps": "sample/1000/1.0"}
    excess = {"real images": Estimate(0.0, floor["sd"])}
    for row, entry in rows.items():
        value, error = entries[entry]["frechet"]
        excess[row] = Estimate(value - floor["mean"], error)
    for row, estimate in excess.items():
        shown = re.search(rf"\| {row} \| ([^|]*) \|", card)
        assert shown
        assert shown[1] == str(estimate)
