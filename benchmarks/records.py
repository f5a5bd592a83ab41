"""What a section of the benchmark measured, and how it is shown."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from nadam_xla.diagnosis.interleave import Turns

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
    """A Markdown table: a row for each case, a column for each contender.

    What is the same in each turn, as the memory of a compiled program, stands as it is; all else as
    the ratio to ours, with its quartiles.
    """
    contenders = list(dict.fromkeys(r.contender for r in records if r.contender != OURS))
    unit = records[0].unit
    is_exact = all(r.low == r.high for r in records)
    heads = [f"{c}, {unit}" if is_exact else f"{c} / ours" for c in contenders]
    lines = [f"| case | ours, {unit} | " + " | ".join(heads) + " |"]
    lines.append("|---|---|" + "---|" * len(contenders))
    for case in dict.fromkeys(r.case for r in records):
        row = {r.contender: r for r in records if r.case == case}
        cells = [f"{row[OURS].value:.4g}"]
        for contender in contenders:
            r = row.get(contender)
            shown = "" if r is None else _with_quartiles(r)
            cells.append(f"{r.value:.4g}" if r is not None and is_exact else shown)
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _with_quartiles(record: Record) -> str:
    """The ratio, to two places; a small one to two digits, for it is read again."""
    places = ".2f" if record.ratio >= 0.1 else ".2g"
    middle, low, high = (format(x, places) for x in (record.ratio, record.low, record.high))
    return f"{middle} ({low} to {high})"


def read_tables(markdown: str) -> list[Record]:
    """The records of the tables in a text, each under a bold line with the name of its section.

    A table does not say how many parameters there are, nor the time of a contender that it compares
    with ours: that is taken from the ratio.
    """
    return [
        record
        for section, rows in re.findall(r"^\*\*(.+)\*\*\n\n((?:\|.*\n)+)", markdown, re.MULTILINE)
        for record in _read_rows(section, [_cells(row) for row in rows.splitlines()])
    ]


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def _read_rows(section: str, rows: list[list[str]]) -> Iterator[Record]:
    (_, ours, *heads), _, *cases = rows
    unit = ours.removeprefix("ours, ")
    for case, value, *cells in cases:
        own = float(value)
        yield Record(section, case, 0, OURS, own, unit, 1.0, 1.0, 1.0)
        for head, cell in zip(heads, cells, strict=True):
            figures = [float(figure) for figure in re.findall(r"[\d.]+", cell)]
            if head.endswith(" / ours") and figures:
                contender = head.removesuffix(" / ours")
                yield Record(section, case, 0, contender, own * figures[0], unit, *figures)
            elif figures:
                ratios = [figures[0] / own] * 3
                contender = head.removesuffix(f", {unit}")
                yield Record(section, case, 0, contender, figures[0], unit, *ratios)
