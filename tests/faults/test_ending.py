"""A program that ends while steps are running ends as it does with stock's optimizer."""

import signal
from pathlib import Path

import pytest
from nursery import BY_TENSORFLOW, nursery

PROGRAM = Path(__file__).parent / "ending.py"
IMPORTS = {"jax": ("jax", "optax"), "tensorflow": ("keras",)}

# What Python makes of a program that ends so.
STATUS = {"end_of_program": 0, "sys_exit": 3, "exception": 1, "os_exit": 4}

# Where a daemon's step returns to a Python that is ending, JAX aborts: a matter of the moment.
OF_A_DAEMON = {"jax": {0, -signal.SIGABRT}, "tensorflow": {0}}


@pytest.mark.parametrize("framework", ["jax", pytest.param("tensorflow", marks=pytest.mark.slow)])
def test_a_program_ends_as_with_stock(framework: str) -> None:
    environment = BY_TENSORFLOW if framework == "tensorflow" else {}
    ways = STATUS if framework == "jax" else {"exception": 1}
    with nursery(PROGRAM, *IMPORTS[framework], environment=environment) as born:

        def status(whose: str, way: str) -> int | None:
            life = born(framework=framework, whose=whose, way=way)
            assert list(life) == ["steps are running"], life.said()
            return life.status

        for way, expected in ways.items():
            assert status("ours", way) == expected
        for whose in ("ours", "stock"):
            assert status(whose, "daemon_thread") in OF_A_DAEMON[framework]
