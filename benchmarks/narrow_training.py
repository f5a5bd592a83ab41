"""`python -m benchmarks.narrow_training`: what training loses where its arrays are stored narrower.

Trains the tasks of ``learning_tasks`` with parameters and moments stored in each of several ways,
from five seeds each; with ``--of-8-bits``, with moments in codes of 8 bits. A seed has the same
initial parameters and the same batches with each of them. Losses are those of the parameters as
they are stored, computed in float32. Prints tables, and keeps all losses as JSON in the output
folder. Of that in docs/performance, ``python -m benchmarks.pages`` draws the picture.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from tqdm import tqdm

from benchmarks import loss_curves
from benchmarks.learning_tasks import TASKS, Task
from benchmarks.loss_curves import Curve
from nadam_xla.jax import nadam

SEEDS = 5


class Storage(NamedTuple):
    """How parameters and gradients are stored, and what the optimizer is told of all else."""

    params: DTypeLike
    options: Mapping[str, Any]


NEAREST = {"mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16}
STOCHASTIC = NEAREST | {"rounding": "stochastic"}
BLOCKWISE = {"mu_dtype": "blockwise8", "nu_dtype": "blockwise8"}
STORAGES = {
    "float32": Storage(jnp.float32, {}),
    "bfloat16, nearest": Storage(jnp.bfloat16, NEAREST),
    "bfloat16, stochastic": Storage(jnp.bfloat16, STOCHASTIC),
    'master="float32"': Storage(jnp.bfloat16, STOCHASTIC | {"master": "float32"}),
    'master="remainder"': Storage(jnp.bfloat16, STOCHASTIC | {"master": "remainder"}),
    'master="correction"': Storage(jnp.bfloat16, STOCHASTIC | {"master": "correction"}),
}
OF_8_BITS = {
    "float32": STORAGES["float32"],
    "float32, moments of 8 bits": Storage(jnp.float32, BLOCKWISE),
    "bfloat16, moments of 8 bits": Storage(
        jnp.bfloat16, BLOCKWISE | {"rounding": "stochastic", "master": "remainder"}
    ),
}
RUNS = {loss_curves.KEPT: STORAGES, loss_curves.KEPT_OF_8_BITS: OF_8_BITS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("bench-output"))
    parser.add_argument("--of-8-bits", action="store_true", help="moments, and not bfloat16")
    parser.add_argument("--steps", type=int, help="of each training; by default the task's own")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    kept = loss_curves.KEPT_OF_8_BITS if arguments.of_8_bits else loss_curves.KEPT
    curves = []
    for name in arguments.tasks:
        task = TASKS[name]()
        for storage in RUNS[kept]:
            curves.append(learn(task, storage, arguments.steps or task.steps))
            loss_curves.save(curves, arguments.output / kept.name)
    print(loss_curves.tables(curves))


def learn(task: Task, storage: str, steps: int, seeds: int = SEEDS) -> Curve:
    """Trains from each seed, one after the other, by the same compiled programs."""
    dtype, options = (STORAGES | OF_8_BITS)[storage]
    # Up to a tenth of the steps the learning rate rises, and then it falls to zero.
    rate = optax.warmup_cosine_decay_schedule(0.0, task.learning_rate, steps // 10, steps)

    def loss(params: Any, batch: Any) -> jax.Array:
        return task.loss(jax.tree.map(lambda p: p.astype(jnp.float32), params), batch)

    def take_steps(seed: jax.Array, params: Any, state: Any, picks: jax.Array) -> Any:
        tx = nadam(rate, seed=seed, **options)

        def step(carry: tuple[Any, Any], pick: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params, task.batch(pick))
            return tx.apply(grads, state, params), value

        (params, state), losses = jax.lax.scan(step, (params, state), picks)
        return params, state, losses.mean()

    advance = jax.jit(take_steps, donate_argnums=(1, 2))
    validate = jax.jit(loss)
    training, validation = [], []
    for seed in tqdm(range(seeds), desc=f"{task.name}, {storage}"):
        params = jax.tree.map(lambda p: jnp.asarray(p, dtype), task.initial_params(seed))
        state = nadam(rate, **options).init(params)
        of_seed = []
        for picks in intervals(task, seed, steps):
            params, state, value = advance(seed, params, state, picks)
            of_seed.append((float(value), float(validate(params, task.validation))))
        training.append([value for value, _ in of_seed])
        validation.append([value for _, value in of_seed])
    size = sum(x.size for x in jax.tree.leaves(params))
    stored = sum(x.nbytes for x in jax.tree.leaves((params, state.mu, state.nu, state.master)))
    ends = [min(begin + task.interval, steps) for begin in range(0, steps, task.interval)]
    return Curve(task.name, storage, size, stored / size, ends, training, validation)


def intervals(task: Task, seed: int, steps: int) -> Iterator[np.ndarray]:
    """The batches between two points of the curve."""
    picks = task.picks(seed, steps)
    return (picks[begin : begin + task.interval] for begin in range(0, steps, task.interval))


if __name__ == "__main__":
    main()
