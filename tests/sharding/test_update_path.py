"""``nadam_xla.jax.update_path`` against programs that XLA partitions."""

import jax
import jax.export
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from nadam_xla.jax import nadam, update_path

KNOWN_CALL = jax.export.DisabledSafetyCheck.custom_call("nadam_xla_update_v2")


def program(*, exported: bool) -> str:
    mesh = jax.make_mesh((8,), ("x",))
    params = jax.device_put(jnp.ones(16), NamedSharding(mesh, PartitionSpec("x")))
    tx = nadam(1e-3)
    step, arguments = jax.jit(tx.apply), (params, tx.init(params), params)
    if exported:
        return jax.export.export(step, disabled_checks=[KNOWN_CALL])(*arguments).mlir_module()
    return step.lower(*arguments).compile().as_text()


@pytest.mark.parametrize("shardy", [True, False])
@pytest.mark.parametrize("exported", [False, True], ids=["runs here", "exported"])
def test_it_tells_what_a_partitioned_program_holds(exported: bool, shardy: bool) -> None:
    before = jax.config.jax_use_shardy_partitioner
    jax.config.update("jax_use_shardy_partitioner", shardy)
    try:
        path = update_path(partitioned=True, exported=exported)
        text = program(exported=exported)
    finally:
        jax.config.update("jax_use_shardy_partitioner", before)
    assert path.update == ("kernel" if "nadam_xla_update_v2" in text else "stablehlo")
    assert path.update == ("kernel" if shardy and not exported else "stablehlo")
    assert (path.reason is None) == (path.update == "kernel")
