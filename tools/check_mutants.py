"""Change the notebooks' checks in small ways, one at a time, and see whether they notice: part of `make mutants`.

A check that a wrong equation passes is a defect. So each cell with checks is changed as tools/mutants.py changes the
package: a number, a sign, an operator, a root, an index, a table for its neighbour, a name for another of its kind.
Every mutant runs in a process forked from the notebook's state before that cell. Seeds, sizes, tolerances, texts,
drawings and planted slips are let be.

A change of what feeds both sides of a check only moves the point at which a true identity is tried; where it passes,
nothing is wrong, and it is counted apart, as moved. A change of one side must make the check fail. What survives is
either a hole or equivalent; tools/check_mutants.toml has the reason of each survivor that is excused.

    python tools/check_mutants.py [book/01-forward.ipynb ...]    # default: all, only cells that have changed
"""

import argparse
import ast
import contextlib
import copy
import hashlib
import inspect
import io
import json
import os
import signal
import time
import tomllib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffnotes.book import check
from diffnotes.book.ledger import notebooks, syntax_tree

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
RESULTS = BOOK / "check-mutants.json"
EXCUSES = Path(__file__).with_suffix(".toml")
MOST = 80  # mutants of a cell; of more, every so many-th
CHECKS = ("symbolic", "exact", "monte_carlo")
SETTINGS = {"rtol", "atol", "z", "why", "resolution", "elementwise", "generator", "dtype", "device", "dim", "keepdim"}
SIZED = {"manual_seed", "randn", "rand", "randint", "randperm", "sample", "linspace", "geomspace", "symbols", "reshape"}
ALONG = {"cumsum", "cumprod", "sum", "mean", "var", "std", "prod", "flip", "amax", "unsqueeze", "squeeze", "flatten"}
DRAWS = {"print", "plt", "ax", "axes", "fig", "plots", "display"}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult}
DROPPED = {"sqrt", "square", "exp", "log", "abs", "flip", "cumsum", "cumprod", "log1p", "expm1", "mT", "T", "diagonal"}
RENAMED = {
    "mean": "sum", "sum": "mean", "min": "max", "max": "min", "var": "std", "std": "var", "sin": "cos", "cos": "sin",
    "cumsum": "cumprod", "cumprod": "cumsum", "log1p": "log", "expm1": "exp", "minimum": "maximum",
    "maximum": "minimum",
    "betas": "posterior_variances", "posterior_variances": "betas", "alphas": "alpha_bars", "alpha_bars": "alphas",
    "sqrt_alpha_bars": "alpha_bars", "one_minus_alpha_bars": "sqrt_one_minus_alpha_bars", "snr": "log_snr",
    "sqrt_one_minus_alpha_bars": "one_minus_alpha_bars", "log_alpha_bars": "alpha_bars", "log_snr": "snr",
}  # fmt: skip


@dataclass
class Mutant:
    """One change of a cell: the statement before and after, the whole cell after, and what came of it."""

    line: int
    old: str
    new: str
    tree: ast.Module
    given: set[str]  # the names that the changed statement gives
    inside: tuple[int, int] | None  # the line and the side of the check that the change stands in
    failed: set[int] = field(default_factory=set)  # lines of the checks that failed; all, where it raised


# ---- the changes ------------------------------------------------------------------------------------------------


def mutants(tree: ast.Module, kinds: dict[str, object]) -> Iterator[Mutant]:
    """Every mutant of a cell. `kinds`: what each global name holds, so that names are swapped with their like."""
    seen = {ast.unparse(tree)}
    for path, old, new, statement in changes(tree, kinds):
        changed = copy.deepcopy(tree)
        place(changed, path, new)
        ast.fix_missing_locations(changed)
        text = ast.unparse(changed)
        if text in seen or any(
            len({ast.unparse(arg) for arg in site.args[1:3]}) < 2 for site in sites(changed).values()
        ):
            continue  # made before, or a side put in the place of the other
        seen.add(text)
        inner = statement
        after = next(n for n in ast.walk(changed) if type(n) is type(inner) and same_place(n, inner))
        yield Mutant(old.lineno, header(inner), header(after), changed, gives(tree, inner), side_of(tree, path))


def changes(tree: ast.Module, kinds: dict[str, object]) -> Iterator[tuple[list[Any], Any, ast.AST, ast.stmt]]:
    """(path, node, replacement, the innermost statement around it) of every change."""

    def walk(node: Any, path: list[Any], statement: ast.stmt | None, local: list[str]) -> Iterator[Any]:
        if isinstance(node, ast.stmt):
            statement = node
            if left_alone(node):
                return
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            local = [a.arg for a in node.args.args]
        if isinstance(node, ast.expr) and statement is not None:
            for new in replacements(node, kinds, local):
                yield path, node, ast.copy_location(new, node), statement
        for step, child in children(node):
            yield from walk(child, [*path, step], statement, local)

    yield from walk(tree, [], None, [])


def children(node: ast.AST) -> Iterator[tuple[Any, ast.AST]]:
    """The parts of a node that may be changed, each with its place (field, index)."""
    name = called(node)
    for key, value in ast.iter_fields(node):
        if key in ("targets", "target", "ctx", "annotation", "returns", "decorator_list", "names"):
            continue
        for i, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            settings = isinstance(child, ast.keyword) and child.arg in SETTINGS
            label = check_call(node) and key == "args" and i not in (1, 2)  # and a tolerance behind the sides
            axis = name in ALONG and isinstance(child, ast.Constant)
            sized = key == "args" and (name in SIZED or axis)
            if isinstance(child, ast.AST) and not (settings or label or sized):
                yield (key, i), child


def left_alone(node: ast.stmt) -> bool:
    """Imports, slips, and statements that only draw or print."""
    if isinstance(node, ast.With):
        return any(called(item.context_expr) == "slip" for item in node.items)
    if isinstance(node, ast.Expr):
        root: ast.AST = node.value
        while isinstance(root, ast.Call | ast.Attribute | ast.Subscript):
            root = root.func if isinstance(root, ast.Call) else root.value
        return isinstance(root, ast.Name) and root.id in DRAWS
    return isinstance(node, ast.Import | ast.ImportFrom)


def replacements(node: ast.expr, kinds: dict[str, object], local: list[str]) -> Iterator[ast.AST]:
    """What may come in the place of an expression."""
    match node:
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            yield ast.BinOp(node.left, OPERATORS[type(op)](), node.right)
        case ast.UnaryOp(op=ast.USub()):
            yield node.operand
        case ast.Constant(value=bool() | str() | None):
            return
        case ast.Constant(value=int() as n):
            yield from (ast.Constant(n + 1), ast.Constant(n - 1))[: 2 if n else 1]
        case ast.Constant(value=float() as x):
            yield ast.Constant(1.1 * x if x else 0.1)
        case ast.Call(func=ast.Attribute(value=value, attr=attr)):
            if attr in RENAMED:
                yield ast.Call(ast.Attribute(value, RENAMED[attr], ast.Load()), node.args, node.keywords)
            if attr in DROPPED:  # x.sqrt() and torch.sqrt(x) alike
                yield node.args[0] if node.args and isinstance(value, ast.Name) else value
        case ast.Attribute(value=value, attr=attr):
            if attr in RENAMED:
                yield ast.Attribute(value, RENAMED[attr], ast.Load())
            if attr in DROPPED:
                yield value
        case ast.Subscript(slice=ast.Name() | ast.BinOp() as index):
            for op in (ast.Add(), ast.Sub()):
                yield ast.Subscript(node.value, ast.BinOp(index, op, ast.Constant(1)), ast.Load())
        case ast.Name(id=name) if name in local and len(local) > 1:
            yield ast.Name(local[(local.index(name) + 1) % len(local)], ast.Load())
        case ast.Name(id=name) if kinds.get(name) is not None:
            alike = sorted(other for other, kind in kinds.items() if kind == kinds[name])
            if len(alike) > 1:
                yield ast.Name(alike[(alike.index(name) + 1) % len(alike)], ast.Load())


def place(tree: ast.AST, path: list[Any], new: ast.AST) -> None:
    """Put `new` at `path`."""
    for key, i in path[:-1]:
        tree = getattr(tree, key) if i is None else getattr(tree, key)[i]
    key, i = path[-1]
    if i is None:
        setattr(tree, key, new)
    else:
        getattr(tree, key)[i] = new


# ---- which check a change can reach -----------------------------------------------------------------------------


def called(node: ast.AST) -> str:
    """The name f of a call f(..) or x.f(..)."""
    match node:
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
            return name
    return ""


def check_call(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="check"), attr=name)):
            return name in CHECKS
    return False


def sites(tree: ast.Module) -> dict[int, ast.Call]:
    """The checks of a cell by their lines, those in slips left out."""

    def walk(node: ast.AST) -> Iterator[ast.Call]:
        if isinstance(node, ast.With) and left_alone(node):
            return
        if check_call(node):
            assert isinstance(node, ast.Call)
            yield node
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    return {node.lineno: node for node in walk(tree)}


def sides(site: ast.Call) -> list[list[ast.AST]]:
    """The two sides of a check. Where they are not written out, all counts as one side, which must be killed."""
    written = [arg for arg in site.args[1:] if not isinstance(arg, ast.Starred)]
    if len(written) >= 2 and len(written) == len(site.args) - 1:
        return [[written[0]], [written[1]]]
    return [list(site.args[1:]), []]


def side_of(tree: ast.Module, path: list[Any]) -> tuple[int, int] | None:
    """The line and the side of the check that a place stands in; None outside of checks."""
    node: Any = tree
    for n, (key, i) in enumerate(path):
        node = getattr(node, key) if i is None else getattr(node, key)[i]
        if check_call(node) and n + 1 < len(path):
            key, i = path[n + 1]
            return node.lineno, int(key == "args" and i == 2 and len(sides(node)[1]) > 0)
    return None


def used(nodes: Iterable[ast.AST]) -> set[str]:
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}


def own(node: ast.stmt) -> list[ast.AST]:
    """A statement without the statements in it."""
    return [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]


def header(node: ast.stmt) -> str:
    """A statement as text, without the statements in it."""
    text = ast.unparse(node)
    return text.splitlines()[0] if hasattr(node, "body") else text


def same_place(a: Any, b: Any) -> bool:
    return (a.lineno, a.col_offset) == (b.lineno, b.col_offset)


def gives(tree: ast.Module, statement: ast.stmt) -> set[str]:
    """The names that a statement gives or changes; in a function the function's own name, too."""
    names = {
        n.id for n in ast.walk(ast.Module([statement], [])) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    if isinstance(statement, ast.For | ast.With | ast.FunctionDef):
        names = used([statement.target]) if isinstance(statement, ast.For) else set()
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        match statement.value.func:  # values.append(..): changes what its name holds
            case ast.Attribute(value=ast.Name(id=name)) if name != "check":
                names |= {name}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.lineno <= statement.lineno <= (node.end_lineno or 0):
            names |= {node.name}
    return names


def reach(tree: ast.Module, nodes: list[ast.AST]) -> set[str]:
    """Every name of the cell that some expressions depend on."""
    known = used(nodes)
    statements = [n for n in ast.walk(tree) if isinstance(n, ast.stmt)]
    flows = [(gives(tree, s), used([s] if isinstance(s, ast.FunctionDef) else own(s))) for s in statements]
    while True:
        more = set().union(*(needs for given, needs in flows if given & known)) - known
        if not more:
            return known
        known |= more


# ---- running them -----------------------------------------------------------------------------------------------


def kinds_of(state: dict[str, Any], names: set[str]) -> dict[str, object]:
    """What each of these names holds, where that is a number or has a shape: names of one kind may be mistaken."""
    kinds: dict[str, object] = {}
    for name in names & set(state):
        value = state[name]
        if isinstance(value, int | float) and not isinstance(value, bool):
            kinds[name] = "number"
        elif str(type(value).__module__).startswith("sympy"):
            kinds[name] = "symbol"
        elif isinstance(getattr(value, "shape", None), tuple):
            kinds[name] = (type(value).__name__, tuple(value.shape))
    return kinds


def run(tree: ast.Module, state: dict[str, Any]) -> None:
    exec(compile(tree, "cell", "exec"), state)


def failures(mutant: Mutant, state: dict[str, Any], lines: set[int], kind: type[Exception]) -> set[int]:
    """The lines of the checks that fail on a mutant, raising `kind`; all of them where anything else is raised.

    But where the kind is that of a failed check, nothing else counts: it is a wrong equation that cannot be computed.
    """
    failed: set[int] = set()
    within_slip = 0

    def recorded(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> None:
            frame = inspect.currentframe()
            assert frame is not None
            assert frame.f_back is not None
            line = frame.f_back.f_lineno
            site = max((n for n in lines if n <= line), default=line)
            try:
                function(*args, **options)
            except kind:
                if within_slip:
                    raise
                failed.add(site)

        return call

    slip = check.slip

    @contextlib.contextmanager
    def counted(text: str) -> Iterator[None]:
        nonlocal within_slip
        within_slip += 1
        try:
            with slip(text):
                yield
        finally:
            within_slip -= 1

    for name in CHECKS:
        setattr(check, name, recorded(getattr(check, name)))
    setattr(check, "slip", counted)  # noqa: B010 - as the three above
    try:
        run(mutant.tree, state)
    except BaseException:
        return failed if kind is check.CheckFailed else lines
    return failed


def forked(
    mutant: Mutant, state: dict[str, Any], lines: set[int], seconds: float, kind: type[Exception]
) -> tuple[int, int]:
    """Start a process for one mutant; its id, and the end of a pipe that will hold the lines that failed."""
    read, write = os.pipe()
    if child := os.fork():
        os.close(write)
        return child, read
    signal.setitimer(signal.ITIMER_REAL, seconds)  # a mutant that hangs dies of the signal, and counts as killed
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os.write(write, json.dumps(sorted(failures(mutant, state, lines, kind))).encode() + b"\n")
    os._exit(0)


def tried(
    found: list[Mutant],
    state: dict[str, Any],
    lines: set[int],
    seconds: float,
    jobs: int,
    kind: type[Exception] = Exception,
) -> None:
    """Run all mutants, `jobs` at a time, and write down what failed."""
    running: dict[int, tuple[Mutant, int]] = {}
    waiting = list(reversed(found))
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            child, pipe = forked(mutant, state, lines, seconds, kind)
            running[child] = mutant, pipe
        child, _ = os.wait()
        mutant, pipe = running.pop(child)
        with os.fdopen(pipe) as file:
            said = file.read()
        mutant.failed = set(json.loads(said)) if said.endswith("\n") else lines


def code_cells(path: Path) -> list[tuple[dict[str, Any], str, ast.Module]]:
    """The code cells of a notebook but the bootstrap cell, each with its source and its tree."""
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    sources = [(cell, "".join(cell["source"])) for cell in cells]
    return [(cell, source, syntax_tree(cell)) for cell, source in sources if "%pip" not in source]


def cells_in_turn(
    cells: Sequence[tuple[dict[str, Any], str, ast.Module]], path: Path
) -> Iterator[tuple[dict[str, Any], str, ast.Module, dict[str, Any]]]:
    """Each of the cells of a notebook with the state before it. Then it is run."""
    import matplotlib

    matplotlib.use("Agg")
    os.chdir(path.parent)
    state: dict[str, Any] = {"__name__": "__main__", "display": lambda *_: None}
    for cell, source, tree in cells:
        yield cell, source, tree, state
        with contextlib.redirect_stdout(io.StringIO()):
            run(tree, state)


def needed(trees: Sequence[ast.Module], wanted: Collection[tuple[int, int]]) -> list[ast.Module]:
    """What some statements depend on, by the names that statements give, change and use: all cells, cut down to that.

    `wanted` has the number of the cell and the first line of each statement.
    """
    found, names = [], set[str]()
    for i in reversed(range(len(trees))):
        kept = []
        for statement in reversed(trees[i].body):
            within = [node for node in ast.walk(statement) if isinstance(node, ast.stmt)]
            given = set().union(*(gives(trees[i], node) | bases(node) for node in within))
            if (i, statement.lineno) in wanted or isinstance(statement, ast.Import | ast.ImportFrom) or given & names:
                kept.append(statement)
                if isinstance(statement, ast.Assign | ast.FunctionDef) and not bases(statement):
                    names -= given  # what they held before has no reader
                names |= needs(statement)
        found.append(ast.Module(kept[::-1], []))
    return found[::-1]


def needs(statement: ast.stmt) -> set[str]:
    """The names that a statement uses, but those of its lambdas' arguments, loops and comprehensions."""
    nodes = list(ast.walk(statement))
    bound = {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= used(node.target for node in nodes if isinstance(node, ast.comprehension | ast.For))
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)} - bound
    return read | used(node.target for node in nodes if isinstance(node, ast.AugAssign))


def bases(statement: ast.stmt) -> set[str]:
    """The names of what a statement changes in place, as in table[k] = .. and net.rate = .., and of a class."""
    match statement:
        case ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            changed = [target for target in targets if not isinstance(target, ast.Name | ast.Tuple)]
        case ast.Expr(value=ast.Call(func=ast.Attribute() as function)):
            changed = [function]
        case _:
            return set()
    return {next(n.id for n in ast.walk(target) if isinstance(n, ast.Name)) for target in changed} - {"check", *DRAWS}


def examine(path: Path, known: dict[str, Any], jobs: int, only: str = "") -> dict[str, Any]:
    """Run a notebook, and the mutants of every cell with checks; what is known of unchanged cells is kept."""
    results: dict[str, Any] = {}
    for cell, source, tree, state in cells_in_turn(code_cells(path), path):
        places = sites(tree)
        start = time.perf_counter()
        if places and (not only or only in source):
            if known.get(cell["id"], {}).get("digest") == digest(source):
                results[cell["id"]] = known[cell["id"]]
            else:
                results[cell["id"]] = judged(tree, places, state, jobs) | {"digest": digest(source)}
                told = results[cell["id"]]
                labels = ", ".join(sorted({site["label"] for site in told["sites"]}))
                print(
                    f"{path.stem} {cell['id']} ({labels}): {told['mutants']} mutants, "
                    f"{len(told['survivors'])} survive, {told['moved']} moved, {time.perf_counter() - start:.0f} s",
                    flush=True,
                )
    return results


def unnoticed(path: Path, wrong: Sequence[Mapping[str, str]]) -> list[str]:
    """Of `wrong`, replacements of `old` by `new` in the cell that checks `label`, those that no check of it notices.

    Only what these cells depend on is run, and as they stand their checks must hold.
    """
    problems, left, cells = [], list(wrong), code_cells(path)

    def of(source: str, tree: ast.Module) -> list[Mapping[str, str]]:
        return [w for w in left if w["old"] in source and w["label"] in map(label, sites(tree).values())]

    wanted = {(i, s.lineno) for i, (_, source, tree) in enumerate(cells) if of(source, tree) for s in tree.body}
    cut = needed([tree for _, _, tree in cells], wanted)
    turns = [(cell, source, tree) for (cell, source, _), tree in zip(cells, cut, strict=True) if tree.body]
    for _, source, tree, state in cells_in_turn(turns, path):
        here = of(source, tree)
        left = [w for w in left if w not in here]
        for entry in here:
            changed = ast.parse(source.replace(entry["old"], entry["new"]))
            lines = {line for line, site in sites(changed).items() if label(site) == entry["label"]}
            its = {(0, s.lineno) for s in changed.body if lines & set(range(s.lineno, (s.end_lineno or 0) + 1))}
            [cut_down] = needed([changed], its)
            mutant = Mutant(0, entry["old"], entry["new"], cut_down, set(), None)
            tried([mutant], state, lines, 120, 1, check.CheckFailed)
            if not mutant.failed:
                problems.append(f"({entry['label']}) passes with {entry['slip']}: {entry['new']}")
    return problems + [f"({w['label']}): no cell with a check of it holds {w['old']!r}" for w in left]


def judged(tree: ast.Module, places: dict[int, ast.Call], state: dict[str, Any], jobs: int) -> dict[str, Any]:
    """All mutants of a cell, tried, and what came of them."""
    lines = set(places)
    kinds, seconds = after(tree, state)
    found = list(mutants(tree, kinds))
    found = found[:: -(-len(found) // MOST)] if found else []
    tried(found, state, lines, 20 + 10 * seconds, jobs)
    reaches = {line: [reach(tree, side) for side in sides(site)] for line, site in places.items()}
    counts = {line: [0, 0, 0] for line in lines}  # tried on one side, noticed; noticed where it feeds both
    by_label = {label(site): [0, 0] for site in places.values()}
    survivors, moved = [], 0
    for mutant in found:
        open_at, passed_both, met, caught = [], False, set[str](), set[str]()
        for line in sorted(lines):
            if mutant.inside:
                feeds = [mutant.inside == (line, side) for side in (0, 1)]
            else:
                feeds = [bool(mutant.given & names) for names in reaches[line]]
            if all(feeds):
                passed_both |= line not in mutant.failed
                counts[line][2] += line in mutant.failed
            elif any(feeds):
                counts[line][0] += 1
                counts[line][1] += line in mutant.failed
                met.add(label(places[line]))
                if line in mutant.failed:
                    caught.add(label(places[line]))
                else:
                    open_at.append(line)
        for name in met:
            by_label[name][0] += 1
            by_label[name][1] += name in caught
        if mutant.failed:
            continue
        if open_at:
            labels = sorted({label(places[line]) for line in open_at})
            survivors.append({"labels": labels, "old": mutant.old, "new": mutant.new})
        elif passed_both:
            moved += 1
    return {
        "mutants": len(found),
        "moved": moved,
        "labels": by_label,
        "sites": [
            {
                "label": label(places[n]),
                "kind": called(places[n]),
                "tried": counts[n][0],
                "killed": counts[n][1],
                "both": counts[n][2],
            }
            for n in sorted(lines)
        ],
        "survivors": survivors,
    }


def digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def label(site: ast.Call) -> str:
    return str(ast.literal_eval(site.args[0]))


def after(tree: ast.Module, state: dict[str, Any]) -> tuple[dict[str, object], float]:
    """The kinds of the names that a cell uses, once it has run, and the seconds that it takes: in a fork."""
    read, write = os.pipe()
    if not os.fork():
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            run(tree, state)
        kinds = {name: repr(kind) for name, kind in kinds_of(state, used([tree])).items()}
        os.write(write, json.dumps([kinds, time.perf_counter() - start]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    os.wait()
    kinds, seconds = json.loads(said)
    return kinds, seconds


# ---- the table --------------------------------------------------------------------------------------------------


def excuses() -> dict[tuple[str, str, str], str]:
    listed = tomllib.loads(EXCUSES.read_text("utf-8")).get("excused", []) if EXCUSES.exists() else []
    return {(entry["notebook"], entry["old"], entry["new"]): entry["why"] for entry in listed}


def summary(results: dict[str, Any]) -> str:
    """The table of all chapters; then what survives without a reason, labels without a strong check, weak chapters.

    A reason that begins with "weak:" owns to a hole: it counts as a survivor. Any other says why nothing can be seen.
    """
    reasons = excuses()
    lines = ["| chapter | cells | mutants | moved | equivalent | survive | noticed |", "|---|---|---|---|---|---|---|"]
    rest = []
    for name, cells in results.items():
        total, moved = (sum(cell[key] for cell in cells.values()) for key in ("mutants", "moved"))
        listed = [s for cell in cells.values() for s in cell["survivors"]]
        why = {id(s): reasons.get((name, s["old"], s["new"]), "") for s in listed}
        bare = [s for s in listed if not why[id(s)]]
        alive = [s for s in listed if not why[id(s)] or why[id(s)].startswith("weak:")]
        due = total - moved - len(listed) + len(alive)
        share = 100 * (1 - len(alive) / due) if due else 100.0
        counts = [len(cells), total, moved, len(listed) - len(alive), len(alive)]
        lines.append(f"| {name} | {' | '.join(map(str, counts))} | {share:.1f}% |")
        rest += [f"{name} ({', '.join(s['labels'])}):\n    {s['old']}\n    {s['new']}" for s in bare]
        strong: dict[str, bool] = defaultdict(bool)
        for cell in cells.values():
            holes = {label for s in cell["survivors"] if s in alive for label in s["labels"]}
            for site in cell["sites"]:
                whole = site["tried"] == site["killed"] or site["label"] not in holes
                strong[site["label"]] |= site["tried"] + site.get("both", 0) > 0 and whole
        rest += [f"{name}: no strong check of {label}" for label, fine in sorted(strong.items()) if not fine]
        if share < 99:
            rest.append(f"{name}: {share:.1f}% are noticed, of 99% at least")
    return "\n".join([*lines, *rest])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="only cells with this text, such as a label; nothing is saved")
    parser.add_argument("--afresh", action="store_true", help="cells that have not changed, too")
    arguments = parser.parse_args()
    paths = [path.resolve() for path in arguments.notebooks] or notebooks(BOOK)
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    for path in paths:
        known = {} if arguments.afresh or arguments.only else results.get(path.stem, {})
        found = examine(path, known, arguments.jobs, arguments.only)
        if arguments.only:
            print(summary({path.stem: found}))
            continue
        results[path.stem] = found
        RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n", "utf-8")
    if not arguments.only:
        print(summary(results))


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    main()
