"""Build both editions of the book, side by side, into _build/html: `python -m tools.book`. Warnings are errors."""

import subprocess
import sys
from pathlib import Path

import yaml

from tools.chinese import ROOT, SOURCE, lay_beside, prepare

# where a site begins, in the place of Jupyter Book's own, which has no icon: the browser would ask for one in vain
ROOT_PAGE = """<!DOCTYPE html>
<html lang="{language}">
<meta charset="utf-8">
<title>{title}</title>
<link rel="icon" href="_static/favicon.svg">
<meta http-equiv="refresh" content="0; url=book/index.html">
<a href="book/index.html">{title}</a>
</html>
"""


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
    if failed := english.returncode or chinese.returncode:
        return failed
    for source, language in ((ROOT, "en"), (SOURCE, "zh-CN")):
        title = yaml.safe_load((source / "_config.yml").read_text("utf-8"))["title"]
        page = ROOT_PAGE.format(language=language, title=title)
        (source / "_build" / "html" / "index.html").write_text(page, "utf-8")
    lay_beside()
    return 0


if __name__ == "__main__":
    sys.exit(main())
