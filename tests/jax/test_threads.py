"""How many threads share the work must not show in the result."""

from functools import cache

import pytest
from processes import output_of

# What steps make of one leaf of many chunks and of many small ones, as a digest of the bits: in
# float32, and with each array stored narrow and rounded by random numbers.
PROGRAM = """
import hashlib, os
import jax, jax.numpy as jnp, numpy as np
from nadam_xla.jax import nadamw

rng = np.random.default_rng(0)
shapes = [(1001, 1003), (3,), (), (517, 67)] + [(129,)] * 40
arrays = lambda dtype: [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]
narrow = {"mu_dtype": jnp.bfloat16, "nu_dtype": jnp.float16, "rounding": "stochastic"}
for dtype, storage in (
    (jnp.float32, {}),
    (jnp.bfloat16, narrow),
    (jnp.float16, narrow | {"master": "float32"}),
    (jnp.bfloat16, narrow | {"master": "correction"}),
):
    params, grads = arrays(dtype), arrays(dtype)
    tx = nadamw(1e-2, **storage)
    state = tx.init(params)
    step = jax.jit(lambda params, state: tx.apply(grads, state, params), donate_argnums=(0, 1))
    for _ in range(3):
        params, state = step(params, state)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((params, state)):
        digest.update(np.asarray(leaf).tobytes())
    print(digest.hexdigest())
names = [open(f"/proc/self/task/{thread}/comm").read() for thread in os.listdir("/proc/self/task")]
print(sum("XLAEigen" in name for name in names))
"""


@cache
def digests(threads: int) -> list[str]:
    *found, threads_there = output_of(PROGRAM, environment={"NPROC": str(threads)}).split()
    assert threads_there == str(threads)
    return found


@pytest.mark.parametrize("threads", [2, 7])
def test_any_number_of_threads_gives_the_bits_of_one(threads: int) -> None:
    assert digests(threads) == digests(1)
