"""Are two pictures the same figure? `pytest --nbval book` asks it of every picture that a notebook shows.

Bytes cannot be compared, and pixels cannot: an edge lies elsewhere by a fraction of a pixel where the last bit of a
number differs, and another matplotlib brings another FreeType, whose letters have other sizes, so that axes and legends
move. So a pixel is accounted for where the other picture has its colour nearby: within REACH, between the darkest and
the lightest value there, give or take SHADE. What only one of the pictures has, a curve, a word, leaves its ink over.

Where the numbers come from (points are those of type, 1/72 inch):

- REACH, drawn by the same matplotlib: all stands where it stood, and an edge is drawn anew within 1 pixel of its place.
- REACH, drawn by another: with FreeType 2.6.1 (matplotlib 3.9 and 3.10 have it) a line of text comes out up to 3 pixels
  of our 140 dpi higher than with 2.14.3 (3.11). A legend of five lines adds up four of them: 12 pixels, or 6 points.
- SHADE: the nearest two of the book's colours, blue and green, differ by 63 of 255 in a channel. It must be less.
- SPECK: what may be left over between two FreeTypes. A letter of 10 points has about 25 square points of ink, so no
  word can be lost. Over all pictures of the book the most was 19 when this was chosen. (The static pictures of the
  figures that move are compared only by the matplotlib that drew them: the legend of one exceeds this with FreeType
  2.6.1.) Between runs of one matplotlib nothing may be left.
"""

import base64
import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

REACH_SAME = 1.0  # pixels
REACH_OTHER = 6.0  # points
SHADE = 48  # of 255
SPECK = 25.0  # square points

EMBEDDED = r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=\\\s]*)"  # the frames of a player, inside its HTML


def pictures(outputs: list[Any]) -> Iterator[bytes]:
    """The pictures among a cell's outputs, those inside HTML too, in their order."""
    for output in outputs:
        data = output.get("data", {})
        found = [data["image/png"]] if "image/png" in data else []
        for text in [*found, *re.findall(EMBEDDED, data.get("text/html", ""))]:
            yield base64.b64decode(re.sub(r"\\n|\\|\s", "", text))


def difference(saved: bytes, drawn: bytes) -> tuple[str, bytes] | None:
    """None where both pictures are the same figure, else what differs, in words and as a picture (PNG)."""
    one, two = (Image.open(io.BytesIO(png)) for png in (saved, drawn))
    dots = one.info.get("dpi", (140, 140))[0] / 72  # pixels per point
    same = one.info.get("Software") == two.info.get("Software")  # "Matplotlib version3.11.2, https://matplotlib.org/"
    reach, speck = round(REACH_SAME if same else REACH_OTHER * dots), 0 if same else SPECK * dots**2
    if max(abs(m - n) for m, n in zip(one.size, two.size, strict=True)) > reach:
        return f"its size is {two.size}, the saved one's {one.size}", drawn
    size = max(one.width, two.width), max(one.height, two.height)
    a, b = (_on_paper(picture, size) for picture in (one, two))
    left = _unaccounted(a, b, reach) | _unaccounted(b, a, reach)
    if left.sum() <= speck:
        return None
    red = np.where(left[..., None], np.array([255, 0, 0], np.uint8), b // 2 + 127)
    sheet = io.BytesIO()
    Image.fromarray(np.concatenate([a, b, red.astype(np.uint8)])).save(sheet, "png")
    return f"{left.sum()} pixels are not accounted for, at most {speck:.0f} may be", sheet.getvalue()


def _on_paper(picture: Image.Image, size: tuple[int, int]) -> Any:
    """Its pixels (height, width, 3) at the top left of a white sheet."""
    sheet = Image.new("RGB", size, "white")
    sheet.paste(picture.convert("RGB"))
    return np.asarray(sheet)


def _unaccounted(a: Any, b: Any, reach: int) -> Any:
    """The pixels of a, shape (height, width), whose colour b does not have within `reach`."""
    window = (2 * reach + 1, 2 * reach + 1, 1)
    low, high = minimum_filter(b, window).astype(int) - SHADE, maximum_filter(b, window).astype(int) + SHADE
    return ((a < low) | (a > high)).any(-1)
