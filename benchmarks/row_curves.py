"""What trainings of embeddings gave, whose steps update all rows or some: as a table."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.loss_curves import last

# The run that the documentation tells of.
KEPT = Path(__file__).parents[1] / "docs" / "performance" / "row_training.json"


@dataclass(frozen=True)
class RowCurve:
    """How the seeds learned in one way.

    Attributes:
        name: of the way, as tables and pictures call it.
        learning_rate: the largest.
        rows: of both tables, that a batch touches, in the mean.
        steps: those taken at each point of the curve.
        seconds: of each seed, at each point, that the steps have taken.
        validation: of each seed, at each point, the loss of pairs that are not trained on.
    """

    name: str
    learning_rate: float
    rows: float
    steps: list[int]
    seconds: list[list[float]]
    validation: list[list[float]]


def load(path: Path) -> list[RowCurve]:
    return [RowCurve(**fields) for fields in json.loads(path.read_text())["curves"]]


def table(curves: list[RowCurve]) -> str:
    """A Markdown table: how each way ended, and the first before all others."""
    heads = ["update", "rate", "steps", "ms a step", "seconds", "validation loss"]
    lines = [
        f"| {' | '.join(heads)} | less {curves[0].name}'s |",
        "|---|---|---|---|---|---|---|",
    ]
    first = last(curves[0].validation)
    for curve in curves:
        losses, seconds = last(curve.validation), last(curve.seconds)
        steps = curve.steps[-1]
        cells = [
            curve.name,
            f"{curve.learning_rate:g}",
            f"{steps:,}",
            _cell(seconds * 1e3 / steps, ".2f"),
            _cell(seconds, ".1f"),
            _cell(losses, ".4f"),
            "" if curve is curves[0] else _cell(losses - first, "+z.4f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figures: np.ndarray, form: str) -> str:
    """The mean of the seeds, and the lowest and the highest of them."""
    mean, low, high = (format(x, form) for x in (figures.mean(), figures.min(), figures.max()))
    return f"{mean} ({low} to {high})"
