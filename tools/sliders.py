"""Move every slider of ipywidgets, as a reader would: `python tools/sliders.py NOTEBOOK ...`.

Each notebook with a panel runs in a kernel of its own, up to the panel. Then the sliders are moved by a step, one after
the other, and each time exactly one figure must appear. (Figures that move in the page have no kernel to ask:
tests/book/test_explore.py and test_jupyterlab.py drag those.)
"""

import sys
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import start_new_kernel

MOVE = """
slider = panel.children[{i}]
slider.value += slider.step if slider.value < slider.max else -slider.step
"""


def execute(client: Any, source: str) -> list[dict[str, Any]]:
    """Run a cell and return what it prints and shows."""
    shown: list[dict[str, Any]] = []

    def keep(message: Any) -> None:
        if message["msg_type"] in ("stream", "display_data", "execute_result"):
            shown.append(message["content"])

    reply = client.execute_interactive(source, output_hook=keep, timeout=900)["content"]
    if reply["status"] != "ok":
        raise RuntimeError(f"{reply['ename']}: {reply['evalue']} in\n{source}")
    return shown


def figures(path: Path) -> list[int]:
    """For each slider in the notebook, the number of figures that appear when it is moved; [] where it has no panel."""
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    last = next((i for i, source in enumerate(code) if "plots.panel(" in source), None)
    if last is None:
        return []
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(path.parent))
    try:
        for source in code[: last + 1]:
            execute(client, source)
        execute(client, "panel = Out[max(Out)]")  # what was shown last
        sliders = int(execute(client, "print(len(panel.children) - 1)")[0]["text"])  # the last child is the figure
        moved = [execute(client, MOVE.format(i=i)) for i in range(sliders)]
        return [sum("image/png" in output.get("data", {}) for output in shown) for shown in moved]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    seen = {path: found for path in map(Path, sys.argv[1:]) if (found := figures(path))}
    for path, found in seen.items():
        print(f"{path.name}: {found} figures after each of {len(found)} sliders was moved")
    sys.exit(not seen or any(count != 1 for found in seen.values() for count in found))
