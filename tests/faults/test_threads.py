"""Threads that step different optimizers get what they would get one after the other.

The first import, the first trace and the first call of each are raced for, in fresh processes.
"""

from pathlib import Path

import pytest
from nursery import BY_TENSORFLOW, nursery

PROGRAM = Path(__file__).parent / "threads.py"
RACES = 2

# The module that is used, Keras's backend, and what is there before the race.
KINDS = {
    "jax": ("jax", "jax", ("jax", "optax")),
    "keras on tensorflow": ("keras", "tensorflow", ("keras",)),
    "keras on jax": ("keras", "jax", ("keras", "jax", "optax")),
}


@pytest.mark.parametrize(
    "kind", ["jax", "keras on jax", pytest.param("keras on tensorflow", marks=pytest.mark.slow)]
)
def test_threads_that_race_for_first_use_get_what_each_gets_alone(kind: str) -> None:
    of, backend, imports = KINDS[kind]
    with nursery(PROGRAM, *imports, environment=BY_TENSORFLOW | {"KERAS_BACKEND": backend}) as born:
        expected = born(of=of, in_threads=False).printed()
        assert len(set(expected)) == len(expected)
        for _ in range(RACES):
            assert born(of=of, in_threads=True).printed() == expected
