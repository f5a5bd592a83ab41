"""What a section of the benchmark measured, and how it is shown."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.interleave import Turns

OURS = "nadam_xla"
MILLISECONDS = 1e3  # in a second


@dataclass(frozen=True)
class Record:
    """A contender beside ours in one case: the ratios of interleaved runs, contender over ours."""

    section: str
    case: str
    parameters: int  # how many a step updates
    contender: str
    value: float  # the contender's median; times on a shared machine are only a hint
    unit: str
    ratio: float  # median
    low: float  # first quartile
    high: float  # third quartile


def records_of(
    section: str,
    case: str,
    parameters: int,
    turns: Turns,
    *,
    scale: float,
    unit: str = "ms a step",
) -> list[Record]:
    """One record for each contender; ours is among them, with the ratio 1.

    Args:
        section: the heading under which they are shown.
        case: the row of that section's table.
        parameters: how many a step updates.
        turns: what was measured.
        scale: from a turn's figure to the unit.
        unit: of the values.
    """
    return [
        Record(
            section,
            case,
            parameters,
            contender,
            turns.median(contender) * scale,
            unit,
            *turns.ratio(contender, OURS),
        )
        for contender in turns.figures
    ]


def save(records: Iterable[Record], path: Path) -> None:
    path.write_text(json.dumps([asdict(record) for record in records], indent=1))


def load(path: Path) -> list[Record]:
    return [Record(**fields) for fields in json.loads(path.read_text())]


def table(records: list[Record]) -> str:
    """A Markdown table: a row for each case, a column for each contender."""
    contenders = list(dict.fromkeys(r.contender for r in records if r.contender != OURS))
    lines = [
        f"| case | ours, {records[0].unit} | "
        + " | ".join(f"{c} / ours" for c in contenders)
        + " |",
        "|---|---|" + "---|" * len(contenders),
    ]
    for case in dict.fromkeys(r.case for r in records):
        row = {r.contender: r for r in records if r.case == case}
        cells = [f"{row[OURS].value:.4g}"]
        for contender in contenders:
            r = row.get(contender)
            cells.append(f"{r.ratio:.2f} ({r.low:.2f} to {r.high:.2f})" if r else "")
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
