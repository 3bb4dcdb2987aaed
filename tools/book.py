"""Build both editions of the book, side by side, into _build/html: `python -m tools.book`. Warnings are errors."""

import subprocess
import sys
from pathlib import Path

from tools.chinese import ROOT, SOURCE, lay_beside, prepare


def command(*where: str) -> list[str]:
    program = str(Path(sys.executable).with_name("jupyter-book"))
    return [program, "build", *where, "--all", "-W", "-n", "--keep-going"]


def main() -> int:
    """The exit status: that of an edition that failed, or 0."""
    with subprocess.Popen(command("."), cwd=ROOT) as english:
        prepare()
        asked = command(str(SOURCE), "--path-output", str(SOURCE))
        chinese = subprocess.run(asked, capture_output=True, text=True, check=False)
    print(chinese.stdout + chinese.stderr, end="")
    lay_beside()
    return english.returncode or chinese.returncode


if __name__ == "__main__":
    sys.exit(main())
