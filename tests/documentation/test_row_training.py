"""docs/performance/rows.md says what was measured, and its program still runs."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.loss_curves import last
from benchmarks.pages import DOCS
from benchmarks.row_curves import KEPT, RowCurve, load, table
from benchmarks.row_training import INTERVALS, WAYS, learn
from benchmarks.token_pairs import corpora

LONGER = "lazy, 8 times the steps"


@pytest.fixture(scope="module")
def measured() -> dict[str, RowCurve]:
    """What was kept, by its name."""
    return {curve.name: curve for curve in load(KEPT)}


def test_the_table_is_that_of_the_run(measured: dict[str, RowCurve]) -> None:
    assert table(list(measured.values())) in (DOCS / "performance" / "rows.md").read_text()
    assert list(measured) == list(WAYS)


def test_a_step_of_rows_learns_less_and_a_second_more(measured: dict[str, RowCurve]) -> None:
    dense = last(measured["dense"].validation)
    for name in set(WAYS) - {"dense", LONGER}:
        assert (last(measured[name].validation) > dense).all(), name
    assert (last(measured[LONGER].validation) < dense).all()
    assert (last(measured[LONGER].seconds) < last(measured["dense"].seconds)).all()


def test_both_ways_start_alike(tmp_path: Path) -> None:
    files = [tmp_path / "held_out.py", tmp_path / "learned.py"]
    for file in files:
        file.write_text("".join(f"def f{i}(x, y): return x * {i} + y\n" * 3 for i in range(40)))
    ways = {name: WAYS[name] for name in ("dense", "lazy, dense's rate")}
    dense, lazy = learn(*corpora(files), [0, 1], ways=ways, steps_in_call=1)
    assert dense.steps == lazy.steps == list(range(1, INTERVALS + 1))
    np.testing.assert_allclose(lazy.validation, dense.validation, rtol=0.02)
    assert dense.validation[0] != dense.validation[1], "each seed is a training of its own"
    assert np.diff(lazy.validation, axis=1).max() < 0
