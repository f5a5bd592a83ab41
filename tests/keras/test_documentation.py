"""The tables of docs/keras/against_stock.md, and the lines of the README for Keras."""

import inspect
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
from snippets import readme_snippet

from nadam_xla.keras import Nadam

PAGE = Path(__file__).parents[2] / "docs" / "keras" / "against_stock.md"
VERDICTS = {"same", "better", "differs"}
OURS_ALONE = "ours alone"


def table(heading: str) -> dict[str, str]:
    """The verdict on each name of the table under this heading, in their order."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("|")]
    verdicts: dict[str, str] = {}
    for _, names, verdict, *_ in rows[2:]:
        for name in re.findall(r"`(\w+)`", names):
            assert name not in verdicts, f"{name} has two rows"
            verdicts[name] = verdict.strip()
    return verdicts


def test_every_argument_has_its_row_in_stocks_order() -> None:
    verdicts = table("Arguments")
    ours, stocks = (
        list(inspect.signature(kind.__init__).parameters)[1:]
        for kind in (Nadam, keras.optimizers.Nadam)
    )
    assert list(verdicts) == ours
    of_stock = {name: verdict for name, verdict in verdicts.items() if verdict != OURS_ALONE}
    assert list(of_stock) == stocks
    assert set(of_stock.values()) <= VERDICTS


def test_every_public_method_and_attribute_has_its_row() -> None:
    verdicts = table("Methods and attributes")
    public = {name for name in dir(keras.optimizers.Nadam) if not name.startswith("_")}
    of_stock = {name: verdict for name, verdict in verdicts.items() if verdict != OURS_ALONE}
    assert set(of_stock) == public
    assert set(of_stock.values()) <= VERDICTS
    assert all(hasattr(Nadam, name) for name in verdicts)


def test_keras_in_ten_lines() -> None:
    rng = np.random.default_rng(0)
    names: dict[str, Any] = {"x": rng.normal(size=(64, 8)), "y": rng.integers(0, 10, 64)}
    exec(readme_snippet("Keras, in ten lines"), names)
    assert type(names["model"].optimizer) is Nadam
    assert int(names["model"].optimizer.iterations) == 2
