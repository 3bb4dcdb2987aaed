"""Draw book/images/first-minute.png, the front page's figure where no script runs: `python tools/picture.py`."""

import sys
from pathlib import Path

from diffnotes.book.explore import picture

TARGET = Path(__file__).resolve().parent.parent / "book" / "images" / "first-minute.png"

if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(f"usage: python tools/picture.py, without arguments, got {' '.join(sys.argv[1:])}")
    TARGET.write_bytes(picture("first-minute")[0])
