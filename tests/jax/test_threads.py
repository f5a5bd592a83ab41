"""How many threads share the work must not show in the result."""

import os

import pytest
from processes import output_of

# What a step makes of one leaf of many chunks and of many small ones, as a digest of the bits.
PROGRAM = """
import hashlib, os, sys
os.sched_setaffinity(0, {int(core) for core in sys.argv[1].split(",")})
import jax, jax.numpy as jnp, numpy as np
from nadam_xla.jax import nadamw

rng = np.random.default_rng(0)
shapes = [(1001, 1003), (3,), (), (517, 67)] + [(129,)] * 40
params, grads = ([jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes] for _ in range(2))
tx = nadamw(1e-2)
state = tx.init(params)
step = jax.jit(lambda params, state: tx.apply(grads, state, params), donate_argnums=(0, 1))
for _ in range(3):
    params, state = step(params, state)
digest = hashlib.sha256()
for leaf in jax.tree.leaves((params, state)):
    digest.update(np.asarray(leaf).tobytes())
print(digest.hexdigest())
"""


def digest(cores: list[int]) -> str:
    return output_of(PROGRAM, ",".join(map(str, cores))).strip()


def test_one_core_and_all_cores_give_the_same_bits() -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        pytest.skip("this machine lends one core: there is nothing to compare it with")
    assert digest(cores[:1]) == digest(cores)
