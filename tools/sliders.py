"""Move every slider of a notebook, as a reader would: `python tools/sliders.py NOTEBOOK ...`.

Each notebook runs in a kernel of its own, up to its panel. Then one slider after the other is moved by a step, and a
new figure must stand below them.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

WIDGET = "application/vnd.jupyter.widget-view+json"
MOVE = """
slider = panel.children[{i}]
slider.value += slider.step if slider.value < slider.max else -slider.step
"""


def figures(path: Path) -> list[int]:
    """For each slider of the notebook, how many figures its panel shows after it was moved."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    last = next(i for i, cell in enumerate(code) if "plots.panel(" in cell.source)
    notebook.cells = [*code[: last + 1], new_code_cell("panel = Out[max(Out)]")]  # what was shown last
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", resources=where)
    found = []
    with client.setup_kernel():
        for i, cell in enumerate(notebook.cells):
            client.execute_cell(cell, i)
        panel = client.widget_state[code[last].outputs[0].data[WIDGET]["model_id"]]
        *sliders, shown = (child.removeprefix("IPY_MODEL_") for child in panel["children"])
        for i in range(len(sliders)):
            client.widget_state[shown]["outputs"] = []
            notebook.cells.append(new_code_cell(MOVE.format(i=i)))
            client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1)
            # what nbclient, in the place of a page, holds for the panel's Output
            outputs = client.widget_state[shown].get("outputs", [])
            found.append(sum("image/png" in output.get("data", {}) for output in outputs))
    return found


if __name__ == "__main__":
    seen = {path: figures(path) for path in map(Path, sys.argv[1:])}
    for path, found in seen.items():
        print(f"{path.name}: {found} figures after each of {len(found)} sliders was moved")
    sys.exit(any(count != 1 for found in seen.values() for count in found))
