"""Processes that are forked beside steps, by a loader of examples for instance."""

from pathlib import Path

import pytest
from nursery import nursery

PROGRAM = Path(__file__).parent / "forks.py"


def test_workers_that_are_forked_beside_steps_leave_them_their_bits() -> None:
    pytest.importorskip("torch", reason="its DataLoader forks the workers")
    with nursery(PROGRAM, "jax", "optax", "torch") as born:
        here, forked = born(what="loaders").printed()
    assert forked == here


def test_an_update_in_a_forked_child_waits_for_no_thread_that_is_not_there() -> None:
    """JAX and TensorFlow promise a forked child nothing; what is ours does not hang there."""
    with nursery(PROGRAM, "jax", "optax") as born:
        assert born(what="child").printed() == ["0"]
