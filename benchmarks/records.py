"""What a section of the benchmark measured, and how it is shown."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.interleave import Timings

OURS = "nadam_xla"


@dataclass(frozen=True)
class Record:
    """A contender beside ours in one case: the ratios of interleaved runs, contender over ours."""

    section: str
    case: str
    contender: str
    milliseconds: float  # a step of the contender, median; on a shared machine only a hint
    ratio: float  # median
    low: float  # first quartile
    high: float  # third quartile


def records_of(section: str, case: str, timings: Timings, steps: int) -> list[Record]:
    """One record for each contender; ours is among them, with the ratio 1."""
    return [
        Record(
            section,
            case,
            contender,
            timings.median(contender) / steps * 1e3,
            *timings.ratio(contender, OURS),
        )
        for contender in timings.seconds
    ]


def save(records: Iterable[Record], path: Path) -> None:
    path.write_text(json.dumps([asdict(record) for record in records], indent=1))


def load(path: Path) -> list[Record]:
    return [Record(**fields) for fields in json.loads(path.read_text())]


def table(records: list[Record]) -> str:
    """A Markdown table: a row for each case, a column for each contender."""
    contenders = list(dict.fromkeys(r.contender for r in records if r.contender != OURS))
    lines = [
        "| case | ours, ms a step | " + " | ".join(f"{c} / ours" for c in contenders) + " |",
        "|---|---|" + "---|" * len(contenders),
    ]
    for case in dict.fromkeys(r.case for r in records):
        row = {r.contender: r for r in records if r.case == case}
        cells = [f"{row[OURS].milliseconds:.3f}"]
        for contender in contenders:
            r = row.get(contender)
            cells.append(f"{r.ratio:.2f} ({r.low:.2f} to {r.high:.2f})" if r else "")
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
