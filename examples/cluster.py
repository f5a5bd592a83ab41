"""Training over several processes: each holds a part of every batch, and all keep one model.

On every machine of a cluster, the same command with its own number, the address being that of the
first machine::

    python -m examples.cluster --coordinator 10.0.0.1:8476 --processes 2 --process 0
    python -m examples.cluster --coordinator 10.0.0.1:8476 --processes 2 --process 1

Two terminals of one machine will do, with 127.0.0.1. Without arguments it is one process. With
``--zero1`` the moments are cut over all devices of all processes (ZeRO-1), and with
``--devices-a-process`` a CPU stands for several devices. Data: scikit-learn's load_digits. Prints
the loss of every step, in the first process.
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from examples.digits_network import Digits, initial_params, load, mean_loss
from nadam_xla.jax import nadam, zero1_shardings

LEARNING_RATE = 2e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coordinator", help="address and port of the first process")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process", type=int, default=0, help="the number of this one, from 0")
    parser.add_argument("--devices-a-process", type=int, default=1, help="on the CPU")
    parser.add_argument("--zero1", action="store_true", help="cut the moments over all devices")
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()

    jax.config.update("jax_num_cpu_devices", arguments.devices_a_process)
    if arguments.processes > 1:
        jax.distributed.initialize(arguments.coordinator, arguments.processes, arguments.process)
    losses = train(load(), arguments.steps, zero1=arguments.zero1)
    if jax.process_index() == 0:
        for number, loss in enumerate(losses, start=1):
            print(f"step {number}: loss {loss:.7f}")


def train(digits: Digits, steps: int, *, zero1: bool) -> list[float]:
    """The loss of each step; every process of the cluster calls this with the same arguments."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    tx = nadam(LEARNING_RATE)
    params = [spread(p, whole) for p in initial_params()]
    layout = zero1_shardings(tx, params, mesh, "data") if zero1 else whole
    state = jax.jit(tx.init, out_shardings=layout)(params)

    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any, jax.Array]:
        loss, grads = jax.value_and_grad(mean_loss)(params, x, y)
        params, state = tx.apply(grads, state, params)
        return params, state, loss

    compiled = jax.jit(step, donate_argnums=(0, 1), out_shardings=(whole, layout, whole))
    losses = []
    for x, y in tqdm(islice(batches(digits, mesh), steps), disable=jax.process_index() != 0):
        params, state, loss = compiled(params, state, x, y)
        losses.append(float(loss))
    return losses


def batches(digits: Digits, mesh: Mesh) -> Iterator[tuple[jax.Array, jax.Array]]:
    """The batches, cut over the mesh: of each, a process needs the rows of its devices alone."""
    cut = NamedSharding(mesh, PartitionSpec("data"))

    for x, y in digits.batches():
        yield spread(x, cut), spread(y, cut)


def spread(values: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """The array of all processes, each of which has all values and keeps those of its devices."""
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


if __name__ == "__main__":
    main()
