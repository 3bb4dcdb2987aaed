"""Sphinx extension: docstrings are written to be read in the source; this makes them safe for reStructuredText.

In prose, `|`, `*` and a trailing `_` mean what they look like (|x|, T * x, x_) and are not markup, and the first line
of a property may contain a colon. Code in backticks, *words* between asterisks, doctests and list bullets are left
alone. An indented block after an empty line (a command, a formula, a list of files) is kept line by line.
"""

import re
from typing import Any

DOCTEST = re.compile(r"^ *>>> .*\n(?:.*\S.*(?:\n|$))*", re.MULTILINE)
CODE = re.compile(r"`+[^`]*`+(?!`)")
SET_IN = re.compile(r"^::\n\n(?:    .*(?:\n|\Z)|\n(?=    ))+", re.MULTILINE)
EMPHASIS = re.compile(r"(?<![\w*])(?P<stars>\*\*?)[A-Za-z](?:[^*`\n]|\n(?!\n))*(?P=stars)(?![\w*])")
KEPT = re.compile(f"{CODE.pattern}|{EMPHASIS.pattern}")
MARKUP = re.compile(r"(?m)(?<!^)(?<!^    )[*|]|[*|](?! )|(?<=\w)_(?!\w)")


def escape(text: str) -> str:
    r"""`text` with everything escaped that reStructuredText would take for markup.

    >>> print(escape("The ratio |x| / y_ of two `a*b`s."))
    The ratio \|x\| / y\_ of two `a*b`\ s.
    >>> print(escape("Run *it*, T * x * y:\n\n    run --out x_ *.png\n\nArgs:\n    x_: a file"))
    Run *it*, T \* x \* y:
    <BLANKLINE>
    ::
    <BLANKLINE>
        run --out x_ *.png
    <BLANKLINE>
    Args:
        x\_: a file
    """

    text = re.sub(r"(?m)^(\S.*\n)\n(?=    )", r"\1\n::\n\n", text)  # indented after an empty line: literal
    text = re.sub(rf"({CODE.pattern})(?=\w)", r"\1\\ ", text)  # `word`s

    def outside(pattern: re.Pattern[str], change: Any, text: str) -> str:
        pieces, end = [], 0
        for kept in pattern.finditer(text):
            pieces += [change(text[end : kept.start()]), kept[0]]
            end = kept.end()
        return "".join([*pieces, change(text[end:])])

    def marked(prose: str) -> str:
        return outside(KEPT, lambda bare: MARKUP.sub(r"\\\g<0>", bare), prose)

    return outside(SET_IN, lambda rest: outside(DOCTEST, marked, rest), text)


def setup(app: Any) -> dict[str, bool]:
    """Escape before napoleon (priority 500) turns sections into fields, and undo what it does to properties."""
    escaped: list[str] = []

    def before(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        text = re.sub("(?m)^Returns:$", ":returns:", escape("\n".join(lines)))  # napoleon would look for a type there
        escaped[:] = lines[:] = text.split("\n")

    def after(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        if what in ("property", "attribute", "data"):  # napoleon reads "text: more" there as "type: text"
            lines[:] = escaped

    app.connect("autodoc-process-docstring", before, 400)
    app.connect("autodoc-process-docstring", after, 600)
    return {"parallel_read_safe": True}
