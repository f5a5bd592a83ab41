"""Steps that touch some rows of a table: what they compute, and that they cost no more."""

from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import aliased_results, copies_of_arrays, text_of
from jax.experimental import sparse
from x64 import enable_x64

from nadam_xla.jax import (
    RowGradient,
    apply_updates,
    chain,
    fuse_updates,
    nadam,
    nadam_update,
    nadamw,
    scale_by_nadam,
)

TARGET = "nadam_xla_update_rows_v1"
CALL = f'custom_call_target="{TARGET}"'
HEIGHT, COLUMNS = 11, 6
assert_same = partial(jax.tree.map, np.testing.assert_array_equal)


def assert_close(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    def close(x: Any, y: Any) -> None:
        wide = (np.asarray(z, np.float64) for z in (x, y))
        is_whole = jnp.issubdtype(jnp.result_type(x), jnp.integer)
        np.testing.assert_allclose(*wide, rtol=rtol, atol=1 if is_whole else atol)

    jax.tree.map(close, a, b)


def normal(seed: int, *shape: int, dtype: Any = "float32") -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def some_rows(seed: int, touched: int = 20, height: int = HEIGHT, **kwargs: Any) -> RowGradient:
    """In no order, most of them twice, and some outside of the table."""
    indices = np.random.default_rng(seed).integers(-2, height + 2, touched)
    return RowGradient(jnp.asarray(indices), normal(seed + 1, touched, COLUMNS, **kwargs))


def every_row(seed: int, *shape: int, dtype: Any = "float32") -> tuple[RowGradient, jax.Array]:
    """Each once, and the gradient of the whole table."""
    dense = normal(seed, *shape, dtype=dtype)
    order = np.random.default_rng(seed).permutation(shape[0])
    return RowGradient(jnp.asarray(order), dense[order]), dense


def scattered(rows: RowGradient, like: jax.Array) -> jax.Array:
    """The gradient of the whole table, of rows that are in it."""
    dense = np.zeros(like.shape, np.float64)
    for index, value in zip(np.asarray(rows.indices), np.asarray(rows.values), strict=True):
        if 0 <= index < like.shape[0]:
            dense[index] += value
    return jnp.asarray(dense, like.dtype)


def apply(tx: Any) -> Any:
    return jax.jit(tx.apply)


def update(tx: Any) -> Any:
    """The protocol of optax."""

    @jax.jit
    def step(grads: Any, state: Any, params: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return apply_updates(params, updates), state

    return step


STEPS = {"apply": apply, "update": update}

CHOICES = {
    "nadamw": (nadamw(1e-2, weight_decay=0.1, momentum_decay=0.004), "float32"),
    "limits": (nadam(1e-2, l2=0.1, clip_value=0.3), "float32"),
    "bfloat16": (nadam(1e-2, mu_dtype="bfloat16", nu_dtype="float16"), "bfloat16"),
    "stochastic": (
        nadam(1e-2, rounding="stochastic", nu_dtype="bfloat16", seed=3),
        "bfloat16",
    ),
    "master": (nadam(1e-2, master="float32"), "float16"),
    "remainder": (nadam(1e-2, master="remainder", rounding="stochastic"), "bfloat16"),
    "correction": (nadam(1e-2, master="correction", rounding="stochastic"), "bfloat16"),
}


class TestRule:
    @pytest.mark.parametrize("way", STEPS)
    def test_it_is_nadam_of_the_rows_that_are_touched(self, way: str) -> None:
        """In float64: moments and decay of a row move when it is touched, the schedule always."""
        rate, b1, b2, eps, decay = 0.1, 0.8, 0.95, 1e-3, 0.3
        step = STEPS[way](nadamw(rate, b1, b2, eps, weight_decay=decay))
        table = normal(0, HEIGHT, COLUMNS)
        p = np.asarray(table, np.float64)
        m, v = np.zeros_like(p), np.zeros_like(p)
        params, state = table, nadamw(rate).init(table)
        for t in range(1, 5):
            grads = some_rows(t)
            before = params, state
            params, state = step(grads, state, params)
            g = np.asarray(scattered(grads, p))
            indices = np.asarray(grads.indices)
            touched = np.isin(np.arange(HEIGHT), indices)
            assert 0 < touched.sum() < HEIGHT
            m[touched] = b1 * m[touched] + (1 - b1) * g[touched]
            v[touched] = b2 * v[touched] + (1 - b2) * g[touched] ** 2
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
            change = rate * (m_hat / (np.sqrt(v / (1 - b2**t)) + eps) + decay * p)
            p[touched] -= change[touched]
            assert_close((params, state.mu, state.nu), (p, m, v))
            assert state.count == t
            rest = [
                (x[~touched] for x in (new, s.mu, s.nu)) for new, s in (before, (params, state))
            ]
            assert_same(*map(tuple, rest))

    @pytest.mark.parametrize("choice", CHOICES)
    def test_every_row_touched_once_has_the_bits_of_the_dense_step(self, choice: str) -> None:
        """The leaf beside it has them, too, and its own random numbers."""
        tx, dtype = CHOICES[choice]
        rows, dense = every_row(0, HEIGHT, COLUMNS)
        params = {"a": normal(1, 5, dtype=dtype), "table": normal(2, HEIGHT, COLUMNS, dtype=dtype)}
        beside = normal(3, 5)
        sparse_step = dense_step = params, tx.init(params)
        step = apply(tx)
        for _ in range(2):
            params, state = dense_step
            dense_step = step({"a": beside, "table": dense}, state, params)
            params, state = sparse_step
            sparse_step = step({"a": beside, "table": rows}, state, params)
        assert_same(sparse_step, dense_step)

    @pytest.mark.parametrize("shape", [(7,), (7, 3), (5, 2, 3), (3, 2, 2, 5)])
    def test_tables_of_any_rank(self, shape: tuple[int, ...]) -> None:
        rows, dense = every_row(0, *shape)
        params, tx = normal(1, *shape), nadam(1e-2)
        state = tx.init(params)
        expected = apply(tx)(dense, state, params)
        assert_same(apply(tx)(rows, state, params), expected)
        assert_close(update(tx)(rows, state, params), expected)

    def test_rows_are_summed_in_float32_and_in_order(self) -> None:
        tx, params = nadam(1e-2), normal(0, 3, 4)
        values = normal(1, 40, 4, dtype="bfloat16")
        total = np.zeros(4, np.float32)
        for value in np.asarray(values, np.float32):
            total += value
        once = RowGradient(jnp.array([1]), jnp.asarray(total)[None])
        many = RowGradient(jnp.full(40, 1), values)
        state = tx.init(params)
        assert_same(apply(tx)(many, state, params), apply(tx)(once, state, params))

    def test_rows_of_a_dtype_that_no_kernel_reads_are_widened(self) -> None:
        tx, params = nadam(1e-2), normal(0, HEIGHT, COLUMNS)
        given = some_rows(1)
        narrow = RowGradient(given.indices, given.values.astype("float8_e5m2"))
        wide = RowGradient(given.indices, narrow.values.astype("float32"))
        assert_same(
            apply(tx)(narrow, tx.init(params), params), apply(tx)(wide, tx.init(params), params)
        )

    @pytest.mark.parametrize("way", STEPS)
    @pytest.mark.parametrize("indices", [[], [-1, HEIGHT, -HEIGHT, 2**31 - 1, -(2**31)]])
    def test_what_touches_no_row_changes_nothing(self, way: str, indices: list[int]) -> None:
        tx, params = nadamw(1e-2), normal(0, HEIGHT, COLUMNS)
        grads = RowGradient(jnp.array(indices, jnp.int32), jnp.full((len(indices), COLUMNS), 9.0))
        new, state = STEPS[way](tx)(grads, tx.init(params), params)
        assert_same((new, state.mu, state.nu), (params, tx.init(params).mu, tx.init(params).nu))
        assert state.count == 1

    @pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
    def test_a_table_with_nothing_in_it(self, shape: tuple[int, int]) -> None:
        tx, params = nadam(1e-2), jnp.zeros(shape)
        grads = RowGradient(jnp.array([0, 1]), jnp.zeros((2, *shape[1:])))
        for step in (apply(tx), update(tx)):
            new, _ = step(grads, tx.init(params), params)
            assert new.shape == shape

    @pytest.mark.parametrize("index_dtype", ["int32", "int64"])
    def test_float64_with_either_dtype_of_indices(self, index_dtype: str) -> None:
        with enable_x64(True):
            tx = nadam(1e-2)
            params = normal(0, HEIGHT, COLUMNS, dtype="float64")
            given = some_rows(1, dtype="float64")
            grads = RowGradient(given.indices.astype(index_dtype), given.values)
            state = tx.init(params)
            new, state = apply(tx)(grads, state, params)
            expected, _ = apply(tx)(scattered(grads, params), tx.init(params), params)
            assert new.dtype == state.mu.dtype == "float64"
            assert_close(new, expected, rtol=1e-13, atol=1e-13)

    def test_a_derivative_is_that_of_the_dense_step(self) -> None:
        params, rows = normal(0, HEIGHT, COLUMNS), some_rows(1)

        def total(rate: jax.Array, values: jax.Array, params: jax.Array, dense: bool) -> jax.Array:
            grads = RowGradient(rows.indices, values)
            if dense:
                at = jnp.where(rows.indices < 0, HEIGHT, rows.indices)
                grads = jnp.zeros_like(params).at[at].add(values, mode="drop")
            tx = nadam(rate, eps=1e-2)
            return jnp.sum(jnp.sin(tx.apply(grads, tx.init(params), params)[0]))

        derivative = jax.jit(jax.grad(total, argnums=(0, 1, 2)), static_argnums=3)
        arguments = jnp.float32(0.1), rows.values, params
        assert_close(derivative(*arguments, False), derivative(*arguments, True))


class TestProcessing:
    @pytest.mark.parametrize(("way", "limit"), [("apply", "max_norm"), ("update", "max_leaf_norm")])
    def test_norms_are_those_of_the_gradient_that_the_rows_stand_for(
        self, way: str, limit: str
    ) -> None:
        tx = nadam(1e-2, skip_nonfinite=True, **{limit: 0.5})
        params = {"table": normal(0, HEIGHT, COLUMNS), "dense": normal(1, 4)}
        rows = some_rows(2)
        # Outside of the table they do not count.
        rows = RowGradient(rows.indices.at[0].set(-1), rows.values.at[0].set(jnp.nan))
        whole = {"table": scattered(rows, params["table"]), "dense": normal(3, 4)}
        state = tx.init(params)
        scaled = partial(tx.apply if way == "apply" else tx.update, grad_scale=3.0)
        first, state_after = jax.jit(scaled)({**whole, "table": rows}, state, params)
        expected, expected_state = jax.jit(scaled)(whole, state, params)
        if way == "update":
            first, expected = (apply_updates(params, x) for x in (first, expected))
        touched = np.unique(rows.indices)
        touched = touched[(touched >= 0) & (touched < HEIGHT)]
        assert_close(first["dense"], expected["dense"])
        assert_close(first["table"][touched], expected["table"][touched])
        assert_close(state_after.mu, expected_state.mu)

    @pytest.mark.parametrize("way", STEPS)
    def test_a_step_of_which_a_sum_is_not_finite_is_left_out(self, way: str) -> None:
        tx, params = nadamw(1e-2, skip_nonfinite=True), normal(0, HEIGHT, COLUMNS)
        rows = RowGradient(jnp.array([2, 3, 2]), jnp.full((3, COLUMNS), 3e38))
        state = tx.init(params)
        assert_same(STEPS[way](tx)(rows, state, params), (params, state))

    def test_the_average_takes_the_whole_table(self) -> None:
        tx, params = nadam(1e-2, average_decay=0.9), normal(0, HEIGHT, COLUMNS)
        for step in (apply(tx), update(tx)):
            new, state = params, tx.init(params)
            weights = total = 0
            for t in range(3):
                new, state = step(some_rows(t), state, new)
                weights, total = 0.9 * weights + 1, 0.9 * total + np.asarray(new, np.float64)
            assert_close(state.average, total / weights)

    def test_a_mask_says_which_tables_decay(self) -> None:
        params = {"a": normal(0, HEIGHT, COLUMNS), "b": normal(0, HEIGHT, COLUMNS)}
        tx = nadamw(1e-2, weight_decay=0.5, mask={"a": True, "b": False})
        grads = dict.fromkeys(params, some_rows(1))
        new, _ = apply(tx)(grads, tx.init(params), params)
        for name, decay in [("a", 0.5), ("b", 0.0)]:
            alone = nadamw(1e-2, weight_decay=decay)
            expected, _ = apply(alone)(grads[name], alone.init(params[name]), params[name])
            assert_close(new[name], expected)


class TestChanges:
    def test_they_are_those_of_each_row_once_and_of_none_outside(self) -> None:
        tx, params = nadam(1e-2), normal(0, 5, 2)
        rows = RowGradient(jnp.array([3, 7, 1, 3, -1]), jnp.ones((5, 2)))
        updates, _ = tx.update(rows, tx.init(params))
        assert updates.indices.tolist() == [1, 3, 5, 5, 5]
        assert (updates.values[:2] < 0).all()
        assert not updates.values[2:].any()

    def test_their_addition_sums_repeated_rows_and_leaves_dense_leaves_to_optax(self) -> None:
        params = {"table": normal(0, 4, 2, dtype="bfloat16"), "dense": normal(1, 3), "none": None}
        rows = RowGradient(jnp.array([1, 1, -1, 4]), jnp.full((4, 2), 1e-3))
        changes = {"table": rows, "dense": jnp.ones(3), "none": None}
        new = apply_updates(params, changes)
        expected = params["table"].astype(jnp.float32).at[1].add(2e-3).astype(jnp.bfloat16)
        assert_same(new["table"], expected)
        assert_same(new["dense"], params["dense"] + 1)
        assert new["none"] is None

    @pytest.mark.parametrize("choice", ["bfloat16", "stochastic", "master", "remainder"])
    def test_added_they_are_what_is_to_be_stored(self, choice: str) -> None:
        tx, dtype = CHOICES[choice]
        params = normal(0, HEIGHT, COLUMNS, dtype=dtype)
        state = tx.init(params)
        new, after = update(tx)(some_rows(1), state, params)
        expected, expected_after = apply(tx)(some_rows(1), state, params)
        assert new.dtype == expected.dtype
        assert_close(new, expected, rtol=1e-2)
        assert_close(after.nu, expected_after.nu, rtol=1e-2)

    def test_the_bare_direction_is_scaled_by_hand(self) -> None:
        params, tx = normal(0, HEIGHT, COLUMNS), scale_by_nadam()
        direction, _ = tx.update(some_rows(1), tx.init(params))
        scaled = RowGradient(direction.indices, -1e-2 * direction.values)
        expected, _ = apply(nadam(1e-2))(some_rows(1), nadam(1e-2).init(params), params)
        assert_close(apply_updates(params, scaled), expected)
        scaled, _ = optax.scale(-1e-2).update(direction, optax.EmptyState())
        with pytest.raises(
            TypeError, match=r"updates.indices is float32\[20\]; it must be of int32"
        ):
            apply_updates(params, scaled)

    def test_injected_hyperparameters_stay_numbers(self) -> None:
        tx = optax.inject_hyperparams(nadam)(learning_rate=1e-2)
        params = normal(0, HEIGHT, COLUMNS)
        new, _ = update(tx)(some_rows(1), tx.init(params), params)
        plain = nadam(1e-2)
        expected, _ = update(plain)(some_rows(1), plain.init(params), params)
        assert_close(new, expected)

    def test_fuse_updates_leaves_them_as_they_are(self) -> None:
        tx = nadam(1e-2)
        params = {"table": normal(0, HEIGHT, COLUMNS), "dense": normal(1, 3)}
        grads = {"table": some_rows(1), "dense": normal(2, 3)}
        state = tx.init(params)
        step = update(tx)
        assert_close(jax.jit(fuse_updates(step))(grads, state, params), step(grads, state, params))


class TestBatches:
    rates = jnp.array([1e-3, 1e-2, 1e-1])

    def step(self, rate: Any, params: Any, state: Any, grads: Any) -> Any:
        return nadam(rate).apply(grads, state, params)

    @pytest.mark.parametrize("axes", [(0, 0, 0, 0), (0, None, None, None), (None, 0, 0, 0)])
    def test_it_is_one_call_and_equals_a_loop(self, axes: tuple[int | None, ...]) -> None:
        many = [normal(seed, HEIGHT, COLUMNS) for seed in range(3)]
        params = jnp.stack(many) if axes[1] == 0 else many[0]
        state = nadam(1.0).init(params)
        if axes[1] == 0:
            state = state._replace(count=jnp.zeros(3, jnp.int32))
        several = [some_rows(seed) for seed in range(3)]
        grads = jax.tree.map(lambda *x: jnp.stack(x), *several) if axes[3] == 0 else several[0]
        rate = self.rates if axes[0] == 0 else self.rates[1]
        arguments = (rate, params, state, grads)
        batched = jax.jit(jax.vmap(self.step, in_axes=axes))
        assert batched.lower(*arguments).compile().as_text().count(CALL) == 1
        one = jax.jit(self.step)

        def member(i: int) -> Any:
            pairs = zip(arguments, axes, strict=True)
            own = [x if a is None else jax.tree.map(lambda y: y[i], x) for x, a in pairs]
            return one(*own)

        loop = [member(i) for i in range(3)]
        assert_close(batched(*arguments), jax.tree.map(lambda *x: jnp.stack(x), *loop), 1e-6, 1e-7)

    @pytest.mark.parametrize("sizes", [(2, 3), (1, 3), (3, 1), (1, 1)])
    def test_nested_and_of_one(self, sizes: tuple[int, int]) -> None:
        rates = jnp.linspace(1e-3, 1e-1, sizes[0] * sizes[1]).reshape(sizes)
        params, grads = normal(0, HEIGHT, COLUMNS), some_rows(1)
        state = nadam(1.0).init(params)
        step = jax.vmap(jax.vmap(self.step, (0, None, None, None)), (0, None, None, None))
        new, _ = jax.jit(step)(rates, params, state, grads)
        for i, j in np.ndindex(sizes):
            expected, _ = jax.jit(self.step)(rates[i, j], params, state, grads)
            assert_close(new[i, j], expected, 1e-6, 1e-7)

    def test_each_member_has_the_random_numbers_that_it_would_have_alone(self) -> None:
        tx = nadam(1e-2, rounding="stochastic")
        params = normal(0, HEIGHT, COLUMNS, dtype="bfloat16")
        state = tx.init(params)
        several = [some_rows(seed) for seed in range(2)]
        grads = jax.tree.map(lambda *x: jnp.stack(x), *several)
        many = jax.jit(jax.vmap(tx.apply, in_axes=(0, None, None)))(grads, state, params)
        alone = [apply(tx)(one, state, params) for one in several]
        assert_same(many, jax.tree.map(lambda *x: jnp.stack(x), *alone))


class TestPrograms:
    def test_a_donated_step_writes_the_rows_and_nothing_else(self) -> None:
        tx, params = nadamw(1e-2), jnp.ones((2000, 32))
        grads = RowGradient(jnp.arange(8), jnp.ones((8, 32)))
        step = jax.jit(lambda p, s, g: tx.apply(g, s, p), donate_argnums=(0, 1))
        state = tx.init(params)
        compiled = step.lower(params, state, grads).compile()
        text = compiled.as_text()
        assert text.count(CALL) == 1
        assert copies_of_arrays(text) == 0
        assert len(aliased_results(text)) >= 3
        assert compiled.memory_analysis().temp_size_in_bytes < 8192
        before = [x.unsafe_buffer_pointer() for x in (params, state.mu, state.nu)]
        params, state = step(params, state, grads)
        assert [x.unsafe_buffer_pointer() for x in (params, state.mu, state.nu)] == before

    @pytest.mark.parametrize("limited", [False, True])
    def test_changes_cost_nothing_of_the_size_of_the_table(self, limited: bool) -> None:
        tx = nadamw(1e-2, max_norm=1.0) if limited else nadamw(1e-2)
        params = jnp.ones((2000, 32))
        grads = RowGradient(jnp.arange(8), jnp.ones((8, 32)))

        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = tx.update(grads, state, params)
            return apply_updates(params, updates), state

        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, tx.init(params), grads)
        assert compiled.compile().memory_analysis().temp_size_in_bytes < 32 * 1024

    def test_other_rows_and_numbers_compile_nothing_anew(self) -> None:
        params = normal(0, HEIGHT, COLUMNS)

        @jax.jit
        def step(rate: jax.Array, params: Any, state: Any, grads: Any) -> Any:
            return nadam(rate).apply(grads, state, params)

        state = nadam(1.0).init(params)
        for seed in range(3):
            params, state = step(jnp.float32(0.1 / (1 + seed)), params, state, some_rows(seed))
        assert step._cache_size() == 1

    def test_on_a_gpu_the_rows_are_sorted_before_the_call(self) -> None:
        params, tx = normal(0, HEIGHT, COLUMNS), nadam(1e-2)
        arguments = some_rows(1), tx.init(params), params
        module = jax.export.export(
            jax.jit(tx.apply),
            platforms=("cuda",),
            disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(TARGET)],
        )(*arguments).mlir_module()
        (call,) = (line for line in module.splitlines() if f"@{TARGET}" in line)
        assert "is_stable = true" in module
        assert "tensor<20xi32>) -> (tensor<11x6xf32>, tensor<11x6xf32>, tensor<11x6xf32>)" in call
        assert call.count("output_operand_alias<") == 3

    @pytest.mark.parametrize("platforms", [("cpu",), ("tpu", "cuda", "cpu")])
    def test_an_exported_program_keeps_the_gradient_and_leaves_its_length_open(
        self, platforms: tuple[str, ...]
    ) -> None:
        params, tx = normal(0, HEIGHT, COLUMNS), nadam(1e-2)
        state = tx.init(params)
        (touched,) = jax.export.symbolic_shape("touched")
        grads = RowGradient(
            jax.ShapeDtypeStruct((touched,), jnp.int32),
            jax.ShapeDtypeStruct((touched, COLUMNS), jnp.float32),
        )
        program = jax.export.export(
            jax.jit(tx.apply),
            platforms=platforms,
            disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(TARGET)],
        )(grads, state, params)
        loaded = jax.export.deserialize(program.serialize())
        for touched in (1, 20):
            rows = some_rows(1, touched)
            assert_close(loaded.call(rows, state, params), apply(tx)(rows, state, params))


@pytest.mark.parametrize("choice", ["nadamw", "remainder"])
def test_without_a_kernel_it_is_what_the_kernel_gives(
    choice: str, request: pytest.FixtureRequest
) -> None:
    tx, dtype = CHOICES[choice]
    params = normal(0, HEIGHT, COLUMNS, dtype=dtype)
    arguments = some_rows(1, dtype="bfloat16"), tx.init(params), params
    expected = apply(tx)(*arguments)
    batched = jax.vmap(tx.apply, in_axes=(None, None, 0))
    expected_batch = jax.jit(batched)(*arguments[:2], jnp.stack([params, 2 * params]))
    request.getfixturevalue("no_kernels")
    assert CALL not in text_of(apply(tx), *arguments)
    new = apply(tx)(*arguments)
    assert_close(new, expected)
    untouched = np.isin(np.arange(HEIGHT), arguments[0].indices, invert=True)
    assert untouched.any()
    assert_same(new[0][untouched], params[untouched])
    new_batch = jax.jit(batched)(*arguments[:2], jnp.stack([params, 2 * params]))
    assert_close(new_batch, expected_batch)


class TestSparseArrays:
    def test_one_of_rows_is_a_gradient_of_rows(self) -> None:
        params, tx = normal(0, HEIGHT, COLUMNS), nadam(1e-2)
        rows = some_rows(1)
        array = sparse.BCOO((rows.values, rows.indices[:, None]), shape=params.shape)
        state = tx.init(params)
        given = of("table", state, params)
        assert_same(apply(tx)({"table": array}, *given), apply(tx)({"table": rows}, *given))

    def test_another_is_refused(self) -> None:
        params, tx = normal(0, HEIGHT, COLUMNS), nadam(1e-2)
        array = sparse.BCOO.fromdense(params)
        with pytest.raises(TypeError, match=r"grads is a BCOO with n_batch=0, n_sparse=2"):
            tx.apply(array, tx.init(params), params)


def of(name: str, state: Any, params: Any) -> tuple[Any, Any]:
    """The state and the parameters of a tree with this one leaf."""
    return state._replace(mu={name: state.mu}, nu={name: state.nu}), {name: params}


INDICES, VALUES = jnp.arange(3), jnp.ones((3, COLUMNS))


class TestRefusals:
    @pytest.mark.parametrize(
        ("rows", "error", "message"),
        [
            (RowGradient(INDICES.astype(float), VALUES), TypeError, r"indices is float32\[3\]; it"),
            (RowGradient(INDICES.astype("uint8"), VALUES), TypeError, r"must be of int32 or int64"),
            (RowGradient(INDICES[None], VALUES), ValueError, r"indices has the shape \(1, 3\)"),
            (RowGradient(INDICES, VALUES[:2]), ValueError, r"must be \(3, 6\): a row of params"),
            (RowGradient(INDICES, VALUES[:, :5]), ValueError, r"values has the shape \(3, 5\)"),
            (RowGradient(INDICES, VALUES.astype(int)), TypeError, r"values is int32\[3,6\]; it"),
            (RowGradient(INDICES, None), TypeError, r"values is None; it must be an array"),
            (RowGradient([0, 1, 2], VALUES), TypeError, r"indices is a list; it must be an array"),
        ],
    )
    def test_a_gradient_that_does_not_fit(
        self, rows: RowGradient, error: type[Exception], message: str
    ) -> None:
        params = {"embed": {"table": normal(0, HEIGHT, COLUMNS)}}
        tx = nadam(1e-2)
        with pytest.raises(
            error, match=rf"grads\['embed'\]\['table'\]\.\w+ .*|{message}"
        ) as caught:
            tx.apply({"embed": {"table": rows}}, tx.init(params), params)
        assert "grads['embed']['table']" in str(caught.value)
        caught.match(message)

    def test_a_parameter_that_has_no_rows(self) -> None:
        tx, params = nadam(1e-2), jnp.float32(1)
        with pytest.raises(ValueError, match=r"params has the shape \(\); a RowGradient"):
            tx.apply(RowGradient(INDICES, jnp.ones(3)), tx.init(params), params)

    def test_complex_parameters(self) -> None:
        tx, params = nadam(1e-2), jnp.ones((HEIGHT, COLUMNS), "complex64")
        with pytest.raises(
            TypeError, match=r"params is complex64\[11,6\]; a RowGradient is one of"
        ):
            tx.apply(RowGradient(INDICES, VALUES), tx.init(params), params)

    @pytest.mark.parametrize("moment", ["mu", "nu"])
    def test_moments_in_codes(self, moment: str) -> None:
        tx, params = nadam(1e-2, **{f"{moment}_dtype": "blockwise8"}), jnp.ones((64, 64))
        rows = RowGradient(INDICES, jnp.ones((3, 64)))
        with pytest.raises(TypeError, match=rf"state.{moment} is in codes of eight .*blockwise8"):
            tx.update(rows, tx.init(params), params)

    def test_another_structure(self) -> None:
        tx, params = nadam(1e-2), {"a": normal(0, HEIGHT, COLUMNS)}
        with pytest.raises(ValueError, match=r"grads .*has no \['a'\]|grads has"):
            tx.apply({"b": RowGradient(INDICES, VALUES)}, tx.init(params), params)

    def test_a_chain_that_would_take_indices_for_gradients(self) -> None:
        tx, params = chain(optax.clip(1.0), nadam(1e-2)), normal(0, HEIGHT, COLUMNS)
        with pytest.raises(TypeError, match=r"grads is a nadam_xla RowGradient, of which the tr"):
            tx.apply(RowGradient(INDICES, VALUES), tx.init(params), params)
        with pytest.raises(TypeError, match=r"indices is float32"):
            tx.update(RowGradient(INDICES, VALUES), tx.init(params), params)


def test_the_update_by_hand_takes_rows_too() -> None:
    params = normal(0, HEIGHT, COLUMNS)
    row = np.full(23, 0.5, np.float32)
    moments = jnp.zeros_like(params), jnp.zeros_like(params)
    rows, dense = every_row(0, HEIGHT, COLUMNS)
    assert_same(
        nadam_update(row, params, rows, *moments), nadam_update(row, params, dense, *moments)
    )
    with pytest.raises(ValueError, match=r"grads\.values has the shape"):
        nadam_update(row, params, RowGradient(INDICES, VALUES[:, 1:]), *moments)
