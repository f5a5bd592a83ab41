"""Pictures of what was measured: SVG that reads in light and in dark, wide and narrow."""

import re
from collections.abc import Callable, Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from matplotlib.transforms import blended_transform_factory

from benchmarks import sizes
from benchmarks.loss_curves import Curve
from benchmarks.records import OURS, Record
from benchmarks.row_curves import RowCurve

mpl.use("Agg")

# What matplotlib is told in the place of a colour, and what a reader sees in light and in dark.
SCHEMES = {
    "#010101": ("#1f2328", "#d6dae0"),
    "#020202": ("#0b5cad", "#6cb6ff"),
    "#030303": ("#b45309", "#f0a35e"),
    "#040404": ("#0f7b52", "#5fd3a2"),
    "#050505": ("#8e3a9d", "#dd96ea"),
    "#060606": ("#6b7280", "#9aa3af"),
    "#070707": ("#a11d33", "#ff8a9a"),
    "#080808": ("#5b4a00", "#d8c04a"),
    "#090909": ("#2f6f7a", "#7fd0dc"),
    "#0a0a0a": ("#7a4a2f", "#dcae8f"),
}
INK, *COLOURS = SCHEMES
DASHES = ("-", "-", (0, (6, 2)), (2, (6, 4)), (4, (2, 2)), (6, (1, 3)))  # of lines on one another

WIDTH = 5.4  # inches, of which a telephone shows two thirds: the letters can still be read
LINE = 0.19  # inches
CLIPPED = ", clipped by global norm"
LOSSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5)  # of an axis
TICKS = (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 1, 1.4, 2, 3, 5, 10, 30, 100, 300, 1000, 3000)

mpl.rcParams |= {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "legend.frameon": False,
    "lines.color": INK,
    "svg.fonttype": "none",  # letters stay letters
    "svg.hashsalt": "nadam-xla",  # the same picture is the same file
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw(records: list[Record], output: Path) -> None:
    """One picture of time against size, and one of ratios for each section of several cases."""
    by_section: dict[str, list[Record]] = {}
    for record in records:
        by_section.setdefault(record.section, []).append(record)
    for section, of_section in by_section.items():
        name = re.sub("[^a-z0-9]+", "-", section.lower())
        is_sizes = section == sizes.SECTION
        figure = against_size(of_section) if is_sizes else ratios(by_contender(of_section))
        save(figure, output / f"{name}.svg")


def by_contender(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each contender but ours."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.contender != OURS:
            groups.setdefault(record.contender, []).append(record)
    return groups


def against_size(records: list[Record], *, xlabel: str = "parameters") -> Figure:
    """A line for each contender, both axes logarithmic, the memory limit dashed."""
    figure = Figure(figsize=(WIDTH, 4), layout="constrained")
    axes = figure.subplots()
    names = dict.fromkeys(r.contender for r in records)
    for contender, colour in zip(names, COLOURS, strict=False):
        line = [r for r in records if r.contender == contender]
        is_limit = contender == sizes.LIMIT
        axes.plot(
            [r.parameters for r in line],
            [r.value for r in line],
            label="ours" if contender == OURS else contender,
            color=INK if is_limit else colour,
            linestyle="--" if is_limit else "-",
            linewidth=3 if contender == OURS else 1.5,
            marker="" if is_limit else "o",
        )
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=records[0].unit)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def ratios(series: Mapping[str, list[Record]], *, what: str = "theirs / ours") -> Figure:
    """For each case a line a series: its figure over ours, with the quartiles.

    Args:
        series: records by the name of their line.
        what: the ratio.
    """
    figure = _lines(
        series, lambda r: (r.ratio, r.low, r.high), "{:.2f}", f"{what}: right of 1, ours needs less"
    )
    figure.axes[0].axvline(1, color=INK, linewidth=1)
    return figure


def amounts(series: Mapping[str, list[Record]], *, what: str) -> Figure:
    """For each case a line a series: its figure.

    Args:
        series: records by the name of their line.
        what: the figure, and its unit.
    """
    return _lines(series, lambda r: (r.value, r.value, r.value), "{:.4g}", what)


def losses(curves: list[Curve]) -> Figure:
    """The tasks side by side: the training loss, and below it how the validation loss differs.

    It is the difference from the mean of the first storage's seeds, in the second half of the
    steps. A line is the mean of the seeds, and its band reaches from the lowest to the highest. The
    first storage lies under all others, and is drawn the broadest.
    """
    tasks = list(dict.fromkeys(curve.task for curve in curves))
    figure = Figure(figsize=(WIDTH * len(tasks) / 1.5, 5.6), layout="constrained")
    panels = figure.subplots(2, len(tasks), squeeze=False)
    for (above, below), task in zip(panels.T, tasks, strict=True):
        of_task = [curve for curve in curves if curve.task == task]
        normal = np.mean(of_task[0].validation, axis=0)
        half = len(normal) // 2
        for curve, colour, dashes in zip(of_task, COLOURS, DASHES, strict=False):
            look = {"color": colour, "linestyle": dashes, "label": curve.storage}
            look |= {"linewidth": 4, "alpha": 0.4} if curve is of_task[0] else {"linewidth": 1.5}
            _draw_band(above, curve.steps, np.array(curve.training), look)
            difference = np.array(curve.validation) - normal
            _draw_band(below, curve.steps[half:], difference[:, half:], look)
        above.set(title=task, yscale="log")
        low, high = above.get_ylim()
        above.set_yticks([tick for tick in LOSSES if low <= tick <= high])
        above.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        above.minorticks_off()
        below.set(xlabel="step")
    panels[0, 0].set(ylabel="training loss")
    panels[1, 0].set(ylabel="validation loss less float32's")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def losses_of_rows(curves: list[RowCurve]) -> Figure:
    """The validation loss against steps, and beside it against seconds, bands as in ``losses``."""
    figure = Figure(figsize=(1.7 * WIDTH, 4), layout="constrained")
    of_steps, of_seconds = figure.subplots(1, 2, sharey=True)
    for curve, colour in zip(curves, COLOURS, strict=False):
        look = {"color": colour, "label": curve.name, "linewidth": 1.5}
        losses = np.array(curve.validation)
        _draw_band(of_steps, curve.steps, losses, look)
        _draw_band(of_seconds, np.mean(curve.seconds, axis=0).tolist(), losses, look)
    for axes, xlabel in ((of_steps, "step"), (of_seconds, "seconds that the steps took")):
        axes.set(xscale="log", xlabel=xlabel)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    of_steps.set(ylabel="validation loss")
    figure.legend(*of_steps.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _draw_band(axes: Axes, places: list[float], of_seeds: np.ndarray, look: dict[str, Any]) -> None:
    low, high = of_seeds.min(0), of_seeds.max(0)
    axes.fill_between(places, low, high, color=look["color"], alpha=0.1, linewidth=0)
    axes.plot(places, of_seeds.mean(0), **look)


def _lines(
    series: Mapping[str, list[Record]],
    figures: Callable[[Record], tuple[float, float, float]],
    form: str,
    xlabel: str,
) -> Figure:
    """For each case a line a series, a dot and its quartiles on it, and the figure beside it.

    A case that is clipped by a global norm is a ring on the line of the case that is not.
    """
    cases = dict.fromkeys(plain(r) for records in series.values() for r in records)
    lines = [
        (case, name, [r for r in records if plain(r) == case])
        for case in cases
        for name, records in series.items()
        if any(plain(r) == case for r in records)
    ]
    height = LINE * (len(lines) + 1.4 * len(cases) + 3)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    left_of_all = blended_transform_factory(figure.transFigure, axes.transData)
    right_of_axes = axes.get_yaxis_transform()
    colours = dict(zip(series, COLOURS, strict=False))
    place, places, before = 0.0, [], None
    for case, name, records in lines:
        if case != before:
            place += 1.4
            heading = axes.text(0.01, place, case, transform=left_of_all, weight="bold")
            heading.set(va="center", in_layout=False)
            before = case
        place += 1
        places.append(place)
        for record in records:
            _draw(axes, place, figures(record), colours[name], is_ring=CLIPPED in record.case)
        shown = ", ".join(form.format(figures(r)[0]) for r in records)
        axes.text(1.02, place, shown, transform=right_of_axes, va="center", color=colours[name])
    axes.set(xscale="log", xlabel=xlabel, ylim=(place + 1, 0.5))
    axes.set_yticks(places, [name for _, name, _ in lines])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in TICKS if low <= tick <= high])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    return figure


def _draw(
    axes: Axes, place: float, figures: tuple[float, float, float], colour: str, *, is_ring: bool
) -> None:
    middle, low, high = figures
    axes.errorbar(
        middle,
        place,
        xerr=[[max(0.0, middle - low)], [max(0.0, high - middle)]],
        color=colour,
        marker="o",
        markerfacecolor="none" if is_ring else colour,
        linewidth=1,
    )


def plain(record: Record) -> str:
    """The case, whether it is clipped or not."""
    return record.case.removesuffix(CLIPPED)


def save(figure: Figure, path: Path) -> None:
    """Writes the picture, which takes its colours from the reader's scheme."""
    drawn = StringIO()
    metadata = {"Creator": None, "Date": None, "Format": None, "Type": None}
    figure.savefig(drawn, format="svg", transparent=True, metadata=metadata)
    text = drawn.getvalue()
    for colour in SCHEMES:
        text = text.replace(colour, f"var(--c{colour[1:3]})")
    light, dark = (
        "".join(f"--c{colour[1:3]}:{shown[scheme]};" for colour, shown in SCHEMES.items())
        for scheme in range(2)
    )
    style = f":root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}"
    path.write_text(text.replace("<defs>", f"<style>{style}</style>\n <defs>", 1))
