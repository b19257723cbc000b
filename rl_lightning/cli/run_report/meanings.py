"""What each metric means, in the words of docs/metrics.md: linked beside this file, so that it is in the wheel too."""

import re
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("metrics.md")
FOR_ALL = "Common to all learners"  # the section


class Meaning(NamedTuple):
    """A row of a table of docs/metrics.md: its text is Markdown with equations between dollar signs."""

    section: str
    learners: frozenset[str]  # empty: all of the section
    metric: str
    unit: str
    text: str


def meanings(text: str, learner: str) -> dict[str, Meaning]:
    """The rows that hold for a learner, by metric; its own win over those of its whole section.

    Args:
        text: of docs/metrics.md.
        learner: its class, e.g. ``PPO``.
    """
    rows = _rows(text)
    members: dict[str, set[str]] = {row.section: {row.section} for row in rows}
    for row in rows:
        members[row.section] |= row.learners
    of_section = [row for row in rows if not row.learners and {FOR_ALL, learner} & members[row.section]]
    own = [row for row in rows if learner in row.learners]
    return {row.metric: row for row in [*of_section, *own]}


def _rows(text: str) -> list[Meaning]:
    rows, section, columns, learners = list[Meaning](), "", list[str](), frozenset[str]()
    for line in text.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if not line.startswith("|"):
            columns = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not columns:
            columns, learners = cells, frozenset()
        elif not line.startswith("|---") and "Metric" in columns:
            named = dict(zip(columns, cells, strict=True))
            learners = frozenset(re.findall(r"`(\w+)`", named.get("Learner", ""))) or learners
            metric, meaning = named["Metric"].strip("`"), named.get("What it is") or named["Equation"]
            rows.append(Meaning(section, learners, metric, named.get("Unit", ""), meaning))
    return rows
