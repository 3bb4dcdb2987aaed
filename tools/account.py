"""Put a GitHub account into every address of this repository: `python3 tools/account.py NAME`.

The current account is read from _config.yml, so a fork can run this again. Only the addresses of the repository itself
change (github.com, Colab, Binder, Pages), and only in files that git tracks.
"""

import re
import subprocess
import sys
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}")  # what GitHub allows, so never `<account>`


def current(root: Path) -> str:
    """The account in the repository address in _config.yml."""
    found = re.search(r"url: https://github\.com/([^/\s]+)/diffnotes", (root / "_config.yml").read_text("utf-8"))
    if not found:
        raise ValueError("_config.yml contains no address of the form https://github.com/NAME/diffnotes")
    return found[1]


def replace(text: str, old: str, new: str) -> str:
    """`text` with the account in the repository's addresses changed from `old` to `new`."""
    text = re.sub(rf"(github\.com|github|gh)/{re.escape(old)}/diffnotes", rf"\1/{new}/diffnotes", text)
    return text.replace(f"{old}.github.io/diffnotes", f"{new}.github.io/diffnotes")


def main(root: Path, name: str) -> list[str]:
    """Rewrite the files under `root` in place and return the names of those that changed."""
    if not NAME.fullmatch(name):
        raise ValueError(f"NAME must be a GitHub account (letters, digits, single hyphens), got {name!r}")
    old, changed = current(root), []
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True, text=True).stdout
    for file in filter(None, tracked.split("\0")):
        path = root / file
        try:
            before = path.read_bytes().decode("utf-8")
        except (UnicodeDecodeError, FileNotFoundError):  # a picture, or a file deleted since the last commit
            continue
        after = replace(before, old, name)
        if after != before:
            path.write_bytes(after.encode("utf-8"))
            changed.append(file)
    return changed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make account NAME=your-github-account")
    try:
        files = main(Path(__file__).resolve().parent.parent, sys.argv[1])
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))
    print(*files, f"{len(files)} files changed", sep="\n")
