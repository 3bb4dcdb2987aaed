"""Run notebooks and save them with their outputs: `python tools/notebooks.py [PATH ...]`, by default all of book/.

Apart from the figures, the saved files are the same on every machine: no timings, no widget state, no editor metadata,
one kernel name. `normalise` alone determines what a committed notebook looks like.
"""

import re
import sys
import time
from pathlib import Path

import matplotlib.font_manager  # noqa: F401  lists the fonts, of which a kernel would say so
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from diffnotes.book.explore import CODE
from diffnotes.book.ledger import notebooks

BOOK = Path(__file__).resolve().parent.parent / "book"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# the tag `hide-input` folds a cell in the built page; these fold it in JupyterLab and in Colab
FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def normalise(notebook: NotebookNode) -> NotebookNode:
    """`notebook`, changed in place: only the metadata that readers and the build use, no widget ids in outputs."""
    kept = {"mystnb": notebook.metadata.mystnb} if "mystnb" in notebook.metadata else {}
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"}, **kept)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k in ("mystnb", "tags")})
        if "hide-input" in cell.metadata.get("tags", []):
            cell.metadata.update(FOLDED)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop(WIDGET, None)
            page = "".join(data.get("text/html", ""))
            if re.search(CODE, page, re.DOTALL):  # of a figure that moves: the built page loads it by itself
                data["text/html"] = re.sub(CODE, "", page, flags=re.DOTALL)
            if "metadata" in output:
                output.metadata = NotebookNode()
    return notebook


def execute(path: Path) -> float:
    """Run `path` in a fresh kernel in its own folder, save it normalised, and return the seconds it took."""
    start = time.perf_counter()
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        coalesce_streams=True,
    ).execute()
    nbformat.write(normalise(notebook), path)
    return time.perf_counter() - start


if __name__ == "__main__":
    paths = [Path(word) for word in sys.argv[1:]] or notebooks(BOOK)
    if wrong := [str(path) for path in paths if path.suffix != ".ipynb" or not path.is_file()]:
        sys.exit(f"usage: python tools/notebooks.py [PATH ...], each a notebook, got {', '.join(wrong)}")
    for path in paths:
        print(f"{path.name}: {execute(path):.1f} s", flush=True)
