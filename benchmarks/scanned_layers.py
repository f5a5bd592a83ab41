"""Training steps over scanned layers: woven, one pass behind the scan, and optax's.

`python -m benchmarks.scanned_layers PICTURE` draws the temporary memory of compiled steps against
the number of layers.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure

from benchmarks import plots
from benchmarks.donation import carrying
from benchmarks.networks import Network, scanned_dense, transformer
from benchmarks.records import MILLISECONDS, OURS, Record, records_of
from nadam_xla.diagnosis.interleave import Turns, interleave
from nadam_xla.jax import fuse_updates, nadam

TURNS = 9
NETWORKS: dict[str, Callable[[], Network]] = {
    "24 dense layers of 1024, batch 64": partial(scanned_dense, 24, 1024),
    "transformer, 12 layers of 512": partial(transformer, scanned=True),
    "transformer, 12 layers of 512, remat": partial(transformer, scanned=True, remat=True),
}
CASES_MEASURED = len(NETWORKS)
SECTION = "Training step over scanned layers, JAX, jitted and donated"
BEHIND = "one pass behind the scan"

DEPTHS, WIDTH, BATCH = (4, 8, 16, 32, 64), 1024, 64  # of the picture

Step = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


def measure() -> Iterator[list[Record]]:
    """For each network the times and the temporary memory."""
    for case, make in NETWORKS.items():
        network = make()
        runs, temporary = {}, {}
        for name, (init, step) in contenders(network.loss).items():
            carry = (jax.tree.map(jnp.array, network.params), init(network.params))
            batch = (network.inputs, network.targets)
            compiled = compiled_step(step, *carry, *batch)
            runs[name] = carrying(compiled, carry, [batch] * network.steps)
            temporary[name] = [float(compiled.memory_analysis().temp_size_in_bytes)] * 2
        scale, size = MILLISECONDS / network.steps, network.parameters()
        section = SECTION + ": temporary memory"
        yield [
            *records_of(SECTION, case, size, interleave(runs, TURNS), scale=scale),
            *records_of(section, case, size, Turns(temporary), scale=2**-20, unit="MiB"),
        ]


def contenders(loss: Callable[..., Any]) -> dict[str, tuple[Callable[[Any], Any], Step]]:
    """Of each, what makes its state, and its step."""
    ours, stock = nadam(1e-3), optax.nadam(1e-3)

    def behind(params: Any, state: Any, x: Any, y: Any) -> tuple[Any, Any]:
        return ours.apply(jax.grad(loss)(params, x, y), state, params)

    def of_stock(params: Any, state: Any, x: Any, y: Any) -> tuple[Any, Any]:
        updates, state = stock.update(jax.grad(loss)(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    return {
        OURS: (ours.init, fuse_updates(behind)),
        BEHIND: (ours.init, behind),
        "optax": (stock.init, of_stock),
    }


def compiled_step(step: Step, *arguments: Any) -> Any:
    return jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()


def picture() -> Figure:
    """Temporary memory against layers, beside the bytes of the gradients."""
    figure = Figure(figsize=(plots.WIDTH, 4), layout="constrained")
    axes = figure.subplots()
    loss = scanned_dense(1, 8).loss
    x = jax.ShapeDtypeStruct((BATCH, WIDTH), jnp.float32)
    for colour, (name, (init, step)) in zip(plots.COLOURS, contenders(loss).items(), strict=False):
        mebibytes = []
        for depth in DEPTHS:
            params = jax.ShapeDtypeStruct((depth, WIDTH, WIDTH), jnp.float32)
            compiled = compiled_step(step, params, jax.eval_shape(init, params), x, x)
            mebibytes.append(compiled.memory_analysis().temp_size_in_bytes / 2**20)
            print(f"{name}, {depth} layers: {mebibytes[-1]:.1f} MiB", flush=True)
        label = {OURS: "ours, woven", BEHIND: "ours, behind the scan"}.get(name, name)
        axes.plot(DEPTHS, mebibytes, marker="o", label=label, color=colour)
    gradients = [4 * depth * WIDTH**2 / 2**20 for depth in DEPTHS]
    axes.plot(DEPTHS, gradients, color=plots.INK, linestyle="--", label="the gradients alone")
    axes.set(
        xlabel=f"layers of {WIDTH}, batch {BATCH}, float32",
        ylabel="temporary memory of the compiled step, MiB",
    )
    axes.legend()
    return figure


if __name__ == "__main__":
    plots.save(picture(), Path(sys.argv[1]))
