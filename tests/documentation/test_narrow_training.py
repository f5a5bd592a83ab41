"""docs/performance/narrow_training.md says what was measured, and its program still runs."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning_tasks import TASKS
from benchmarks.loss_curves import KEPT, KEPT_OF_8_BITS, Curve, last, load, tables
from benchmarks.narrow_training import OF_8_BITS, SEEDS, STORAGES, learn

BYTES = {
    "float32": 12,
    "bfloat16, nearest": 6,
    "bfloat16, stochastic": 6,
    'master="float32"': 10,
    'master="remainder"': 8,
    'master="correction"': 7,
}
NEAREST = "bfloat16, nearest"


def measured(task: str) -> dict[str, Curve]:
    """What was kept, by storage."""
    return {curve.storage: curve for curve in load(KEPT) if curve.task == task}


@pytest.mark.parametrize("kept", [KEPT, KEPT_OF_8_BITS])
def test_the_tables_are_those_of_the_run(kept: Path) -> None:
    assert tables(load(kept)) in KEPT.with_suffix(".md").read_text()


@pytest.mark.parametrize("task", TASKS)
def test_all_but_the_nearest_end_within_the_spread_of_float32(task: str) -> None:
    curves = measured(task)
    assert list(curves) == list(STORAGES)
    whole = last(curves["float32"].training)
    assert len(whole) == SEEDS
    for storage in set(STORAGES) - {NEAREST}:
        assert whole.min() < last(curves[storage].training).mean() < whole.max(), storage
    assert last(curves[NEAREST].training).min() > whole.max()


@pytest.mark.parametrize("task", TASKS)
def test_moments_of_8_bits_end_within_the_spread_of_float32(task: str) -> None:
    whole, *others = (curve for curve in load(KEPT_OF_8_BITS) if curve.task == task)
    ends = last(whole.training)
    assert len(ends) == SEEDS
    assert [curve.storage for curve in (whole, *others)] == list(OF_8_BITS)
    for curve in others:
        assert ends.min() < last(curve.training).mean() < ends.max(), curve.storage


@pytest.mark.slow
@pytest.mark.parametrize("storage", [*OF_8_BITS][1:])
def test_moments_of_8_bits_start_as_float32(storage: str) -> None:
    made = TASKS["characters"]()
    whole, curve = (learn(made, name, steps=2, seeds=1) for name in ("float32", storage))
    np.testing.assert_allclose(curve.training, whole.training, rtol=0.02)
    np.testing.assert_allclose(curve.validation, whole.validation, rtol=0.05)
    assert curve.bytes_a_parameter < 8


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_each_storage_starts_alike_and_has_its_size(task: str) -> None:
    made = TASKS[task]()
    curves = {storage: learn(made, storage, steps=2, seeds=2) for storage in STORAGES}
    assert {storage: curve.bytes_a_parameter for storage, curve in curves.items()} == BYTES
    whole = curves["float32"]
    for curve in curves.values():
        assert curve.steps == [2]
        np.testing.assert_allclose(curve.training, whole.training, rtol=0.02)
        np.testing.assert_allclose(curve.validation, whole.validation, rtol=0.05)
    assert whole.training[0] != whole.training[1], "each seed is a training of its own"
