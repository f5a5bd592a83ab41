"""jax.export: for each platform, into another process, and with shapes that stay open."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import CALL, copies_of_arrays, text_of
from processes import output_of

from nadam_xla.jax import nadam, nadamw

KNOWN_CALL = jax.export.DisabledSafetyCheck.custom_call("nadam_xla_update_v2")
CALL_IN_MODULE = "custom_call @nadam_xla_update_v2"
TX = nadam(1e-3, momentum_decay=0.004)
PARAMS = {
    "kernel": jnp.linspace(-1, 1, 15).reshape(3, 5),
    "bias": jnp.ones(4),
    "scale": jnp.float32(2),
}
STATE = TX.init(PARAMS)
GRADS = jax.tree.map(lambda p: 0.5 * p - 0.1, PARAMS)


def step(params: Any, state: Any, grads: Any) -> Any:
    return TX.apply(grads, state, params)


def exported(*platforms: str) -> jax.export.Exported:
    export = jax.export.export(
        jax.jit(step, donate_argnums=(0, 1)), platforms=platforms, disabled_checks=[KNOWN_CALL]
    )
    return export(PARAMS, STATE, GRADS)


def assert_close(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


def test_for_tpu_it_is_plain_stablehlo() -> None:
    module = exported("tpu").mlir_module()
    assert "custom_call" not in module
    assert "stablehlo.sqrt" in module


@pytest.mark.parametrize("platforms", [("cpu",), ("cuda",), ("cuda", "cpu")])
def test_with_a_kernel_it_is_one_call_with_its_aliases(platforms: tuple[str, ...]) -> None:
    module = exported(*platforms).mlir_module()
    assert module.count(CALL_IN_MODULE) == 1
    assert module.count("output_operand_alias<") == 9, "three leaves: params, mu and nu"
    assert "stablehlo.sqrt" not in module


@pytest.mark.parametrize("platforms", [("cpu", "tpu"), ("tpu", "cuda"), ("cpu", "cuda", "tpu")])
def test_for_platforms_with_and_without_it_carries_both(platforms: tuple[str, ...]) -> None:
    program = exported(*platforms)
    module = program.mlir_module()
    with_kernel = {"cpu", "cuda"}.intersection(platforms)
    assert module.count(CALL_IN_MODULE) == len(with_kernel), "cut for each as it likes"
    assert "stablehlo.sqrt" in module
    if "cpu" in platforms:
        assert_close(program.call(PARAMS, STATE, GRADS), step(PARAMS, STATE, GRADS))
        text = text_of(program.call, PARAMS, STATE, GRADS, donate=(0, 1))
        assert (text.count(CALL), copies_of_arrays(text)) == (1, 0)


LEAVES, DTYPES = range(40), ("float32", "bfloat16", "float8_e5m2")
ROWS: dict[str, dict[str, Any]] = {
    "one": {},
    "random numbers": {"rounding": "stochastic", "seed": 3},
    "a row for each leaf": {
        "weight_decay": 20.0,
        "mask": {i: i % 5 == 0 or i > 35 for i in LEAVES},
        "mu_dtype": jnp.bfloat16,
    },
}


@pytest.mark.parametrize(
    ("rows", "method"),
    [("one", "apply"), ("random numbers", "update"), ("a row for each leaf", "apply")],
)
def test_both_ways_update_leaves_of_any_dtype_in_full_calls(rows: str, method: str) -> None:
    """The kernels know no float8, which is widened for them and comes back."""
    params = {i: jnp.linspace(-1, 1, 3 + i % 5).astype(DTYPES[i % 3]) for i in LEAVES}
    tx = nadamw(1e-2, **ROWS[rows])
    grads = jax.tree.map(lambda p: (3 * p).astype(p.dtype), params)
    arguments = grads, tx.init(params), params
    step = jax.jit(getattr(tx, method))
    program = jax.export.export(step, platforms=("cpu", "tpu"), disabled_checks=[KNOWN_CALL])(
        *arguments
    )
    assert program.mlir_module().count(CALL_IN_MODULE) == 2, "of 32 leaves, and of 8"
    found, expected = program.call(*arguments), step(*arguments)
    assert jax.tree.map(jnp.result_type, found) == jax.tree.map(jnp.result_type, expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_state_is_a_part_of_the_serialized_program() -> None:
    loaded = jax.export.deserialize(exported("cpu").serialize())
    arguments, _ = jax.tree.unflatten(loaded.in_tree, loaded.in_avals)
    assert jax.tree.structure(arguments[1]) == jax.tree.structure(STATE)
    params, state = loaded.call(PARAMS, STATE, GRADS)
    assert isinstance(state, type(STATE))
    assert_close((params, state), step(PARAMS, STATE, GRADS))


LOAD_AND_RUN = """
import sys
from functools import partial
from pathlib import Path
import jax, jax.export, numpy as np
import nadam_xla.jax

folder = Path(sys.argv[1])
step = jax.export.deserialize((folder / "step").read_bytes())
arguments, _ = jax.tree.unflatten(step.in_tree, step.in_avals)
given = np.load(folder / "arguments.npz")
arguments = jax.tree.unflatten(jax.tree.structure(arguments), [given[k] for k in given])
results = jax.tree.leaves(step.call(*arguments))
np.savez(folder / "results.npz", *results)
"""


@pytest.mark.parametrize("platforms", [("cpu",), ("cpu", "tpu")])
def test_another_process_loads_and_runs_it(platforms: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "step").write_bytes(exported(*platforms).serialize())
    np.savez(tmp_path / "arguments.npz", *jax.tree.leaves((PARAMS, STATE, GRADS)))
    output_of(LOAD_AND_RUN, tmp_path)
    results = np.load(tmp_path / "results.npz")
    assert_close([results[k] for k in results], jax.tree.leaves(step(PARAMS, STATE, GRADS)))


def test_a_program_exported_with_version_1_of_the_call_means_what_it_meant() -> None:
    """One of nadamw as it was, by JAX 0.7.2: ``apply`` of the parameters, the state, gradients."""
    written = Path(__file__).with_name("exported_with_update_v1.bin").read_bytes()
    try:
        program = jax.export.deserialize(bytearray(written))
    except ValueError as error:  # JAX promises to read what is half a year old
        pytest.skip(f"JAX {jax.__version__} reads no program that JAX 0.7.2 has written: {error}")
    assert "@nadam_xla_update_v1" in program.mlir_module()
    tx = nadamw(1e-2, weight_decay=0.1, mask={"w": True, "b": False}, momentum_decay=0.004)
    params = {"w": jnp.linspace(-1, 1, 15).reshape(5, 3), "b": jnp.linspace(0, 1, 7)}
    found, state = params, tx.init(params)
    expected, expected_state = found, state
    for t in range(5):
        grads = jax.tree.map(lambda p: (t + 1) * jnp.sin(3 * p + t), params)  # noqa: B023
        found, state = program.call(found, state, grads)
        expected, expected_state = tx.apply(grads, expected_state, expected)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, (found, state), (expected, expected_state))


@pytest.mark.parametrize("platforms", [("cpu",), ("tpu", "cpu")])
def test_a_leaf_may_have_a_symbolic_shape(platforms: tuple[str, ...]) -> None:
    shape = jax.export.symbolic_shape("rows, 5")
    params = jax.ShapeDtypeStruct(shape, jnp.float32)
    state = jax.eval_shape(TX.init, params)
    program = jax.export.export(jax.jit(step), platforms=platforms, disabled_checks=[KNOWN_CALL])(
        params, state, params
    )
    loaded = jax.export.deserialize(program.serialize())
    for rows in (1, 4, 1000):
        params = jnp.linspace(-1, 1, rows * 5).reshape(rows, 5)
        arguments = params, TX.init(params), 0.5 * params
        assert_close(loaded.call(*arguments), step(*arguments))


@pytest.mark.parametrize("platforms", [("cpu",), ("tpu", "cpu")])
def test_a_population_may_have_a_symbolic_size(platforms: tuple[str, ...]) -> None:
    @jax.jit
    @jax.vmap
    def train(rate: jax.Array) -> Any:
        tx = nadam(rate)
        return tx.apply(GRADS, tx.init(PARAMS), PARAMS)

    (size,) = jax.export.symbolic_shape("size")
    program = jax.export.export(train, platforms=platforms, disabled_checks=[KNOWN_CALL])(
        jax.ShapeDtypeStruct((size,), jnp.float32)
    )
    loaded = jax.export.deserialize(program.serialize())
    for members in (1, 3):
        rates = jnp.linspace(1e-3, 1e-2, members)
        assert_close(loaded.call(rates), train(rates))


def test_jax_asks_for_a_word_about_the_custom_call() -> None:
    """If it no longer did, docs/jax/saving.md would tell too much."""
    with pytest.raises(ValueError, match="nadam_xla_update_v2"):
        jax.export.export(jax.jit(step))(PARAMS, STATE, GRADS)


def test_a_program_that_is_serialized_with_its_gradient_has_one() -> None:
    @jax.jit
    def after_step(rate: jax.Array) -> jax.Array:
        tx = nadam(rate)
        return tx.apply(GRADS, tx.init(PARAMS), PARAMS)[0]["kernel"].sum()

    rate = jnp.float32(1e-2)
    program = jax.export.export(after_step, disabled_checks=[KNOWN_CALL])(rate)
    loaded = jax.export.deserialize(program.serialize(vjp_order=1))
    np.testing.assert_allclose(jax.grad(loaded.call)(rate), jax.grad(after_step)(rate), rtol=1e-6)
