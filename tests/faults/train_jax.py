"""A training of one model in four storages, in one step and one Orbax checkpoint, that goes on."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from nadam_xla.jax import nadam, nadamw, value_and_row_grad

WORDS, WIDTH, BATCH = 512, 128, 16

_NARROW: dict[str, Any] = {
    "mu_dtype": "bfloat16",
    "nu_dtype": "float16",
    "rounding": "stochastic",
    "seed": 3,
}
STORAGES: dict[str, tuple[Any, Any]] = {
    "float32": (jnp.float32, nadamw(1e-2, momentum_decay=0.004, average_decay=0.9)),
    "narrow": (jnp.bfloat16, nadam(1e-2, master="correction", max_norm=1.0, **_NARROW)),
    "codes": (jnp.float32, nadam(1e-2, mu_dtype="blockwise8", nu_dtype="blockwise8")),
    "rows": (jnp.float32, nadamw(1e-2, weight_decay=0.1)),
}


def loss(params: Any, words: jax.Array, y: jax.Array) -> jax.Array:
    x = jnp.tanh(params["table"][words].mean(1) @ params["w"] + params["b"])
    return jnp.mean((x.astype(jnp.float32) - y) ** 2)


def start() -> Any:
    rng = np.random.default_rng(0)
    shapes = {"table": (WORDS, WIDTH), "w": (WIDTH, WIDTH), "b": (WIDTH,)}
    begun = {}
    for name, (dtype, tx) in STORAGES.items():
        params = {leaf: jnp.asarray(rng.normal(size=s) / 8, dtype) for leaf, s in shapes.items()}
        begun[name] = params, tx.init(params)
    return begun


def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(step)
    words = rng.integers(0, WORDS, (BATCH, 4), "int32")
    return words, rng.normal(size=(BATCH, WIDTH)).astype("float32")


def advanced(trained: Any, words: jax.Array, y: jax.Array) -> Any:
    after = {}
    for name, (params, state) in trained.items():
        if name == "rows":
            tables = {leaf: leaf == "table" for leaf in params}
            _, grads = value_and_row_grad(loss, tables)(params, words, y)
        else:
            grads = jax.grad(loss)(params, words, y)
        after[name] = STORAGES[name][1].apply(grads, state, params)
    return after


def digest(trained: Any) -> str:
    """Of every bit of the parameters and the state."""
    bits = hashlib.sha256()
    for leaf in jax.tree.leaves(trained):
        bits.update(np.asarray(leaf).tobytes())
    return bits.hexdigest()


def main(folder: str, steps: int, every: int) -> None:
    """Trains until so many steps are made, with a checkpoint of every so many."""
    step_in_place = jax.jit(advanced, donate_argnums=0)
    trained, done = start(), 0
    options = ocp.CheckpointManagerOptions(save_interval_steps=every, max_to_keep=2)
    with ocp.CheckpointManager(Path(folder).absolute(), options=options) as manager:
        if manager.latest_step() is not None:
            done = manager.latest_step()
            trained = manager.restore(done, args=ocp.args.StandardRestore(trained))
        print("resumed", done, digest(trained), flush=True)
        while done < steps:
            done += 1
            trained = step_in_place(trained, *batch(done))
            print("made", done, digest(trained), flush=True)
            # Orbax writes while the next steps overwrite the arrays in place.
            manager.save(done, args=ocp.args.StandardSave(trained))
