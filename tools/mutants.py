"""Change the code in small ways, one at a time, and see whether its tests notice: `make mutants`.

A changed module is a mutant. A test that fails or hangs on it kills it. A mutant that no test notices survives, and
shows either a gap in the tests or a change without effect. tools/mutants.toml says which modules are mutated, which
tests may kill their mutants, what is left alone, and why the survivors it lists cannot be killed.

The changes are made by mutmut's operators and a few of our own. mutmut's own runner will not do: it omits decorated
functions and code outside functions, and it routes each call through another function, which breaks the run-time check
of the annotations. So each mutant gets a process of its own, in a copy of the repository, forked from one that has
already loaded pytest and torch. It runs the tests that reach the changed lines, first those that killed its neighbours,
then the others from fastest to slowest, and stops at the first failure.
"""

import argparse
import importlib
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

try:
    import libcst as cst
    import libcst.matchers as m
    from libcst.metadata import MetadataWrapper, PositionProvider
    from mutmut.mutation.mutators import mutation_operators
except ModuleNotFoundError:
    pass  # only `make mutants` has them, but pytest imports this file too, to look for doctests

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".mutants"  # git-ignored: mutmut, the copy, the results
COPY, SURVEY, RESULTS = WORK / "copy", WORK / "survey.json", WORK / "results.json"
LEAST = 0.98  # the share of mutants that must be killed
# bytes that a mutant may use beyond what is loaded, so that an endless tensor is an error
MEMORY = 8 * 2**30

Key = tuple[str, str, str]


@dataclass
class Mutant:
    """One change: where it is, the lines before and after it, and what the tests made of it."""

    where: str  # module.function
    line: int
    old: str
    new: str
    state: str = "survived"  # or "killed", "timeout" (which counts as killed), "excused" (which does not)
    by: str = ""  # the test that killed it
    seconds: float = 0.0

    @property
    def key(self) -> Key:
        return self.where, self.old, self.new


# ---- the changes ------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """A node of the syntax tree, its replacement, the names of the definitions around it, and the lines that a test
    must reach to notice (None: code that runs at import, so any test may)."""

    old: Any
    new: Any
    scope: tuple[str, ...]
    lines: set[int] | None


def mutate(module: str, source: str) -> Iterator[tuple[Mutant, str, set[int] | None]]:
    """Every mutant of `source`, with its text and the lines that a test must reach to notice it."""
    wrapper = MetadataWrapper(cst.parse_module(source))
    tree, place, lines, seen = (wrapper.module, wrapper.resolve(PositionProvider), source.splitlines(), {source})
    for part in tree.body:
        for change in changes(part, (), None, place):
            changed = change.new if part is change.old else part.deep_replace(change.old, change.new)
            text = source.replace(tree.code_for_node(part), tree.code_for_node(changed), 1)
            if text not in seen:  # two operators may agree
                seen.add(text)
                where = ".".join((module, *change.scope))
                yield (
                    Mutant(where, place[change.old].start.line, *difference(lines, text.splitlines())),
                    text,
                    change.lines,
                )


def changes(node: Any, scope: tuple[str, ...], lines: set[int] | None, place: Any) -> Iterator[Change]:
    """All changes to `node` and to everything in it."""
    if left_alone(node, scope):
        return

    def span(part: Any) -> set[int]:
        return set(range(place[part].start.line, place[part].end.line + 1))

    if isinstance(node, cst.FunctionDef | cst.ClassDef):
        scope = (*scope, node.name.value)
        lines = span(node.body) if isinstance(node, cst.FunctionDef) else None
    elif lines is not None and isinstance(node, cst.SimpleStatementLine):
        lines = span(node)
    elif lines is not None and isinstance(node, cst.If | cst.For | cst.While | cst.With):
        lines = span(node) - span(node.body) | {place[node].start.line}
    yield from (Change(node, new, scope, lines) for new in replacements(node))
    if m.matches(node, m.Raise()):
        return
    words = m.matches(node, m.Call(m.Attribute(m.Name("warnings"), m.Name("warn"))))
    for child in node.args[1:] if words else node.children:
        orelse = isinstance(node, cst.If) and child is node.orelse
        yield from changes(child, scope, span(child) if orelse and lines is not None else lines, place)


def left_alone(node: Any, scope: tuple[str, ...]) -> bool:
    """Imports, annotations, type aliases, docstrings, and f-strings other than those of a `__repr__`."""
    if not scope and m.matches(node, m.Assign([m.AssignTarget(m.Name())])):
        # an alias has a capital; one that is a Literal is read at run time
        name = node.targets[0].target.value
        return bool(
            name[0].isupper() and not name.isupper() and not m.matches(node.value, m.Subscript(m.Name("Literal")))
        )
    if m.matches(node, m.FormattedString()):
        return scope[-1:] != ("__repr__",)
    docstring = m.Expr(m.SimpleString() | m.ConcatenatedString())
    return bool(m.matches(node, m.Annotation() | m.Import() | m.ImportFrom() | docstring))


def replacements(node: Any) -> Iterator[Any]:
    """The possible replacements of `node`: our own, then mutmut's."""
    if m.matches(node, m.SimpleStatementLine([m.Raise() | m.Expr(m.Call())])):
        yield cst.SimpleStatementLine([cst.Pass()])  # an error not raised, a call not made
    if isinstance(node, cst.If):
        # a condition that always holds, or never does (for a guard, that is the error not raised)
        guard = m.matches(node.body, m.IndentedBlock([m.SimpleStatementLine([m.Raise()])]))
        test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.BooleanOperation(test, cst.Or(), cst.Name("True")))
        if not guard:
            yield node.with_changes(test=cst.BooleanOperation(test, cst.And(), cst.Name("False")))
    if isinstance(node, cst.FunctionDef | cst.ClassDef):  # a decorator gone
        for i in range(len(node.decorators)):
            yield node.with_changes(decorators=[*node.decorators[:i], *node.decorators[i + 1 :]])
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            found = list(operator(node))
            yield from found[:1] if isinstance(node, cst.SimpleString) else found  # one other word is enough


def difference(old: list[str], new: list[str]) -> tuple[str, str]:
    """What lies between the common first lines and the common last lines of both texts, each joined into one line.

    >>> difference(["a", "  b", "c"], ["a", "B", "c"])
    ('b', 'B')
    >>> difference(["a", "b", "c"], ["a", "c"])
    ('b', '')
    """
    first = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    old, new = old[first:], new[first:]
    ends = enumerate(zip(old[::-1], new[::-1], strict=False))
    last = next((i for i, (a, b) in ends if a != b), min(len(old), len(new)))
    before, after = (" ".join(line.strip() for line in text[: len(text) - last]) for text in (old, new))
    return before, after


# ---- the runs ---------------------------------------------------------------------------------------------------


class Survey:
    """A pytest plugin for one process: the lines of `file` that each test reaches, its time, and all imports."""

    def __init__(self, file: Path, pipe: int) -> None:
        import coverage

        self.file, self.pipe, self.seconds = file, pipe, dict[str, float]()
        self.coverage = coverage.Coverage(data_file=None, include=[str(file)], config_file=False)
        self.coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os.write(self.pipe, f"{report.nodeid} fails on the code as it is".encode())
            os._exit(1)
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        lines = self.coverage.get_data().contexts_by_lineno(str(self.file))
        found = {"seconds": self.seconds, "lines": lines, "modules": list(sys.modules)}
        SURVEY.write_text(json.dumps(found), "utf-8")


class Trial:
    """A pytest plugin for one process: run the tests in `order`, write the first that fails to `pipe`, and exit."""

    def __init__(self, order: list[str], pipe: int) -> None:
        self.order, self.pipe = {name: i for i, name in enumerate(order)}, pipe

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda i: self.order[i.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os.write(self.pipe, report.nodeid.encode())
            os._exit(1)


class Lab:
    """A pytest plugin that replaces the collection: it forks a process for each mutant, which then collects."""

    def __init__(self, module: str, excused: set[Key], killed: dict[Key, Mutant]) -> None:
        self.module, self.excused, self.killed = module, excused, killed
        self.file, self.results, self.pid = COPY / "diffnotes" / f"{module}.py", list[Mutant](), os.getpid()
        self.killers: dict[str, list[str]] = {}  # for each function, latest first

    def pytest_collection(self, session: pytest.Session) -> bool | None:
        from hypothesis import Phase, settings  # only now, because pytest must come first

        generate = (Phase.explicit, Phase.generate)  # failing examples are not shrunk
        settings.register_profile("mutants", settings(), database=None, phases=generate)
        settings.load_profile("mutants")
        sys.dont_write_bytecode = False  # whatever the environment says: the forks should find everything compiled
        if self.fork(session, lambda pipe: Survey(self.file, pipe), 1200):
            return None
        if self.said or self.status:
            pytest.exit(f"{self.module}: {self.said or 'the tests do not run'}", 1)
        survey = json.loads(SURVEY.read_text("utf-8"))
        self.seconds: dict[str, float] = survey["seconds"]
        self.reached = {int(line): set(names) & set(self.seconds) for line, names in survey["lines"].items()}
        changing = users(self.module)
        load([n for n in survey["modules"] if n not in changing and not n.startswith(("test", "__"))])
        assert f"diffnotes.{self.module}" not in sys.modules
        sys.dont_write_bytecode = True  # a mutant leaves none behind, and finds none of its age
        source = self.file.read_text("utf-8")
        for mutant, text, lines in mutate(self.module, source):
            if mutant.key in self.excused:
                mutant.state = "excused"
            elif mutant.key not in self.killed:
                self.file.write_text(text, "utf-8")
                if self.is_mutant(session, mutant, lines):
                    return None
            self.results.append(self.killed.get(mutant.key, mutant))
        self.file.write_text(source, "utf-8")
        (WORK / f"{self.module}.json").write_text(json.dumps([asdict(m) for m in self.results]), "utf-8")
        return True

    def is_mutant(self, session: pytest.Session, mutant: Mutant, lines: set[int] | None) -> bool:
        """True in the process that will run the mutant; False in the parent, which then has the verdict."""
        start, order = time.monotonic(), self.order(mutant, lines)
        limit = 10 + 5 * sum(self.seconds[name] for name in order)
        if self.fork(session, lambda pipe: Trial(order, pipe), limit):
            return True
        if self.status is None:
            mutant.state = "timeout"
        elif self.status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            mutant.state, mutant.by = "killed", self.said or "import"
        if self.said:
            known = self.killers[mutant.where]
            known[:] = [self.said, *(name for name in known if name != self.said)]
        mutant.seconds = round(time.monotonic() - start, 2)
        return False

    def order(self, mutant: Mutant, lines: set[int] | None) -> list[str]:
        """The tests that reach the lines (or all, if none does): killers in this function first, then the fastest."""
        reach = set[str]().union(*(self.reached.get(i, ()) for i in lines or ())) or set(self.seconds)
        killers = self.killers.setdefault(mutant.where, [])
        others = sorted(reach - set(killers), key=lambda name: (self.seconds[name], name))
        return [name for name in killers if name in reach] + others

    def fork(self, session: pytest.Session, plugin: Callable[[int], object], limit: float) -> bool:
        """True in a new process, which continues as pytest with `plugin`. The parent waits for its `status` (None:
        out of time) and what it `said`."""
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(out)
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            loaded = int(Path("/proc/self/statm").read_text("utf-8").split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (loaded + MEMORY, loaded + MEMORY))
            session.config.pluginmanager.register(plugin(into))
            return True
        os.close(into)
        ready, _, _ = select.select([out], [], [], limit)  # it writes something, or ends
        if not ready:
            os.kill(child, signal.SIGKILL)
        self.said = os.read(out, 4096).decode() if ready else ""
        os.close(out)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        self.status = code if ready else None
        return False


def users(module: str) -> set[str]:
    """The modules of the package that import `module`, if only through others, and `module` itself."""
    root = COPY / "diffnotes"
    code = {
        ".".join(path.relative_to(root).with_suffix("").parts): path.read_text("utf-8") for path in root.rglob("*.py")
    }
    found, new = set[str](), {module}
    while new:
        found |= new
        ways = []
        for name in new:
            package, _, last = f"diffnotes.{name}".rpartition(".")
            ways.append(rf"{re.escape(package)}(\.| import .*\b){last}\b")
        used = re.compile("|".join(ways))
        new = {name for name, text in code.items() if used.search(text)} - found
    return {f"diffnotes.{name}" for name in found}


def load(modules: list[str]) -> None:
    """Import, once and before the forks, what does not depend on a mutant, and let hypothesis scan it."""
    from hypothesis.internal.conjecture.providers import _get_local_constants

    for name in modules:
        try:
            importlib.import_module(name)
        except Exception:  # some modules can only be imported as part of another
            continue
    _get_local_constants()


def run(module: str, tests: list[str], excused: set[Key], killed: dict[Key, Mutant]) -> list[Mutant]:
    """Try all mutants of one module but the `killed`, in a process that has run no other module's tests."""
    found = WORK / f"{module}.json"
    found.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        os.chdir(COPY)
        sys.path.insert(0, str(COPY))
        options = ["-qq", "-s", "--tb=no", "-p", "no:cacheprovider", f"diffnotes/{module}.py", *tests]
        code = pytest.main(options, plugins=[Lab(module, excused, killed)])
        sys.stdout.flush()
        os._exit(int(code))
    os.waitpid(child, 0)
    if not found.exists():
        sys.exit(f"{module}: stopped before the end")
    return [Mutant(**fields) for fields in json.loads(found.read_text("utf-8"))]


# ---- the count --------------------------------------------------------------------------------------------------


def row(name: str, mutants: list[Mutant]) -> float:
    """Print one line of the table, and return the share killed; excused mutants do not count as killed."""
    killed = sum(mutant.state in ("killed", "timeout") for mutant in mutants)
    share, minutes = killed / max(1, len(mutants)), sum(mutant.seconds for mutant in mutants) / 60
    print(f"{name:<10}{len(mutants):>9}{killed:>9}{len(mutants) - killed:>11}{share:>9.1%}{minutes:>9.1f}", flush=True)
    return share


def main() -> None:
    """Make the copy, try the mutants, count, and report each that survived without an excuse."""
    config = tomllib.loads((ROOT / "tools" / "mutants.toml").read_text("utf-8"))
    excuses = {(e["where"], e["old"], e["new"]) for e in config["excused"]}
    parser = argparse.ArgumentParser(description="Count the small changes to the code that its tests do not notice.")
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help=f"any of {', '.join(config['tests'])} (default: all)"
    )
    parser.add_argument("--left", action="store_true", help="only the mutants that the last run did not kill")
    args = parser.parse_args()
    if unknown := set(args.modules) - set(config["tests"]):
        parser.error(f"no such module: {', '.join(sorted(unknown))}")
    modules = args.modules or list(config["tests"])

    WORK.mkdir(exist_ok=True)
    shutil.rmtree(COPY, ignore_errors=True)
    for part in ("diffnotes", "tests"):
        shutil.copytree(ROOT / part, COPY / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("conftest.py", "pyproject.toml"):
        shutil.copy2(ROOT / part, COPY)
    known = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    print(f"{'module':<10}{'mutants':>9}{'killed':>9}{'survivors':>11}{'share':>9}{'minutes':>9}")
    for module in modules:
        before = [Mutant(**fields) for fields in known.get(module, [])] if args.left else []
        killed = {mutant.key: mutant for mutant in before if mutant.state in ("killed", "timeout")}
        mutants = run(module, config["tests"][module], excuses, killed)
        known[module] = [asdict(mutant) for mutant in mutants]
        RESULTS.write_text(json.dumps(known, indent=1), "utf-8")
        row(module, mutants)
    everything = [Mutant(**fields) for module in modules for fields in known[module]]
    share = row("together", everything)

    for mutant in everything:
        if mutant.state == "survived":
            print(f"\nnot killed: {mutant.where}, line {mutant.line}\n  - {mutant.old}\n  + {mutant.new}")
    stale = [e for e in excuses - {mutant.key for mutant in everything} if e[0].split(".")[0] in modules]
    for where, old, new in stale:
        print(f"\nno longer a mutant, remove it from tools/mutants.toml: {where}\n  - {old}\n  + {new}")
    sys.exit(share < LEAST or bool(stale))


if __name__ == "__main__":
    main()
