"""Compiled ahead of time, and once for several processes."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import output_of

from nadam_xla.jax import nadam
from nadam_xla.native import MODULES

TX = nadam(1e-2)


def step(params: Any, state: Any, grads: Any) -> Any:
    return TX.apply(grads, state, params)


def some_params() -> dict[str, jax.Array]:
    return {"kernel": jnp.linspace(-1.0, 1.0, 35).reshape(7, 5), "bias": jnp.ones(6)}


class TestAheadOfTime:
    def test_from_shapes_alone_it_compiles_a_step_that_runs_in_place(self) -> None:
        shapes = jax.eval_shape(some_params)
        arguments = shapes, jax.eval_shape(TX.init, shapes), shapes
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()

        params = some_params()
        state = TX.init(params)
        expected = jax.jit(step)(params, state, params)
        before = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((params, state.mu, state.nu))]
        params, state = compiled(params, state, jax.tree.map(jnp.copy, params))
        after = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((params, state.mu, state.nu))]
        assert before == after
        jax.tree.map(np.testing.assert_array_equal, (params, state), expected)

    def test_a_compiled_step_takes_no_other_shapes(self) -> None:
        params = some_params()
        compiled = jax.jit(step).lower(params, TX.init(params), params).compile()
        params["bias"] = jnp.ones(7)
        with pytest.raises(TypeError, match="bias"):
            compiled(params, TX.init(params), params)

    @pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
    def test_it_lowers_for_platforms_that_are_not_here(self, platform: str) -> None:
        params = some_params()
        traced = jax.jit(step).trace(params, TX.init(params), params)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        # MODULES: this installation may be one without the CUDA kernels
        assert text.count("custom_call @nadam_xla_update_v2") == int(platform in MODULES)


PROGRAMS = """
import collections, json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from nadam_xla.jax import nadam

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_remove_custom_partitioning_ptr_from_cache_key", True)
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event]))

tx = nadam(1e-2)
params = {"kernel": jnp.arange(128.0).reshape(16, 8) / 64 - 1, "bias": jnp.ones(16)}
arguments = params, tx.init(params), jax.tree.map(lambda p: 0.5 * p, params)
mesh = jax.make_mesh((8,), ("x",))
spec = jax.tree.map(lambda x: P("x") if x.ndim else P(), arguments)
sharded = jax.device_put(arguments, jax.tree.map(lambda s: NamedSharding(mesh, s), spec))

# Functions of one name: they differ in what they return alone.
def applied():
    def step(params, state, grads):
        return tx.apply(grads, state, params)
    return step

def updated():
    def step(params, state, grads):
        return tx.update(grads, state, params)
    return step

mapped = jax.shard_map(applied(), mesh=mesh, in_specs=spec, out_specs=spec[:2])
programs = {
    "one device": (applied, jax.jit(applied()), arguments),
    "one device, updates": (updated, jax.jit(updated()), arguments),
    "mesh": (applied, jax.jit(applied()), sharded),
    "mesh, updates": (updated, jax.jit(updated()), sharded),
    "shard_map": (applied, jax.jit(mapped), sharded),
}
expected = {make: make()(*arguments) for make in (applied, updated)}
report = {}
for name, (make, program, args) in programs.items():
    before = events.copy()
    compiled = program.lower(*args).compile()
    counted = events - before
    report[name] = [counted["/jax/compilation_cache/cache_" + kind] for kind in ("misses", "hits")]
    for x, y in zip(*map(jax.tree.leaves, (compiled(*args), expected[make])), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, err_msg=name)
print(json.dumps(report))
"""


def test_a_second_process_finds_every_program_in_the_persistent_cache(tmp_path: Path) -> None:
    """And the first finds none: what differs in its meaning alone has an entry of its own."""
    first, second = (json.loads(output_of(PROGRAMS, tmp_path, devices=8)) for _ in range(2))
    assert all(counted == [1, 0] for counted in first.values()), first
    assert all(counted == [0, 1] for counted in second.values()), second
