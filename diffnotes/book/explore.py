"""Figures that move under the reader's hand, computed in the page: `explore(name)` in a cell of a notebook.

The code is a few kilobytes of JavaScript in `page/`, the same for the book, JupyterLab and Colab. What is shown where
no script runs is a picture from `stills`.

>>> explore("jump", eta=0.5).data[:41]
'<div class="explore" data-figure="jump" d'
"""

import base64
import html
import inspect
import io
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffnotes.book import plots
from diffnotes.book.stills import STILLS, garments_state

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("maths.js", "draw.js", "figures.js", "start.js")  # in this order
STYLE = "explore.css"
# what `explore` adds for a live notebook, and what a saved one does without
CODE = r"<style data-explore>.*?</style><script data-explore>.*?</script>"


def explore(name: str, *, alt: str = "", **state: Any) -> Any:
    """The figure `name`, to be shown by a notebook, in its static form and with the code that brings it to life.

    Args:
        alt: what the static picture shows, where the state is not the default one.
        state: what it starts from, where that is not to be the default: the arguments of its function in `stills`.

    Raises:
        ValueError: there is no such figure, or it has no such state.
    """
    from IPython.display import HTML

    style, *scripts = ((PAGE / file).read_text("utf-8") for file in (STYLE, *SCRIPTS))
    code = f"<style data-explore>{style}</style><script data-explore>{''.join(scripts)}</script>"
    return HTML(static(name, alt=alt, **state) + code)


def static(name: str, *, alt: str = "", **state: Any) -> str:
    """The same without the code: what a saved notebook holds, and what a page holds that loads the code itself."""
    if name not in STILLS:
        raise ValueError(f"name must be one of {sorted(STILLS)}, got {name!r}")
    still = STILLS[name]
    defaults = {key: parameter.default for key, parameter in inspect.signature(still).parameters.items()}
    if unknown := set(state) - set(defaults):
        raise ValueError(f"state of {name!r} must be among {sorted(defaults)}, got {sorted(unknown)}")
    png, (width, height) = picture(name, **state)
    data, words = base64.b64encode(png).decode(), html.escape(alt or " ".join((still.__doc__ or "").split()))
    given = garments_state() if name == "garments" else {}
    start = html.escape(json.dumps(defaults | state | given), quote=True)
    image = f'<img alt="{words}" width="{width}" height="{height}" src="data:image/png;base64,{data}">'
    return f'<div class="explore" data-figure="{name}" data-state="{start}">{image}</div>'


def picture(name: str, **state: Any) -> tuple[bytes, tuple[int, int]]:
    """The static picture as PNG, in few colours so that it is small, and its size on the page."""
    raw = io.BytesIO()
    with mpl.rc_context():
        plots.use_style()
        STILLS[name](**state).savefig(raw, format="png", dpi=140)
    drawn = Image.open(raw)
    info, small = PngInfo(), io.BytesIO()
    info.add_text("Software", str(drawn.info["Software"]))
    colours = drawn.convert("RGB")
    grey = colours.convert("L")  # where there is no colour, every shade is kept: a figure may read them
    few = grey if grey.convert("RGB").tobytes() == colours.tobytes() else colours.quantize(48)
    few.save(small, "png", optimize=True, dpi=(140, 140), pnginfo=info)
    scale = 1 if few is grey else 0.72
    return small.getvalue(), (round(drawn.width * scale), round(drawn.height * scale))
