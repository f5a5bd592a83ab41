"""A step compiled for eight devices, written by jax.experimental.serialize_executable."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.serialize_executable import deserialize_and_load, serialize
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from processes import output_of

from nadam_xla.jax import nadam, sum_squares, zero1_shardings

TX = nadam(1e-2)


def mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


def ramp(*shape: int) -> jax.Array:
    values = jnp.linspace(-1.0, 1.0, int(np.prod(shape))).reshape(shape)
    return jax.device_put(values, NamedSharding(mesh(), P("data")))


def apply(params: Any, state: Any, grads: Any) -> Any:
    return TX.apply(grads, state, params)


def update_in_a_loop(params: Any, state: Any, grads: Any) -> Any:
    def body(_: int, carry: Any) -> Any:
        params, state = carry
        updates, state = TX.update(grads, state, params)
        return params + updates, state

    return jax.lax.fori_loop(0, 3, body, (params, state))


def clipped(params: Any, state: Any, grads: Any) -> Any:
    norm = jnp.sqrt(sum_squares(grads))
    return TX.apply(grads / norm, state, params), apply(params, state, grads)


def population(params: Any, state: Any, grads: Any) -> Any:
    del state

    def member(rate: jax.Array, grads: jax.Array) -> Any:
        return nadam(rate).update(grads, nadam(rate).init(grads))

    return jax.vmap(member)(params[:, 0] + 2, grads)


def of_zero1() -> tuple[Any, ...]:
    params = jax.device_put(ramp(16, 4), NamedSharding(mesh(), P()))
    shardings = zero1_shardings(TX, params, mesh(), "data")
    return params, jax.device_put(TX.init(params), shardings), ramp(16, 4)


def of_cut_parameters() -> tuple[Any, ...]:
    return ramp(16, 4), TX.init(ramp(16, 4)), ramp(16, 4)


@pytest.mark.parametrize(
    ("step", "arguments"),
    [
        (apply, of_cut_parameters),
        (apply, of_zero1),
        (update_in_a_loop, of_cut_parameters),
        (clipped, of_cut_parameters),
        (population, of_cut_parameters),
    ],
)
def test_it_is_written_and_read(step: Callable[..., Any], arguments: Callable[..., Any]) -> None:
    compiled = jax.jit(step).lower(*arguments()).compile()
    loaded = deserialize_and_load(*serialize(compiled))
    jax.tree.map(np.testing.assert_array_equal, loaded(*arguments()), compiled(*arguments()))


IN_A_FRESH_PROCESS = """
import pickle, sys
from pathlib import Path
import jax
import nadam_xla.jax  # registers the call
from jax.experimental.serialize_executable import deserialize_and_load

serialized, arguments = pickle.loads(Path(sys.argv[1]).read_bytes())
loaded = deserialize_and_load(*serialized)
results = loaded(*jax.device_put(arguments, loaded.input_shardings[0]))
Path(sys.argv[1]).write_bytes(pickle.dumps(jax.device_get(results)))
"""


def test_another_process_runs_it(tmp_path: Path) -> None:
    arguments = of_cut_parameters()
    compiled = jax.jit(apply).lower(*arguments).compile()
    file = tmp_path / "step"
    file.write_bytes(pickle.dumps((serialize(compiled), jax.device_get(arguments))))
    output_of(IN_A_FRESH_PROCESS, file, devices=8)
    results = pickle.loads(file.read_bytes())
    jax.tree.map(np.testing.assert_array_equal, results, jax.device_get(compiled(*arguments)))
