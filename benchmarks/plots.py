"""The report's pictures."""

import re
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks import sizes
from benchmarks.records import OURS, Record

mpl.use("Agg")


def draw(records: list[Record], output: Path) -> None:
    """One picture of time against size, and one of bars for each section of several cases."""
    by_section: dict[str, list[Record]] = {}
    for record in records:
        by_section.setdefault(record.section, []).append(record)
    for section, of_section in by_section.items():
        name = re.sub("[^a-z0-9]+", "-", section.lower())
        figure = time_against_size(of_section) if section == sizes.SECTION else bars(of_section)
        figure.savefig(output / f"{name}.png", dpi=120)


def time_against_size(records: list[Record]) -> Figure:
    """A line for each contender, both axes logarithmic, the memory limit dashed."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    for contender in dict.fromkeys(r.contender for r in records):
        line = [r for r in records if r.contender == contender]
        axes.plot(
            [r.parameters for r in line],
            [r.value for r in line],
            label=contender,
            marker=None if contender == sizes.LIMIT else "o",
            **_style(contender),
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="parameters",
        ylabel=records[0].unit,
        title=records[0].section,
    )
    axes.grid(which="major", alpha=0.3)
    axes.legend()
    return figure


def bars(records: list[Record]) -> Figure:
    """For each case a bar a contender: its figure over ours, with the quartiles."""
    cases = list(dict.fromkeys(r.case for r in records))
    contenders = list(dict.fromkeys(r.contender for r in records if r.contender != OURS))
    figure = Figure(figsize=(4 + 1.2 * len(cases), 4.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(contenders)
    for i, contender in enumerate(contenders):
        of_contender = [r for r in records if r.contender == contender]
        axes.bar(
            [cases.index(r.case) + (i - (len(contenders) - 1) / 2) * width for r in of_contender],
            [r.ratio for r in of_contender],
            width,
            yerr=(
                [max(0.0, r.ratio - r.low) for r in of_contender],
                [max(0.0, r.high - r.ratio) for r in of_contender],
            ),
            label=f"{contender} / ours",
        )
    axes.axhline(1, color="black", linewidth=1)
    axes.set_xticks(range(len(cases)), cases, rotation=20, ha="right")
    axes.set(title=records[0].section, ylabel="above 1, ours needs less")
    axes.legend()
    return figure


def _style(contender: str) -> dict[str, object]:
    if contender == sizes.LIMIT:
        return {"color": "black", "linestyle": "--"}
    return {"linewidth": 3 if contender == OURS else 1}
