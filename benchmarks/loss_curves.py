"""What the trainings of several seeds gave: as JSON, as a table, as a picture."""

import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

# The runs that the documentation tells of.
KEPT = Path(__file__).parents[1] / "docs" / "performance" / "narrow_training.json"
KEPT_OF_8_BITS = KEPT.with_name("training_of_8_bits.json")


@dataclass(frozen=True)
class Curve:
    """How the seeds of one task learned with one storage.

    Attributes:
        task: what was learned.
        storage: how parameters and moments were stored.
        parameters: how many one network has.
        bytes_a_parameter: of itself, its moments and its master.
        steps: those taken at each point of the curve.
        training: of each seed, at each point, the mean loss of the batches since the last point.
        validation: of each seed, at each point.
    """

    task: str
    storage: str
    parameters: int
    bytes_a_parameter: float
    steps: list[int]
    training: list[list[float]]
    validation: list[list[float]]


def save(curves: Iterable[Any], path: Path) -> None:
    """Writes them, dataclasses, with the versions of what made them, a line for each."""
    versions = {"python": platform.python_version(), "jax": version("jax")}
    lines = ",\n  ".join(json.dumps(_rounded(asdict(curve))) for curve in curves)
    path.write_text(f'{{"versions": {json.dumps(versions)},\n "curves": [\n  {lines}\n]}}\n')


def load(path: Path) -> list[Curve]:
    return [Curve(**fields) for fields in json.loads(path.read_text())["curves"]]


def _rounded(value: Any) -> Any:
    """To six digits, so that the file can be read."""
    if isinstance(value, dict):
        return {name: _rounded(x) for name, x in value.items()}
    if isinstance(value, list):
        return [_rounded(x) for x in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def tables(curves: list[Curve]) -> str:
    """A Markdown table for each task: the losses at its end, those of float32 first."""
    parts = []
    for task in dict.fromkeys(curve.task for curve in curves):
        whole, *others = (curve for curve in curves if curve.task == task)
        lines = [
            f"**{task}: {whole.parameters:,} parameters, {whole.steps[-1]:,} steps**\n",
            "| stored | bytes | training loss | validation loss | the latter less float32's |",
            "|---|---|---|---|---|",
        ]
        for curve in (whole, *others):
            validation = last(curve.validation)
            more = "" if curve is whole else _cell(validation - last(whole.validation), "+")
            cells = [
                curve.storage,
                f"{curve.bytes_a_parameter:.3g}",
                _cell(last(curve.training)),
                _cell(validation),
                more,
            ]
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def last(losses: list[list[float]]) -> np.ndarray:
    """The last loss of each seed."""
    return np.array(losses)[:, -1]


def _cell(losses: np.ndarray, sign: str = "") -> str:
    """The mean of the seeds, and the lowest and the highest of them."""
    mean, low, high = (f"{x:{sign}z.4f}" for x in (losses.mean(), losses.min(), losses.max()))
    return f"{mean} ({low} to {high})"
