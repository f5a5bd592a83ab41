"""`python -m benchmarks.row_training`: what it costs to update no row that a batch does not touch.

Learns embeddings of the tokens of Python's own sources, as word2vec's skip-grams with negative
sampling do: the update of every row beside that of the rows of the batch. A seed has the same
initial tables and the same batches in each way; the ways take turns, an interval each. Prints a
table, and keeps all losses as JSON in the output folder. Of that in docs/performance,
``python -m benchmarks.pages`` draws the picture.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from benchmarks import loss_curves, row_curves
from benchmarks.row_curves import RowCurve
from benchmarks.token_pairs import Corpus, Pairs, corpora, sources
from nadam_xla.jax import nadam, value_and_row_grad

COLUMNS = 128
PAIRS_IN_BATCH = 512
STEPS_IN_CALL = 250
INTERVALS = 16  # points of a curve
VALIDATED = 2**14  # pairs

Tables = dict[str, jax.Array]


class Way(NamedTuple):
    """How tables are trained.

    Attributes:
        value_and_grad: of a loss.
        learning_rate: the largest.
        calls: of some steps each, from one point of the curve to the next.
    """

    value_and_grad: Callable[[Any], Any]
    learning_rate: float
    calls: int = 1


def rows(loss: Any) -> Any:
    return value_and_row_grad(loss, tables=True)


# For each the rate was chosen for its validation loss with one seed.
WAYS = {
    "dense": Way(jax.value_and_grad, 5e-3),
    "lazy, dense's rate": Way(rows, 5e-3),
    "lazy": Way(rows, 1e-2),
    "lazy, 8 times the steps": Way(rows, 1e-2, calls=8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("bench-output"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    curves = learn(*corpora(sources()), arguments.seeds)
    loss_curves.save(curves, arguments.output / row_curves.KEPT.name)
    print(row_curves.table(curves))


def loss(tables: Tables, pairs: Pairs) -> jax.Array:
    """That a token's context has a high product with it, and what is drawn at random a low one."""
    centers = tables["tokens"][pairs.centers]
    near = jnp.einsum("pc,pc->p", centers, tables["contexts"][pairs.contexts])
    drawn = jnp.einsum("pc,pnc->pn", centers, tables["contexts"][pairs.negatives])
    return (jax.nn.softplus(-near) + jax.nn.softplus(drawn).sum(-1)).mean()


def initial_tables(seed: int, height: int) -> Tables:
    """word2vec's."""
    rng = np.random.default_rng(seed)
    tokens = rng.uniform(-0.5 / COLUMNS, 0.5 / COLUMNS, (height, COLUMNS))
    return {"tokens": jnp.asarray(tokens, jnp.float32), "contexts": jnp.zeros((height, COLUMNS))}


class Training:
    """The steps of one way, and how long those of the present seed have taken."""

    def __init__(self, way: Way, steps_in_call: int) -> None:
        self.way = way
        steps = INTERVALS * way.calls * steps_in_call
        # Up to a tenth of the steps the learning rate rises, and then it falls to zero.
        self.tx = nadam(
            optax.warmup_cosine_decay_schedule(0.0, way.learning_rate, steps // 10, steps)
        )
        value_and_grad = way.value_and_grad(loss)

        def take_steps(tables: Tables, state: Any, batches: Pairs) -> tuple[Tables, Any]:
            def step(carry: tuple[Tables, Any], batch: Pairs) -> tuple[tuple[Tables, Any], None]:
                tables, state = carry
                _, grads = value_and_grad(tables, batch)
                return self.tx.apply(grads, state, tables), None

            return jax.lax.scan(step, (tables, state), batches)[0]

        self._advance = jax.jit(take_steps, donate_argnums=(0, 1))

    def start(self, tables: Tables, batches: Pairs) -> None:
        """Begins anew, with all compiled that takes such batches."""
        self.seconds = 0.0
        self._advance(*self._initial(tables), batches)
        self.tables, self.state = self._initial(tables)

    def _initial(self, tables: Tables) -> tuple[Tables, Any]:
        return jax.tree.map(jnp.copy, tables), self.tx.init(tables)

    def advance(self, batches: Pairs) -> None:
        """Takes a step with each batch."""
        jax.block_until_ready(batches)
        begin = time.perf_counter()
        self.tables, self.state = self._advance(self.tables, self.state, batches)
        jax.block_until_ready(self.tables)
        self.seconds += time.perf_counter() - begin


def learn(
    text: Corpus,
    held_out: Corpus,
    seeds: list[int],
    *,
    ways: Mapping[str, Way] = WAYS,
    steps_in_call: int = STEPS_IN_CALL,
) -> list[RowCurve]:
    """Trains in each way from each seed."""

    def batches(*seed: int) -> Pairs:
        return on_device(text.pairs(seed, steps_in_call, PAIRS_IN_BATCH))

    validate = jax.jit(loss)
    validation = on_device(held_out.pairs((0, 0), VALIDATED))
    trainings = {name: Training(way, steps_in_call) for name, way in ways.items()}
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in seeds] for name in ways}
    losses: dict[str, list[list[float]]] = {name: [[] for _ in seeds] for name in ways}
    for of_seed, seed in enumerate(seeds):
        tables = initial_tables(seed, text.height)
        for training in trainings.values():
            training.start(tables, batches(seed, 0))
        for interval in tqdm(range(INTERVALS), desc=f"seed {seed}"):
            for name, training in trainings.items():
                calls = training.way.calls
                for call in range(interval * calls, (interval + 1) * calls):
                    training.advance(batches(seed, call))
                seconds[name][of_seed].append(training.seconds)
                losses[name][of_seed].append(float(validate(training.tables, validation)))
    touched = rows_touched(batches(seeds[0], 0))
    return [
        RowCurve(
            name,
            way.learning_rate,
            touched,
            [(i + 1) * way.calls * steps_in_call for i in range(INTERVALS)],
            seconds[name],
            losses[name],
        )
        for name, way in ways.items()
    ]


def on_device(pairs: Pairs) -> Pairs:
    return jax.tree.map(jnp.asarray, pairs)


def rows_touched(batches: Pairs) -> float:
    """The distinct rows of both tables, in the mean of the batches."""
    counts = [
        len(np.unique(centers)) + len(np.unique(np.append(negatives, contexts)))
        for centers, contexts, negatives in zip(*map(np.asarray, batches), strict=True)
    ]
    return float(np.mean(counts))


if __name__ == "__main__":
    main()
