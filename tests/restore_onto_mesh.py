"""A process with four devices restores a checkpoint that was written on one, and trains on.

Run with the checkpoint's folder and that of the result.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nadam_xla.jax import nadam


def main(checkpoint: Path, result: Path) -> None:
    jax.config.update("jax_num_cpu_devices", 4)
    mesh = Mesh(jax.devices(), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    tx = nadam(1e-2, momentum_decay=0.004)

    def placed(x: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows if x.ndim else whole)

    params = {"w": jax.ShapeDtypeStruct((8, 6), "float32")}
    like = jax.tree.map(placed, (params, jax.eval_shape(tx.init, params)))
    with ocp.StandardCheckpointer() as checkpointer:
        params, state = checkpointer.restore(checkpoint, like)
    assert params["w"].sharding == state.mu["w"].sharding == state.nu["w"].sharding == rows
    assert len(state.mu["w"].addressable_shards) == 4
    assert state.mu["w"].addressable_shards[0].data.shape == (2, 6)

    step = jax.jit(lambda params, state, grads: tx.apply(grads, state, params))
    for _ in range(3):
        params, state = step(params, state, params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(result, (params, state))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
