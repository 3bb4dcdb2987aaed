"""How long a page is: what its reader has to read, and the line at its top that says so."""

import re
from typing import Any

from diffnotes.book import ledger

# words of prose that a core page may have at most, and minutes that it may take
WORDS = {
    "01-forward": 3000,
    "02-reverse": 4000,
    "03-objective": 4000,
    "04-ddim": 3500,
    "05-images": 3500,
    "06-generalisation": 4000,
}
MINUTES = 25
# adults read about 238 words of plain English a minute (Brysbaert 2019); a displayed formula gets a quarter of a minute
WORDS_A_MINUTE = 240
FORMULAS_A_MINUTE = 4

SOLUTION = re.compile(r"<details>.*?</details>", re.DOTALL)
NO_PROSE = re.compile(r"\$[^$]+\$|^\|.*$|^\*About \d+ minutes.*$|\]\([^)]*\)|<[^>\n]*>", re.MULTILINE)


def prose(notebook: dict[str, Any]) -> str:
    """What is read from top to bottom: Markdown, without the folded solutions."""
    return "\n\n".join(SOLUTION.sub(" ", ledger.prose(cell)) for cell in notebook["cells"])


def words(notebook: dict[str, Any]) -> int:
    """Words of prose: outside formulas, tables, code and folded solutions."""
    return len(re.findall(r"[A-Za-z][\w'’-]*", NO_PROSE.sub(" ", ledger.DISPLAY.sub(" ", prose(notebook)))))


def minutes(notebook: dict[str, Any]) -> int:
    """What the page takes, to the nearest 5 minutes."""
    formulas = len(ledger.DISPLAY.findall(prose(notebook)))
    return max(5, 5 * round((words(notebook) / WORDS_A_MINUTE + formulas / FORMULAS_A_MINUTE) / 5))


def orientation(notebook: dict[str, Any]) -> str:
    """How the line at the top of the page must begin: its time, its equations with a check, its exercises."""
    labels = [label for cell in notebook["cells"] for label, _ in ledger.labelled_equations(cell)]
    equations = sum(not label.startswith("def-") for label in labels)
    exercises = len(re.findall(r"^### Exercise", prose(notebook), re.MULTILINE))
    parts = [f"About {minutes(notebook)} minutes", counted(equations, "checked equation")]
    return " · ".join([*parts, counted(exercises, "exercise")] if exercises else parts)


def counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"
