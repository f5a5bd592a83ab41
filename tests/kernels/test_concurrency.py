"""Many calls at once on XLA's own threads finish, and finish right."""

import subprocess
import sys

import pytest

WATCHDOG_S = 300

MANY_CALLS = """
import jax, jax.numpy as jnp, numpy as np
from concurrent.futures import ThreadPoolExecutor
from nadam_xla.jax import nadam

CALLS, LEAVES, STEPS = 50, 8, 1000
tx = nadam(1e-3)
rng = np.random.default_rng(0)
one = [jnp.asarray(rng.normal(size=9_000).astype(np.float32)) for _ in range(LEAVES)]
grads = [jnp.asarray(rng.normal(size=9_000).astype(np.float32)) for _ in range(LEAVES)]

def step(_, carry):
    return [tx.apply(grads, state, params) for params, state in carry]

program = jax.jit(lambda carry, steps: jax.lax.fori_loop(0, steps, step, carry))
many = program([(one, tx.init(one))] * CALLS, STEPS)
(alone, _), = program([(one, tx.init(one))], STEPS)
assert program.lower([(one, tx.init(one))] * CALLS, STEPS).compile().as_text().count(
    'custom_call_target="nadam_xla_update_v2"') == CALLS
for params, _ in many:
    for x, y in zip(params, alone):
        np.testing.assert_array_equal(x, y)

# And several programs from several threads.
with ThreadPoolExecutor(8) as threads:
    runs = list(threads.map(lambda _: program([(one, tx.init(one))] * 4, 100), range(16)))
for run in runs:
    for params, _ in run:
        for x, y in zip(params, runs[0][0][0]):
            np.testing.assert_array_equal(x, y)
print("finished")
"""


@pytest.mark.slow
def test_fifty_calls_of_eight_leaves_a_thousand_steps() -> None:
    result = subprocess.run(
        [sys.executable, "-c", MANY_CALLS],
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "finished"
