"""Sphinx extension: what the checks print becomes a line that one can read, with the equation's number as a link.

A saved output `✓ (fwd-step) holds to 1e-10 · exact` is shown as "✓ (1.5) holds to 1e-10 · exact": the number leads to
the equation, and at the equation a mark leads back to its first check (book.js). Lines that repeat are told once.
"""

import itertools
import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

# what a verdict says, in Chinese; what a slip is stays as it was printed
CHINESE = (
    (r"catches the slip: (.*)", r"抓住了笔误：\1"),
    (r"holds to (.*)", r"成立，精确到 \1"),
    (r"holds within (.*) standard errors of (.*)", r"成立，误差不超过 \1 个标准误（标准误为 \2）"),
    ("holds exactly", "严格成立"),
    ("holds", "成立"),
    ("symbolic", "符号推演"),
    ("exact", "精确计算"),
    ("Monte Carlo", "蒙特卡洛"),
)
VERDICT = re.compile(r"✓ \((?P<label>[a-z0-9-]+)\) (?P<said>.*) · (?P<kind>symbolic|exact|Monte Carlo)")


class Verdicts(SphinxTransform):
    """Take the verdicts out of the blocks of text that cells have printed."""

    default_priority = 400

    def apply(self, **_: Any) -> None:
        """In one document."""
        seen: set[str] = set()
        for block in list(self.document.findall(nodes.literal_block)):
            lines = block.astext().splitlines()
            if "output" not in block["classes"] or not any(map(VERDICT.fullmatch, lines)):
                continue
            parts: list[nodes.Node] = []
            for is_verdict, group in itertools.groupby(lines, lambda line: bool(VERDICT.fullmatch(line))):
                if is_verdict:
                    parts += [self.told(line, len(list(same)), seen) for line, same in itertools.groupby(group)]
                else:
                    text = "\n".join(group)
                    parts.append(nodes.literal_block(text, text, **block.attributes))
            block.parent.replace(block, parts)

    def told(self, line: str, times: int, seen: set[str]) -> nodes.paragraph:
        """One verdict as a paragraph; the first about an equation is where its mark leads."""
        found = VERDICT.fullmatch(line)
        assert found is not None
        label, said, kind = found.groups()
        number = addnodes.pending_xref(
            "", nodes.inline("", label), refdomain="math", reftype="eq", reftarget=label,
            refdoc=self.env.docname, refexplicit=False, refwarn=True,
        )  # fmt: skip
        slip = said.startswith("catches the slip: ")
        if self.config.language == "zh_CN":
            said, kind = in_chinese(said), in_chinese(kind)
        paragraph = nodes.paragraph("", "", classes=["verdict", "slip"] if slip else ["verdict"])
        paragraph += [nodes.inline("", "✓ ", classes=["tick"]), number, nodes.Text(f" {said} ")]
        count = f" ×{times}" if times > 1 else ""
        paragraph += nodes.inline("", f"{kind}{count}", classes=["kind"])
        if label not in seen and not slip:
            seen.add(label)
            paragraph["ids"].append(f"check-{label}")
        return paragraph


def in_chinese(said: str) -> str:
    """What a verdict says, or its kind, in Chinese.

    >>> in_chinese("holds within 4 standard errors of 0.3%"), in_chinese("exact")
    ('成立，误差不超过 4 个标准误（标准误为 0.3%）', '精确计算')
    """
    for english, chinese in CHINESE:
        if re.fullmatch(english, said):
            return re.sub(english, chinese, said)
    return said


def setup(app: Sphinx) -> dict[str, Any]:
    """For Sphinx."""
    app.add_transform(Verdicts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
