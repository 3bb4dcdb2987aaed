"""For every run of pytest here: the share of the cores, and what `--nbval` compares of a notebook's saved outputs."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores, and so do the kernels that they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

FAILED = Path(__file__).parent / "_build" / "pictures"  # the saved one, the one drawn now, and where they differ


def pytest_collectstart(collector: Any) -> None:
    """nbval compares outputs as text, and leaves out pictures. So those inside an HTML output are left out too."""
    if type(collector).__name__ == "IPyNbFile":  # a notebook
        import matplotlib.font_manager  # noqa: F401  lists the fonts, of which a kernel would say so
        from pictures import EMBEDDED  # tests/notebooks/pictures.py

        from diffnotes.book.explore import CODE

        collector.sanitize_patterns[EMBEDDED] = "a picture"
        collector.sanitize_patterns[f"(?s){CODE}"] = ""  # of a figure that moves; no saved notebook has it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: Any) -> Iterator[None]:
    """Once a notebook's cell has run and its texts have been compared: its pictures, too."""
    result = yield
    if type(item).__name__ == "IPyNbCell":  # a cell
        from pictures import difference, pictures

        saved, drawn = list(pictures(item.cell.outputs)), list(pictures(item.test_outputs))
        if len(saved) != len(drawn):
            item.raise_cell_error(f"{len(saved)} pictures are saved, {len(drawn)} were drawn")
        for number, pair in enumerate(zip(saved, drawn, strict=True)):
            if found := difference(*pair):
                path = FAILED / f"{Path(item.fspath).stem}-{item.cell_num}-{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(found[1])
                item.raise_cell_error(f"picture {number} is not the saved one: {found[0]}; see {path}")
    return result
