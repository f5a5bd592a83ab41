"""A step of a table of which its batch touches some rows: ours beside stock, PyTorch and the limit.

Ours is the update of these rows. "ours, dense" is our update of the whole table, and stock's is one
of the whole table too. The limit is that of the memory: a native loop that reads and writes the
same rows of three tables.

The rows of a step are random, and each occurs once. Each step of a turn has others, until those of
all together are larger than the caches.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np

from benchmarks.other_process import SPINNING_SECONDS, in_another_process
from benchmarks.records import MILLISECONDS, OURS, Record, records_of
from benchmarks.sizes import LIMIT
from nadam_xla import _native_testing
from nadam_xla.diagnosis.interleave import Turns, interleave_figures

SECTION = "Rows of a table of 200000x128"
HEIGHT, COLUMNS = 200_000, 128
ROWS = (16, 64, 256, 1024, 4096, 16_384, 65_536, HEIGHT)
TURNS = 9
OURS_DENSE = "ours, dense"
EMPTY = "empty step"

STEPS_OF_TABLE = 4  # in a turn, of those that update the whole table
STEPS_OF_ROWS = (4, 1024)  # at least and at most, of those that update rows
ROWS_IN_TURN = 2**18
BATCHES = (1, 1024)  # at least and at most, of a case
ROWS_IN_BATCHES = 2**16  # of which tables and gradients have 128 MiB

Contenders = Mapping[str, Callable[[], float]]  # a turn of each returns the seconds of a step


class Batches(NamedTuple):
    """The gradients of the steps of a case."""

    indices: np.ndarray  # int32 [batches, rows]
    values: np.ndarray  # float32 [batches, rows, COLUMNS]

    @classmethod
    def of(cls, rows: int) -> "Batches":
        rng = np.random.default_rng(0)
        count = int(np.clip(ROWS_IN_BATCHES // rows, *BATCHES))
        picks = [rng.choice(HEIGHT, rows, replace=False) for _ in range(count)]
        values = rng.standard_normal((count, rows, COLUMNS), np.float32)
        return cls(np.array(picks, np.int32), values)

    @property
    def rounds(self) -> int:
        """How often the steps of a turn go through all of them."""
        count, rows = self.indices.shape
        return int(np.clip(ROWS_IN_TURN // rows, *STEPS_OF_ROWS)) // count

    def converted(self, convert: Callable[[np.ndarray, np.ndarray], Any]) -> list[Any]:
        """Each of them, for the steps of a turn that update rows."""
        return [convert(*batch) for batch in zip(*self, strict=True)] * self.rounds


def measure() -> Iterator[list[Record]]:
    """The records of each number of rows, in each way in which this process runs a step."""
    for rows in ROWS:
        for way, measured in WAYS.items():
            turns = measured(rows)
            section = f"{SECTION}, {way}"
            yield records_of(section, f"{rows} rows", rows * COLUMNS, turns, scale=MILLISECONDS)


def seconds_a_step(run: Callable[[], None], steps: int) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) / steps


def memory_limit(batches: Batches) -> Callable[[], float]:
    """Reads and writes the rows of each batch, next to no arithmetic, on as many threads."""
    rows = batches.indices.ravel().tolist()
    limit = _native_testing.RowsLimit(HEIGHT, COLUMNS, rows, len(os.sched_getaffinity(0)))
    steps = batches.rounds * len(batches.indices)
    return lambda: seconds_a_step(lambda: limit.run(batches.rounds), steps)


def jax_beside_torch(rows: int) -> Turns:
    with in_another_process(torch_contenders, rows) as torch_contender:
        return interleave_figures({**jax_contenders(rows), **torch_contender}, TURNS)


def jax_contenders(rows: int) -> Contenders:
    import jax  # noqa: PLC0415 - this backend's alone
    import jax.numpy as jnp  # noqa: PLC0415

    from benchmarks.donation import carrying  # noqa: PLC0415
    from benchmarks.jax_steps import FLOOR, OPTIMIZERS, Optimizer  # noqa: PLC0415
    from nadam_xla.jax import RowGradient  # noqa: PLC0415

    batches = Batches.of(rows)
    of_rows = batches.converted(lambda *batch: tuple(map(jnp.asarray, batch)))

    def dense(indices: Any, values: Any) -> Any:
        return jnp.zeros((HEIGHT, COLUMNS)).at[indices].add(values)

    def contender(optimizer: Optimizer, grads_of: Any, calls: list[Any]) -> Callable[[], float]:
        init, step = optimizer

        def one_step(table: Any, state: Any, indices: Any, values: Any) -> Any:
            return step(grads_of(indices, values), state, table)

        table = jnp.ones((HEIGHT, COLUMNS))
        compiled = jax.jit(one_step, donate_argnums=(0, 1))
        run = carrying(compiled, (table, init(table)), calls)
        return lambda: seconds_a_step(run, len(calls))

    of_table = of_rows[:STEPS_OF_TABLE]
    return {
        OURS: contender(OPTIMIZERS[OURS], RowGradient, of_rows),
        "optax": contender(OPTIMIZERS["optax"], dense, of_table),
        OURS_DENSE: contender(OPTIMIZERS[OURS], dense, of_table),
        EMPTY: contender(FLOOR, RowGradient, of_rows),
        LIMIT: memory_limit(batches),
    }


def torch_contenders(rows: int) -> Contenders:
    import torch  # noqa: PLC0415 - that process's

    torch.set_num_threads(len(os.sched_getaffinity(0)))

    def gradient(indices: np.ndarray, values: np.ndarray) -> torch.Tensor:
        places = torch.from_numpy(indices.astype(np.int64))[None]
        shape = (HEIGHT, COLUMNS)
        values = torch.from_numpy(values)
        return torch.sparse_coo_tensor(places, values, shape, check_invariants=False)

    gradients = Batches.of(rows).converted(gradient)
    table = torch.nn.Parameter(torch.ones(HEIGHT, COLUMNS))
    optimizer = torch.optim.SparseAdam([table], lr=1e-3)

    def run() -> None:
        for gradient in gradients:
            table.grad = gradient
            optimizer.step()

    def turn() -> float:
        seconds = seconds_a_step(run, len(gradients))
        time.sleep(SPINNING_SECONDS)
        return seconds

    return {"torch SparseAdam": turn}


class EmptyStep:
    """Only counts the steps of Keras."""

    def build(self, variables: list[Any]) -> None:
        del variables
        self.iterations = keras.Variable(0)

    def apply(self, grads: list[Any]) -> None:
        del grads
        self.iterations.assign_add(1)


def keras_on_tensorflow(rows: int, *, jit_compile: bool) -> Turns:
    import tensorflow as tf  # noqa: PLC0415 - this backend's alone

    from nadam_xla.keras import Nadam  # noqa: PLC0415

    batches = Batches.of(rows)
    of_rows = batches.converted(lambda *batch: tuple(map(tf.constant, batch)))

    def contender(optimizer: Any, calls: list[Any]) -> Callable[[], float]:
        table = keras.Variable(np.ones((HEIGHT, COLUMNS), np.float32))
        optimizer.build([table])

        @tf.function(jit_compile=jit_compile)
        def step(indices: Any, values: Any) -> None:
            optimizer.apply([tf.IndexedSlices(values, indices, tf.constant((HEIGHT, COLUMNS)))])

        def run() -> None:
            for call in calls:
                step(*call)
            optimizer.iterations.numpy()  # waits

        return lambda: seconds_a_step(run, len(calls))

    of_table = of_rows[:STEPS_OF_TABLE]
    return interleave_figures(
        {
            OURS: contender(Nadam(sparse="lazy"), of_rows),
            "stock": contender(keras.optimizers.Nadam(), of_table),
            OURS_DENSE: contender(Nadam(sparse="dense"), of_table),
            EMPTY: contender(EmptyStep(), of_rows),
            LIMIT: memory_limit(batches),
        },
        TURNS,
    )


WAYS: Mapping[str, Callable[[int], Turns]] = {
    "jax": {"JAX, a call a step, donated": jax_beside_torch},
    "tensorflow": {
        "Keras on TensorFlow, tf.function": partial(keras_on_tensorflow, jit_compile=False),
        "Keras on TensorFlow, jit_compile": partial(keras_on_tensorflow, jit_compile=True),
    },
}[keras.backend.backend()]
CASES_MEASURED = len(ROWS) * len(WAYS)
