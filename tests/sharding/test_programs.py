"""Programs around the partitioned step: loops, populations, odd layouts, export."""

import math
import re
from functools import partial
from typing import Any

import compiled as program
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nadam_xla import targets
from nadam_xla.jax import lowering, nadam, nadam_update, nadamw

ROW = np.array(
    [1, 1, 1, 0.9, 0.1, 0.999, 0.001, 1e-3, 1e-8, 0, 0, 0, 1, 9, 0, *[0] * 8],
    np.float32,
)


@pytest.fixture
def mesh() -> Any:
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype(np.float32)


def test_the_text_tells_apart_what_is_static_alone(mesh: Any) -> None:
    """JAX's persistent cache knows a program by its text, less the addresses of functions."""
    tx = nadamw(1e-3)  # whose changes are computed from the same arrays as its new parameters
    params = jax.device_put({"w": positive(8, 4)}, NamedSharding(mesh, P("x")))
    arguments = (params, tx.init(params), params)

    def calls(step: Any) -> list[str]:
        lines = jax.jit(partial(step)).lower(*arguments).as_text().splitlines()
        return [re.sub(r'"\d+"|\d{9,}', "", line) for line in lines if "CustomSPMD" in line]

    assert len(calls(tx.apply)) == 1
    assert calls(tx.apply) == calls(nadamw(1e-3).apply)
    assert calls(tx.apply) != calls(tx.update)


def test_seventy_leaves_of_mixed_layouts_in_three_calls(mesh: Any) -> None:
    specs = [P("x"), P("y", "x"), P(None, "y"), P(), P(("x", "y"))]
    layouts = [NamedSharding(mesh, specs[i % 5]) for i in range(70)]
    groups = [[positive(16, 8 * (1 + i % 3), seed=i + j) for i in range(70)] for j in range(4)]
    rows = np.stack([ROW * (1 + i / 70) for i in range(70)]).astype(np.float32)

    def update(*groups: Any) -> Any:
        return nadam_update(rows, *groups)

    placed = [[jax.device_put(x, s) for x, s in zip(g, layouts, strict=True)] for g in groups]
    step = jax.jit(update, donate_argnums=(0, 2, 3))
    text = step.lower(*placed).compile().as_text()
    assert text.count(program.CALL) == 3
    assert not program.collectives(text)
    assert program.copied_bytes(text) == 0
    results = step(*placed)
    jax.tree.map(np.testing.assert_array_equal, results, jax.jit(update)(*groups))
    for i, row in enumerate(rows):
        new_params, _, *new_states = oracle.rule(row, *(group[i] for group in groups))
        for group, expected in zip(results, (new_params, *new_states), strict=True):
            np.testing.assert_array_equal(group[i], expected)
    for group in results:
        for result, layout in zip(group, layouts, strict=True):
            assert result.sharding.is_equivalent_to(layout, 2)


def test_arguments_that_are_not_donated_stay_as_they_are_and_are_not_copied(mesh: Any) -> None:
    layout = NamedSharding(mesh, P("x", "y"))
    leaves = [jax.device_put(positive(16, 8, seed=i), layout) for i in range(4)]
    kept = [np.array(x) for x in leaves]
    step = jax.jit(lambda *leaf: nadam_update(ROW, *leaf))
    assert program.copied_bytes(step.lower(*leaves).compile().as_text()) == 0
    step(*leaves)
    jax.tree.map(np.testing.assert_array_equal, leaves, kept)


def test_rows_that_are_sharded_are_made_whole(mesh: Any) -> None:
    rows = np.stack([ROW * (1 + i) for i in range(8)])
    leaves = [[positive(8, 4, seed=i + j) for i in range(8)] for j in range(4)]
    layout = NamedSharding(mesh, P(("x", "y")))
    step = jax.jit(nadam_update)
    expected = step(rows, *leaves)
    results = step(jax.device_put(rows, layout), *jax.device_put(leaves, layout))
    jax.tree.map(np.testing.assert_array_equal, results, expected)


@pytest.mark.parametrize(
    "spec", [P("x"), P(("x", "y")), P("y", "x"), P(None, "x", "y"), P("x", None, "y")]
)
def test_a_population_is_cut_along_its_members_or_within_them(mesh: Any, spec: P) -> None:
    rates = np.linspace(0.01, 0.1, 8).astype(np.float32)

    def train(rate: jax.Array, params: Any, grads: Any) -> Any:
        tx = nadam(rate)
        return tx.apply(grads, tx.init(params), params)

    def population(seed: int) -> Any:
        return {"w": positive(8, 16, 4, seed=seed), "b": positive(8, 4, seed=seed)}

    step = jax.jit(jax.vmap(train))
    layout = {
        "w": NamedSharding(mesh, spec),
        "b": NamedSharding(mesh, P(*spec[:1])),
    }
    arguments = (
        jax.device_put(rates, NamedSharding(mesh, P(*spec[:1]))),
        jax.device_put(population(0), layout),
        jax.device_put(population(1), layout),
    )
    text = step.lower(*arguments).compile().as_text()
    assert text.count(program.CALL) == 1
    assert not program.collectives(text)
    expected = step(rates, population(0), population(1))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), step(*arguments), expected
    )


@pytest.mark.parametrize("is_population", [False, True], ids=["a leaf", "a population"])
def test_under_shard_map_over_some_axes(mesh: Any, is_population: bool) -> None:
    """The other axes have no names there, by which a table with a batch would be cut."""
    rates = np.linspace(0.01, 0.1, 8).astype(np.float32)
    params, grads = positive(8, 16, 4), positive(8, 16, 4, seed=1)

    def train(rate: jax.Array, params: jax.Array, grads: jax.Array) -> Any:
        tx = nadam(rate if is_population else 0.01)
        return tx.apply(grads, tx.init(params), params)[0]

    step = jax.vmap(train) if is_population else train
    over_some = jax.shard_map(step, mesh=mesh, in_specs=P("x"), out_specs=P("x"), axis_names={"x"})
    placed = jax.device_put((params, grads), NamedSharding(mesh, P("x", "y")))
    jitted = jax.jit(over_some)
    arguments = jax.device_put(rates, NamedSharding(mesh, P("x"))), *placed
    assert (program.CALL in jitted.lower(*arguments).compile().as_text()) == (not is_population)
    np.testing.assert_allclose(jitted(*arguments), jax.jit(step)(rates, params, grads), rtol=1e-6)


@pytest.mark.parametrize(
    ("of_rates", "of_a_leaf"), [(P("x"), P()), (P(), P("x")), (P("x"), P("x"))]
)
def test_a_population_lies_where_its_rates_or_one_of_its_leaves_do(
    mesh: Any, of_rates: P, of_a_leaf: P
) -> None:
    """Each device then updates the members that it holds, of all leaves, and asks no other."""

    def train(rate: jax.Array, leaf: jax.Array) -> Any:
        params = {"given": leaf, "made": jnp.ones((3, 4)), "another": jnp.ones(5)}
        tx = nadam(rate)
        return tx.apply(params, tx.init(params), params)[0]

    arguments = (
        jax.device_put(np.linspace(0.01, 0.1, 8), NamedSharding(mesh, of_rates)),
        jax.device_put(positive(8, 4), NamedSharding(mesh, of_a_leaf)),
    )
    compiled = jax.jit(jax.vmap(train)).lower(*arguments).compile()
    assert program.CALL in compiled.as_text()
    assert not program.collectives(compiled.as_text())
    for leaf in compiled(*arguments).values():
        assert leaf.sharding.spec[:1] == ("x",)


@pytest.mark.parametrize(
    ("a", "b", "moved"), [(P("x", "y"), P("y", "x"), None), (P(None, "y"), P("x", "y"), 3)]
)
def test_a_population_whose_leaves_are_cut_along_it_in_different_ways(
    mesh: Any, a: P, b: P, moved: int | None
) -> None:
    """A table with a batch has one cut of it, so one of the leaves must move.

    That is one which is not cut, if there is one: its results alone are then gathered.
    """
    rows = np.stack([ROW * (1 + i) for i in range(8)])
    leaves = [{"a": positive(8, 4, seed=i), "b": positive(8, 4, seed=4 + i)} for i in range(4)]
    cut = {"a": NamedSharding(mesh, a), "b": NamedSharding(mesh, b)}

    def update(rows: Any, *groups: Any) -> Any:
        groups = [jax.lax.with_sharding_constraint(g, cut) for g in groups]
        return jax.lax.with_sharding_constraint(jax.vmap(nadam_update)(rows, *groups), (cut,) * 3)

    arguments = rows, *jax.device_put(leaves, [cut] * 4)
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.jit(update)(*arguments),
        jax.vmap(nadam_update)(rows, *leaves),
    )
    if moved is not None:
        text = jax.jit(update).lower(*arguments).compile().as_text()
        of_a_device = math.prod(cut["a"].shard_shape((8, 4))) * 4  # bytes
        assert {kind: size for kind, (_, size) in program.collectives(text).items()} == {
            "all-gather": moved * of_a_device
        }


def test_leaves_cut_unevenly_within_the_program(mesh: Any) -> None:
    """Arguments must divide; values within a program need not, and are padded."""
    cut = NamedSharding(mesh, P("x", "y"))
    tx = {"ours": nadam(1e-2), "stock": optax.nadam(1e-2)}
    params, grads = positive(7, 5), positive(7, 5, seed=1)
    texts, results = {}, {}
    for name, optimizer in tx.items():

        def train(params: Any, grads: Any, optimizer: Any = optimizer) -> Any:
            params, grads = (jax.lax.with_sharding_constraint(x, cut) for x in (params, grads))
            state = optimizer.init(params)
            for _ in range(3):
                updates, state = optimizer.update(grads, state, params)
                params = jax.lax.with_sharding_constraint(params + updates, cut)
            return params

        jitted = jax.jit(train, out_shardings=NamedSharding(mesh, P()))
        arguments = jax.device_put((params, grads), NamedSharding(mesh, P()))
        texts[name] = jitted.lower(*arguments).compile().as_text()
        results[name] = jitted(*arguments)
    assert "f32[2,3]" in texts["ours"], "the shard of a padded leaf"
    assert program.collectives(texts["ours"]) == program.collectives(texts["stock"])
    np.testing.assert_allclose(results["ours"], results["stock"], rtol=1e-5)


def test_a_loop_stays_in_place_and_gradients_held_whole_leave_the_moments_cut(mesh: Any) -> None:
    whole, cut = NamedSharding(mesh, P()), NamedSharding(mesh, P("x"))
    tx = nadam(1e-2)

    def train(params: Any, state: Any, grads: Any) -> Any:
        def step(_: int, carry: Any) -> Any:
            held = jax.lax.with_sharding_constraint(grads, whole)
            return tx.apply(held, carry[1], carry[0])

        return jax.lax.fori_loop(0, 5, step, (params, state))

    params = jax.device_put(positive(64, 32), whole)
    state = tx.init(params)
    state = state._replace(mu=jax.device_put(state.mu, cut), nu=jax.device_put(state.nu, cut))
    results = jax.jit(train)(params, state, params)
    for moment in (results[1].mu, results[1].nu):
        assert moment.sharding.is_equivalent_to(cut, 2)
    expected = jax.jit(train)(positive(64, 32), tx.init(positive(64, 32)), positive(64, 32))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), results, expected)


def test_under_shard_map_a_program_for_gpus_calls_the_kernel_on_each_shard(mesh: Any) -> None:
    """Exported here, where there is no GPU, for eight of them."""
    leaf = jax.ShapeDtypeStruct((16, 8), np.float32, sharding=NamedSharding(mesh, P("x", "y")))

    @partial(jax.jit, donate_argnums=(0, 2, 3))
    @partial(jax.shard_map, mesh=mesh, in_specs=P("x", "y"), out_specs=P("x", "y"))
    def step(*leaf: Any) -> Any:
        return nadam_update(ROW, *leaf)

    known = jax.export.DisabledSafetyCheck.custom_call(targets.UPDATE)
    exported = jax.export.export(step, platforms=["cuda"], disabled_checks=[known])(*[leaf] * 4)
    assert exported.nr_devices == 8
    (call,) = re.findall(rf"custom_call @{targets.UPDATE}.*", exported.mlir_module())
    assert call.count("output_operand_alias<") == 3
    operands, results = re.findall(r"\(((?:tensor<[^>]*>(?:, )?)+)\)", call)
    assert operands.split(", ") == [f"tensor<1x1x{ROW.size}xf32>", *["tensor<4x4xf32>"] * 4]
    assert results.split(", ") == ["tensor<4x4xf32>"] * 3


@pytest.mark.parametrize("platforms", [("cpu",), ("tpu", "cpu")])
def test_an_exported_program_for_several_devices_runs(
    mesh: Any, platforms: tuple[str, ...]
) -> None:
    """It is plain StableHLO: the partitioner's functions would stay behind in this process."""
    cut = NamedSharding(mesh, P("x", "y"))
    leaves = [jax.device_put(positive(16, 8, seed=i), cut) for i in range(4)]
    step = jax.jit(lambda *leaf: nadam_update(ROW, *leaf))
    exported = jax.export.export(step, platforms=platforms)(*leaves)
    assert exported.nr_devices == 8
    assert "custom_call" not in exported.mlir_module()
    results = jax.jit(jax.export.deserialize(exported.serialize()).call)(*leaves)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), list(results), list(step(*leaves))
    )


@pytest.mark.xfail(
    raises=ValueError,
    strict=True,
    reason="custom_partitioning needs devices, and JAX decides that before it knows the platform",
)
def test_a_mesh_without_devices() -> None:
    mesh = AbstractMesh((8,), ("x",), axis_types=(AxisType.Auto,))
    leaf = jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=NamedSharding(mesh, P("x")))
    step = jax.jit(lambda *leaf: nadam_update(ROW, *leaf))
    step.trace(leaf, leaf, leaf, leaf).lower(lowering_platforms=("tpu",))


def test_without_shardy_it_is_plain_stablehlo(mesh: Any) -> None:
    cut = NamedSharding(mesh, P("x", "y"))
    leaves = [jax.device_put(positive(16, 8, seed=i), cut) for i in range(4)]
    expected = nadam_update(ROW, *leaves)
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        step = jax.jit(lambda *leaf: nadam_update(ROW, *leaf))
        text = step.lower(*leaves).compile().as_text()
        results = step(*leaves)
    finally:
        jax.config.update("jax_use_shardy_partitioner", True)
    assert program.CALL not in text
    assert not program.collectives(text)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), results, expected)


def test_a_jax_without_the_one_private_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("jax._src.dispatch.prim_requires_devices_during_lowering")
    with pytest.raises(ImportError, match=r"cannot be partitioned by JAX .* tested with 0.8.2"):
        lowering.install()
