"""The Chinese edition says what the English one says, cell by cell, and a page that does not is noticed."""

import copy
import json
import re
from pathlib import Path

import pytest

from tools import account, translation
from tools.translation import CHINESE, digest, parts, problems, sync

TWINS = translation.twins()


@pytest.mark.parametrize(("english", "chinese"), TWINS, ids=[e.name for e, _ in TWINS])
def test_nothing_is_missing_or_stale(english, chinese):
    found = list(problems(english, chinese))
    assert not found, "\n".join([*found, "see python tools/translation.py"])


# ---- how Chinese is written ------------------------------------------------------------------------------------

DISPLAY = re.compile(r"\$\$.*?\$\$(?:[ \t]*\([^()\s]+\))?|^(`{3,}).*?^\1", re.DOTALL | re.MULTILINE)
WORD = re.compile(r"\$[^$\n]+\$|(`+)[^`]+\1|<https?:[^>]+>")  # formulas, code, addresses: written as Latin words
NOT_READ = re.compile(r"\]\([^)]*\)|<[^>\n]*>|https?://\S+|[*_]{1,2}|[\[\]]")
HAN, LATIN = "\u4e00-\u9fff", "A-Za-z0-9\u03b1-\u03c9"
FAULTS = {
    "half-width punctuation after a Chinese character": rf"[{HAN}][,;:?!](?![A-Za-z0-9/])|[{HAN}]\.(?=\s|$)",
    "no space between Chinese and a Latin word, number or formula": rf"[{HAN}](?=[{LATIN}])|[{LATIN}](?=[{HAN}])",
    "a space beside full-width punctuation": r" [，。；：？！、）」』”]|[，。；：？！、（「『“] (?=\S)",
    "you, formally": "您",
}


def faults(text: str) -> list[str]:
    """Where a text is not written as Chinese is."""
    text = NOT_READ.sub("", WORD.sub("X", DISPLAY.sub("", text)))
    return [
        f"{name}: {text[max(0, m.start() - 12) : m.end() + 12]!r}"
        for name, p in FAULTS.items()
        for m in re.finditer(p, text)
    ]


@pytest.mark.parametrize("chinese", [c for _, c in TWINS if c.exists()], ids=lambda path: path.name)
def test_it_is_written_as_chinese_is(chinese):
    found = [f"{part.name}: {fault}" for part in parts(chinese) for fault in faults(part.text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text", ["加噪声.", "噪声,信号", "用DDPM训练", "噪声 ，信号", "第3步", "方差为$\\beta$的噪声", "您可以"]
)
def test_faults_of_writing_are_found(text):
    assert faults(text)


@pytest.mark.parametrize(
    "text",
    ["噪声的方差为 $\\beta_t$，信号为 $x_0$。", "见 [Ho 等人](bibliography.md#ho)（2020）。", "运行 `make book`。"],
)
def test_good_writing_passes(text):
    assert faults(text) == []


# ---- what is noticed ------------------------------------------------------------------------------------------


def cell(name: str, text: str, kind: str = "markdown", **metadata: object) -> dict:
    more = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "id": name, "metadata": metadata, "source": text, **more}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A notebook and its translation, which is whole."""
    words = {"mystnb": {"image": {"alt": "A curve that rises."}, "figure": {"name": "fig-a", "caption": "It rises."}}}
    text = "## Noise\n\nIt adds noise, see [the step](#fwd-step).\n\n$$x = y. $$ (fwd-step)"
    cells = [cell("title", "# A title"), cell("noise", text), cell("plot", "plot()", "code", **words)]
    english, chinese = tmp_path / "a.ipynb", tmp_path / "zh" / "a.ipynb"
    english.write_text(json.dumps({"cells": cells}), "utf-8")
    sync(english, chinese)
    notebook = json.loads(chinese.read_text("utf-8"))
    notebook["cells"][0]["source"] = "# 标题"
    notebook["cells"][1]["source"] = "## 噪声\n\n它加入噪声，见[这一步](#fwd-step)。\n\n$$x = y. $$ (fwd-step)"
    shown = notebook["cells"][2]["metadata"]["mystnb"]
    shown["image"]["alt"], shown["figure"]["caption"] = "一条上升的曲线。", "它在上升。"
    chinese.write_text(json.dumps(notebook), "utf-8")
    assert translation.done(english, chinese, []) == ["title", "noise", "plot"]
    assert list(problems(english, chinese)) == []
    return english, chinese


def change(path: Path, old: str, new: str) -> None:
    text = json.dumps(json.loads(path.read_text("utf-8")), ensure_ascii=False)
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


@pytest.mark.parametrize(
    ("which", "old", "new", "said"),
    [
        (0, "It adds noise", "It adds much noise", "is stale"),
        (0, "It rises.", "It falls.", "is stale"),
        (0, "plot()", "draw()", "run sync"),
        (1, "x = y.", "x = z.", "a formula of one language only"),
        (1, "(fwd-step)", "(fwd-stop)", "a formula of one language only"),
        (1, "$$ (fwd-step)", "$$", "a formula of one language only"),
        (1, "(#fwd-step)", "(#fwd-jump)", "a link of one language only: #fwd-jump"),
        (1, "## 噪声", "噪声", "headings of the levels []"),
    ],
)
def test_a_change_of_one_language_is_noticed(pair, which, old, new, said):
    change(pair[which], old, new)
    assert any(said in problem for problem in problems(*pair))


def test_a_cell_that_moved_was_added_or_lost_is_noticed_and_sync_mends_it(pair):
    english, chinese = pair
    notebook = json.loads(english.read_text("utf-8"))
    cells = notebook["cells"]
    for changed in ([cells[1], cells[0], cells[2]], [*cells, cell("more", "More.")], cells[1:]):
        english.write_text(json.dumps({"cells": copy.deepcopy(changed)}), "utf-8")
        assert any("run sync" in problem for problem in problems(english, chinese))
        sync(english, chinese)
        left = list(problems(english, chinese))
        assert left == (["more: is not translated: 'More.'"] if changed[-1]["id"] == "more" else [])
    assert "它加入噪声" in chinese.read_text("utf-8")


def test_three_changed_sentences_cost_three_cells(pair):
    english, chinese = pair
    change(english, "adds noise", "adds more noise")
    change(english, "# A title", "# Another title")
    change(english, "It rises.", "It rises slowly.")
    sync(english, chinese)
    assert [problem.split(":")[0] for problem in problems(english, chinese)] == ["title", "noise", "plot"]
    assert translation.done(english, chinese, ["title"]) == ["title"]
    assert [problem.split(":")[0] for problem in problems(english, chinese)] == ["noise", "plot"]


def test_a_page_of_markdown_is_held_section_by_section(tmp_path):
    english, chinese = tmp_path / "a.md", tmp_path / "zh" / "a.md"
    english.write_text("# A\n\nOne.\n\n## B\n\nTwo, [there](#x).\n\n```bash\n# no heading\n```\n", "utf-8")
    sync(english, chinese)
    assert len(list(problems(english, chinese))) == 2
    text = chinese.read_text("utf-8").replace("# A", "# 甲").replace("One.", "一。")
    chinese.write_text(text.replace("## B", "## 乙").replace("Two, [there]", "二，[那里]"), "utf-8")
    assert translation.done(english, chinese, []) == ["section-0", "section-1"]
    assert list(problems(english, chinese)) == []
    assert f"# 甲\n\n<!-- translates {digest(parts(english)[0].text)} -->\n\n一。" in chinese.read_text("utf-8")

    english.write_text(english.read_text("utf-8").replace("## B", "## New\n\nNew.\n\n## B"), "utf-8")
    sync(english, chinese)
    assert [p.split(": ")[:2] for p in problems(english, chinese)] == [["section-1", "is not translated"]]
    assert CHINESE.search(parts(chinese)[2].text)


# ---- the account in the addresses -------------------------------------------------------------------------------


def test_an_account_in_the_addresses_makes_nothing_stale(tmp_path):
    """A fork runs `make account` and nothing else, and its tests must pass."""
    now, changed = account.current(translation.ROOT), []
    for pair in TWINS:
        texts = [path.read_text("utf-8") for path in pair]
        copies = [tmp_path / path.relative_to(translation.ROOT) for path in pair]
        renamed = [account.replace(text, now, "Ada-Lovelace9") for text in texts]
        for path, text in zip(copies, renamed, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        if renamed != texts:
            changed.append(pair[0].name)
            assert list(problems(*copies)) == list(problems(*pair))
    assert {"README.md", "index.md"} <= {*changed}


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("https://github.com/", "/diffnotes", True),
        ("https://colab.research.google.com/github/", "/diffnotes/blob/live/book/a.ipynb", True),
        ("https://mybinder.org/v2/gh/", "/diffnotes/live", True),
        ("https://", ".github.io/diffnotes", True),
        ("https://github.com/", "/other", False),
        ("https://", ".github.io/other", False),
        ("book/", "/diffnotes", False),
    ],
)
def test_only_in_addresses_of_the_repository_is_a_name_overlooked(before, after, same):
    first, second = (f"See <{before}{name}{after}>." for name in ("<account>", "Ada-Lovelace9"))
    assert (digest(first) == digest(second)) == same
    assert digest(first) != digest(f"See <{before}<account>{after}x>.")
