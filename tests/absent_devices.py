"""`make absent-devices`: what XLA makes of whole steps for devices that are not there.

XLA's compilers for GPUs and TPUs need none, only facts of them. The program prints the table of
docs/performance/measurements.md, ours beside optax's. It shows memory, copies, collectives and
calls, which a compiler decides; it cannot show a speed. With --packages it prints those that have
the compilers.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from importlib.metadata import requires
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"  # nothing is run anywhere else
os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no TPU's host to ask
os.environ["XLA_FLAGS"] = "--xla_gpu_autotune_level=0"  # autotuning would run on a device

import jax
import jax.numpy as jnp
import numpy as np
import optax
from compiled import CALL
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from nadam_xla.jax import nadam

# The facts that XLA's compiler for GPUs asks of a device: NVIDIA's data sheets have them.
_OF_EVERY_GPU = """
  threads_per_block_limit: 1024  threads_per_warp: 32  shared_memory_per_block: 49152
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
"""
_OF_GPU = {
    "H100": """
  shared_memory_per_core: 233472  threads_per_core_limit: 2048  core_count: 132  fpus_per_core: 128
  memory_bandwidth: 3352320000000  l2_cache_size: 52428800  clock_rate_ghz: 1.98
  device_memory_size: 84929347584  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
""",
    "A100": """
  shared_memory_per_core: 167936  threads_per_core_limit: 2048  core_count: 108  fpus_per_core: 64
  memory_bandwidth: 1555200000000  l2_cache_size: 41943040  clock_rate_ghz: 1.41
  device_memory_size: 42505273344  shared_memory_per_block_optin: 166912
  cuda_compute_capability { major: 8 }
""",
    "T4": """
  shared_memory_per_core: 65536  threads_per_core_limit: 1024  core_count: 40  fpus_per_core: 64
  memory_bandwidth: 320064000000  l2_cache_size: 4194304  clock_rate_ghz: 1.59
  device_memory_size: 15655829504  shared_memory_per_block_optin: 65536
  cuda_compute_capability { major: 7 minor: 5 }
""",
}
_GPU = """
gpu_device_info {{ {facts} }}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 7 }}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
device_description_str: "{name}"
"""

GPUS = ("H100", "A100", "T4", "8 x H100")
TPUS = {"4 x v5e": "v5e:2x2", "4 x v6e": "v6e:2x2"}


def platform_of(name: str) -> str:
    """As JAX names it."""
    return "tpu" if name in TPUS else "cuda"


def mesh_of(name: str) -> Mesh:
    """The devices of this name, along one axis ``d``."""
    if name in TPUS:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=TPUS[name])
    else:
        count, _, kind = name.rpartition(" x ")
        facts = _OF_EVERY_GPU + _OF_GPU[kind]
        options: dict[str, Any] = {"target_config": _GPU.format(facts=facts, name=kind)}
        topology = topologies.get_topology_desc(
            platform="cuda", topology=f"1x1x{count or 1}", **options
        )
    return Mesh(np.array(topology.devices), ("d",))


WIDTH, DEPTH, BATCH = 1024, 12, 64
SCANNED = 24  # layers in one stack
LEAF = 4 * WIDTH**2
LAYOUTS = {"FSDP": (P("d"), P("d")), "ZeRO-1": (P(), P("d")), "replicated": (P(), P())}
LAYOUTS_OF_STACKS = {
    "FSDP": (P(None, "d"), P(None, "d")),
    "ZeRO-1": (P(), P(None, "d")),
    "replicated": (P(), P()),
}
WHOLE = {"one device": (P(), P())}
_COLLECTIVES = re.compile(r" (all-gather|all-reduce|reduce-scatter|all-to-all)(?:-start)?\(")

Loss = Callable[[Any, jax.Array], jax.Array]


class Program(NamedTuple):
    """A step as it was compiled."""

    text: str
    temporary: int  # bytes on a device
    moved: float  # bytes from and to memory on a TPU, by XLA's own count

    @property
    def calls(self) -> int:
        """Ours."""
        return self.text.count(CALL)

    @property
    def copies(self) -> int:
        """Of whole leaves, or of what a device has of one."""
        return len(re.findall(rf"f32\[\d+,{WIDTH}\]\S* copy\(", self.text))

    @property
    def collectives(self) -> dict[str, int]:
        return dict(sorted(Counter(_COLLECTIVES.findall(self.text)).items()))


def dense(params: Any, x: jax.Array) -> jax.Array:
    for w in params:
        x = jnp.tanh(x @ w)
    return jnp.sum(x * x)


def dense_params() -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)] * DEPTH


def scanned(params: Any, x: jax.Array) -> jax.Array:
    x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params)
    return jnp.sum(x * x)


def scanned_params() -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((SCANNED, WIDTH, WIDTH), jnp.float32)


def step_of(tx: Any, loss: Loss | None) -> Callable[[Any, Any, Any], Any]:
    """A whole step from inputs; without a loss, the update alone from gradients."""

    def step(params: Any, state: Any, x: Any) -> Any:
        grads = x if loss is None else jax.grad(loss)(params, x)
        if hasattr(tx, "apply"):
            return tx.apply(grads, state, params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def compiled_for(
    name: str,
    tx: Any,
    specs: tuple[P, P] = (P(), P()),
    *,
    mesh: Mesh | None = None,
    loss: Loss | None = dense,
    params: Any = None,
    x: tuple[int, ...] = (BATCH, WIDTH),
    around: Callable[..., Any] = lambda step: step,
) -> Program:
    """The step of an optimizer, compiled for devices that are not there.

    Args:
        name: of the devices.
        tx: an optimizer.
        specs: how the parameters and how the moments are cut.
        mesh: of the devices, where it is there already.
        loss: of parameters and inputs; None for the update alone.
        params: their shapes; those of the dense network by default.
        x: the shape of the inputs, which are cut along the batch.
        around: what is made of the step before it is compiled.
    """
    mesh = mesh or mesh_of(name)

    def placed(leaf: Any, spec: P) -> Any:
        layout = NamedSharding(mesh, spec if leaf.shape else P())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout)

    of_params, of_moments = specs
    params = jax.tree.map(lambda leaf: placed(leaf, of_params), params or dense_params())
    state = jax.tree.map(lambda leaf: placed(leaf, of_moments), jax.eval_shape(tx.init, params))
    out = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
    step = jax.jit(around(step_of(tx, loss)), donate_argnums=(0, 1), out_shardings=out)
    inputs = params if loss is None else placed(jax.ShapeDtypeStruct(x, jnp.float32), P("d"))
    lowered = step.trace(params, state, inputs).lower(lowering_platforms=(platform_of(name),))
    program = lowered.compile()
    temporary = program.memory_analysis().temp_size_in_bytes
    counted = program.cost_analysis() or {}
    return Program(program.as_text(), temporary, counted.get("bytes accessed", 0.0))


def layouts_of(mesh: Mesh) -> dict[str, tuple[P, P]]:
    return WHOLE if mesh.size == 1 else LAYOUTS


def main() -> None:
    print("| compiled for | layout | temporary MiB | copies of leaves | calls | collectives |")
    print("|---|---|---|---|---|---|")
    for name in (*GPUS, *TPUS):
        mesh = mesh_of(name)
        for layout, specs in layouts_of(mesh).items():
            ours, stock = (
                compiled_for(name, tx, specs, mesh=mesh) for tx in (nadam(1e-3), optax.nadam(1e-3))
            )
            same = ours.collectives == stock.collectives
            cells = [
                name,
                layout,
                f"{ours.temporary / 2**20:.1f} / {stock.temporary / 2**20:.1f}",
                f"{ours.copies} / {stock.copies}",
                str(ours.calls),
                ("the same" if same else "others") if mesh.size > 1 else "none",
            ]
            print("| " + " | ".join(cells) + " |", flush=True)


def packages() -> list[str]:
    """Those of this JAX's version. Of CUDA's libraries none is needed, for nothing is run."""
    cuda = [f"{name}=={jax.__version__}" for name in ("jax-cuda13-plugin", "jax-cuda13-pjrt")]
    tpu = [line.split(";")[0].strip() for line in requires("jax") or () if "libtpu" in line]
    return cuda + tpu[:1]


if __name__ == "__main__":
    if "--packages" in sys.argv:
        print(*packages())
    else:
        main()
