"""Figures that move under the reader's hand, computed in the page: `explore(name)` in a cell of a notebook.

The code is a few kilobytes of JavaScript in `page/`, the same for the book, JupyterLab and Colab. What is shown where
no script runs is a picture from `stills/`, where stills.json says what is in it and which state the figure starts from.

>>> explore("jump", eta=0.5).data[:41]
'<div class="explore" data-figure="jump" d'
"""

import base64
import html
import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "page"
STILLS = Path(__file__).parent / "stills"  # from tools/stills.py
SCRIPTS = ("maths.js", "draw.js", "figures.js", "start.js")  # in this order
STYLE = "explore.css"
# what `explore` adds for a live notebook, and what a saved one does without
CODE = r"<style data-explore>.*?</style><script data-explore>.*?</script>"


def explore(name: str, **state: Any) -> Any:
    """The figure `name`, to be shown by a notebook, in its static form and with the code that brings it to life.

    Args:
        state: what it starts from, where that is not to be what the static picture shows.

    Raises:
        ValueError: there is no such figure, or it has no such state.
    """
    from IPython.display import HTML

    style, *scripts = ((PAGE / file).read_text("utf-8") for file in (STYLE, *SCRIPTS))
    code = f"<style data-explore>{style}</style><script data-explore>{''.join(scripts)}</script>"
    return HTML(static(name, **state) + code)


def static(name: str, **state: Any) -> str:
    """The same without the code: what a saved notebook holds, and what a page holds that loads the code itself."""
    stills = json.loads((STILLS / "stills.json").read_text("utf-8"))
    if name not in stills:
        raise ValueError(f"name must be one of {sorted(stills)}, got {name!r}")
    still = stills[name]
    if unknown := set(state) - set(still["state"]):
        raise ValueError(f"state of {name!r} must be among {sorted(still['state'])}, got {sorted(unknown)}")
    start = html.escape(json.dumps(still["state"] | state), quote=True)
    words, (width, height) = html.escape(still["alt"]), still["size"]
    data = base64.b64encode((STILLS / f"{name}.png").read_bytes()).decode()
    image = f'<img alt="{words}" width="{width}" height="{height}" src="data:image/png;base64,{data}">'
    return f'<div class="explore" data-figure="{still["figure"]}" data-state="{start}">{image}</div>'
