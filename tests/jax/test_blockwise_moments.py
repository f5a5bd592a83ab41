"""Optimizers whose moments are in codes of eight bits: the state, its steps, conversions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import blockwise_oracle as oracle
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import CALL, aliased_results, copies_of_arrays, instructions, text_of
from x64 import enable_x64

from nadam_xla.jax import (
    Blockwise,
    chain,
    explain_updates,
    fuse_updates,
    nadam,
    nadamw,
    scale_by_nadam,
    state_from_keras,
    state_from_optax,
    state_from_torch,
    state_to_keras,
    state_to_optax,
    state_to_torch,
)

CODES = {"mu_dtype": "blockwise8", "nu_dtype": "blockwise8"}
CHOICES: dict[str, dict[str, Any]] = {
    "both": CODES,
    "first": {"mu_dtype": "blockwise8"},
    "second": {"nu_dtype": "blockwise8"},
    "second, first in bfloat16": {"mu_dtype": jnp.bfloat16, "nu_dtype": "blockwise8"},
}
SHAPES = {
    "embedding": (40, 300),
    "kernel": (2, 20, 256),
    "thin": (1000, 8),
    "short": (63, 64),
    "bias": (300,),
    "scale": (),
}
IN_CODES = {"embedding", "kernel"}


def tree(seed: int, dtype: Any = jnp.float32, scale: float = 1.0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(scale * rng.normal(size=s), dtype) for k, s in SHAPES.items()}


def is_blockwise(node: Any) -> bool:
    return isinstance(node, Blockwise)


def numbers(moments: Any) -> Any:
    """What the moments of a state stand for, as the oracle has it."""

    def of(node: Any) -> np.ndarray:
        if not is_blockwise(node):
            return np.asarray(node)
        return oracle.decoded(oracle.Blockwise(*map(np.asarray, node)))

    return jax.tree.map(of, moments, is_leaf=is_blockwise)


def run(tx: Any, params: Any, state: Any, ts: range, *, kind: str = "apply") -> Any:
    """The parameters and the state after steps on the gradients of these numbers."""

    @partial(jax.jit, donate_argnums=())
    def step(params: Any, state: Any, grads: Any) -> Any:
        if kind == "apply":
            return tx.apply(grads, state, params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for t in ts:
        params, state = step(params, state, tree(100 + t, params["bias"].dtype))
    assert step._cache_size() <= 1
    return params, state


def assert_same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_same_codes(found: Any, wanted: Any) -> None:
    """Of states; scales may differ in the last place, for they are decoded by a product."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)

    def one(a: Any, b: Any) -> None:
        if not is_blockwise(a):
            np.testing.assert_array_equal(a, b)
            return
        np.testing.assert_array_equal(a.codes, b.codes)
        np.testing.assert_allclose(a.scales, b.scales, rtol=2e-7)

    jax.tree.map(one, found, wanted, is_leaf=is_blockwise)


@pytest.fixture(params=CHOICES)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return CHOICES[request.param]


class TestInit:
    def test_leaves_that_are_large_enough_are_in_codes(self, options: Any) -> None:
        state = nadam(1e-2, **options).init(tree(0))
        for name, dtype in (("mu", "int8"), ("nu", "uint8")):
            chosen = options.get(f"{name}_dtype", jnp.float32)
            for leaf, moment in getattr(state, name).items():
                if chosen == "blockwise8" and leaf in IN_CODES:
                    assert moment.codes.dtype == dtype
                    assert moment.codes.shape == SHAPES[leaf]
                    assert moment.scales.dtype == jnp.float32
                    assert moment.scales.shape == (*SHAPES[leaf][:-1], -(-SHAPES[leaf][-1] // 256))
                else:
                    wanted = jnp.float32 if chosen == "blockwise8" else chosen
                    assert (moment.dtype, moment.shape) == (wanted, SHAPES[leaf])
        for leaf in jax.tree.leaves((state.mu, state.nu)):
            np.testing.assert_array_equal(np.asarray(leaf, np.float32), 0)

    def test_a_large_leaf_has_at_most_2_1_bytes_a_parameter(self) -> None:
        for shape in ((1024, 1024), (1000, 1111), (1 << 20,)):
            params = jnp.zeros(shape)
            state = nadam(1e-2, **CODES).init(params)
            stored = sum(x.nbytes for x in jax.tree.leaves((state.mu, state.nu)))
            assert stored / params.size <= 2.1

    def test_what_is_in_float64_or_complex_is_not_in_codes(self) -> None:
        with enable_x64(True):
            params = {"wide": jnp.zeros((64, 64), "float64"), "complex": jnp.zeros((64, 64), "c8")}
            state = nadam(1e-2, **CODES).init(params)
            assert state.mu["wide"].dtype == state.nu["wide"].dtype == jnp.float64
            assert state.mu["complex"].dtype == jnp.complex64
            assert state.nu["complex"].dtype == jnp.float32

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
    def test_it_can_be_evaluated_in_shape_alone(self, options: Any, dtype: Any) -> None:
        tx, params = nadam(1e-2, **options), tree(0, dtype)
        shapes, state = jax.eval_shape(tx.init, params), tx.init(params)
        assert jax.tree.structure(shapes) == jax.tree.structure(state)
        jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or 1 / 0, shapes, state)


class TestRefused:
    @pytest.mark.parametrize("name", ["mu_dtype", "nu_dtype"])
    def test_other_words(self, name: str) -> None:
        with pytest.raises(TypeError, match=f"{name} is 'blockwise4'; it must be .*blockwise8"):
            nadam(1e-2, **{name: "blockwise4"})

    @pytest.mark.parametrize("name", ["mu", "nu"])
    def test_a_state_that_is_not_in_codes(self, name: str) -> None:
        params = tree(0)
        state = nadam(1e-2).init(params)
        tx = nadam(1e-2, **{f"{name}_dtype": "blockwise8"})
        message = rf"state.{name}\['embedding'\] is float32\[40,300\], and {name}_dtype is 'blockw"
        for step in (tx.apply, tx.update):
            with pytest.raises(ValueError, match=message):
                step(params, state, params)

    @pytest.mark.parametrize("name", ["mu", "nu"])
    @pytest.mark.parametrize("chosen", [None, jnp.bfloat16])
    def test_a_state_that_is_in_codes(self, name: str, chosen: Any) -> None:
        params = tree(0)
        state = nadam(1e-2, **{f"{name}_dtype": "blockwise8"}).init(params)
        tx = nadam(1e-2, **{f"{name}_dtype": chosen})
        words = "None" if chosen is None else "bfloat16"
        message = rf"state.{name}\['embedding'\] is in codes .*, and {name}_dtype is {words}: the s"
        with pytest.raises(ValueError, match=message):
            tx.apply(params, state, params)

    def test_scales_of_another_shape(self) -> None:
        params = tree(0)
        tx = nadam(1e-2, **CODES)
        state = tx.init(params)
        short = Blockwise(state.mu["kernel"].codes, jnp.zeros((2, 20, 2)))
        state = state._replace(mu={**state.mu, "kernel": short})
        with pytest.raises(ValueError, match=r"mu\['kernel'\].scales is float32\[2,20,2\]"):
            tx.apply(params, state, params)


class TestSteps:
    def test_apply_equals_update_and_apply_updates(self, options: Any) -> None:
        tx, params = nadamw(1e-2, **options), tree(0)
        state = tx.init(params)
        a, b = (run(tx, params, state, range(3), kind=kind) for kind in ("apply", "update"))
        assert_same(a[1], b[1])
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), a[0], b[0])

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
    def test_moments_are_those_of_float32_within_their_codes(
        self, options: Any, dtype: Any
    ) -> None:
        """Of one step, whose moments were exactly in codes before: within one code of float32's."""
        params, exact = tree(0, dtype), nadam(1e-2)
        tx = nadam(1e-2, **options)
        _, state = run(tx, params, tx.init(params), range(3))
        given = state._replace(mu=numbers(state.mu), nu=numbers(state.nu))
        given = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == "bfloat16" else x, given)
        _, found = run(tx, params, state, range(3, 4))
        _, wanted = run(exact, params, given, range(3, 4))
        for leaf in IN_CODES:
            for name, relative, of_scale in (("mu", 2**-4, 1 / 3952), ("nu", 2**-3, 2.0**-31)):
                moment = getattr(found, name)[leaf]
                if not is_blockwise(moment):
                    continue
                x = np.asarray(getattr(wanted, name)[leaf])
                scales = np.repeat(np.asarray(moment.scales), 256, axis=-1)[..., : x.shape[-1]]
                error = abs(numbers(moment) - x)
                assert (error <= relative * (abs(x) + scales / 15.4375) + of_scale * scales).all()

    def test_seeds_and_steps_give_other_codes_and_the_average_is_kept(self) -> None:
        params = jnp.ones((16, 256))
        grads = jnp.asarray(np.random.default_rng(0).normal(size=params.shape), jnp.float32)

        @jax.jit
        def moments(seed: jax.Array) -> Any:
            tx = nadam(1e-2, seed=seed, **CODES)
            return tx.apply(grads, tx.init(params), params)[1].mu

        several = np.stack([numbers(moments(seed)) for seed in range(200)])
        assert_same(numbers(moments(1)), several[1])
        assert (several[0] != several[1]).mean() > 0.25  # a third, of numbers anywhere between
        error = several.mean(axis=0) - 0.1 * np.asarray(grads)
        assert abs(error).max() < 0.01 * abs(0.1 * grads).max()

    def test_a_bad_gradient_makes_its_block_nan_and_no_other(self) -> None:
        params = tree(0)
        tx = nadam(1e-2, **CODES)
        grads = tree(1)
        grads["kernel"] = grads["kernel"].at[1, 3, 7].set(jnp.nan)
        _, state = tx.apply(grads, tx.init(params), params)
        for moments in (state.mu, state.nu):
            is_nan = np.isnan(numbers(moments)["kernel"])
            assert is_nan[1, 3].all()
            assert is_nan.sum() == 256

    def test_nothing_recompiles_over_seeds_and_rates(self) -> None:
        params = tree(0)

        @jax.jit
        def step(rate: Any, seed: Any, params: Any, state: Any) -> Any:
            return nadam(rate, seed=seed, **CODES).apply(params, state, params)

        state = nadam(1e-2, **CODES).init(params)
        for seed in range(3):
            step(0.1 * seed, seed, params, state)
        assert step._cache_size() == 1

    def test_a_population_of_seeds_is_its_members(self) -> None:
        seeds = jnp.arange(3)
        params = {k: x for k, x in tree(0).items() if k in IN_CODES}

        def train(seed: jax.Array, params: Any) -> Any:
            tx = nadam(1e-2, seed=seed, **CODES)
            state = tx.init(params)
            for t in range(2):
                grads = {k: x for k, x in tree(t).items() if k in IN_CODES}
                params, state = tx.apply(grads, state, params)
            return params, state

        found = jax.jit(jax.vmap(train, in_axes=(0, None)))(seeds, params)
        for i in range(3):
            member = jax.tree.map(lambda x: x[i], found)  # noqa: B023
            assert_same(member, jax.jit(train)(seeds[i], params))

    @pytest.mark.parametrize("master", ["float32", "remainder", "correction"])
    def test_masters(self, master: str) -> None:
        options = {**CODES, "master": master, "rounding": "stochastic"}
        params = tree(0, jnp.bfloat16)
        tx = nadamw(1e-2, **options)
        a, b = (
            run(tx, params, tx.init(params), range(3), kind=kind) for kind in ("apply", "update")
        )
        assert_same(a, b)
        assert is_blockwise(a[1].mu["kernel"])

    def test_scaling_alone(self) -> None:
        params = tree(0)
        tx = optax.chain(scale_by_nadam(**CODES), optax.scale(-1e-2))
        whole = nadam(1e-2, **CODES)
        updates, _ = jax.jit(tx.update)(params, tx.init(params))
        expected, _ = jax.jit(whole.update)(params, whole.init(params))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9), updates, expected)


class TestStaleness:
    def test_a_hundred_thousand_steps_beside_float64(self) -> None:
        """Gradients grow and shrink by factors of a thousand; the nearest would stand still."""
        steps, columns, b2 = 100_000, 4096, 0.999
        rng = np.random.default_rng(0)
        own = np.exp(0.75 * rng.normal(size=columns))
        table = jnp.asarray(own * rng.normal(size=(101, columns)), jnp.float32)
        tx = nadam(0.0, b2=b2, nu_dtype="blockwise8")

        def gradients(i: jax.Array) -> jax.Array:
            size = 10.0 ** (-1.5 * jnp.cos(2 * jnp.pi * i / 20_000))
            return size.astype(jnp.float32) * table[i % 101]

        def step(carry: Any, i: jax.Array) -> Any:
            state, exact = carry
            grads = gradients(i)
            _, state = tx.apply(grads, state, params)
            square = grads.astype(jnp.float64) ** 2
            return (state, exact + (1 - b2) * (square - exact)), None

        @jax.jit
        def interval(carry: Any, first: jax.Array) -> Any:
            return jax.lax.scan(step, carry, first + jnp.arange(steps // 20))[0]

        with enable_x64(True):
            params = jnp.zeros(columns, jnp.float32)
            carry = tx.init(params), jnp.zeros(columns, jnp.float64)
            for k in range(20):
                carry = interval(carry, k * (steps // 20))
                ratio = numbers(carry[0].nu) / np.asarray(carry[1])
                assert abs(ratio.mean() - 1) < 0.03
                assert np.sqrt(ratio).min() > 0.5
                assert np.sqrt(ratio).max() < 2


def train(tx: Any, params: Any, n: int = 3) -> Any:
    return run(tx, params, tx.init(params), range(n))


class TestConversion:
    """Codes become the numbers that they stand for, and numbers the nearest codes."""

    def test_to_and_from_optax(self, options: Any) -> None:
        params = tree(0)
        _, state = train(nadam(1e-2, **options), params)
        like = optax.nadam(1e-2).init(params)
        theirs = state_to_optax(state, like)
        assert_same(theirs[0].mu, jax.tree.map(lambda x: x.astype("f4"), numbers(state.mu)))
        assert_same(theirs[0].nu, jax.tree.map(lambda x: x.astype("f4"), numbers(state.nu)))
        assert_same_codes(state_from_optax(theirs, state), state)
        shapes = jax.eval_shape(nadam(1e-2, **options).init, params)
        assert_same_codes(state_from_optax(theirs, shapes), state)

    def test_codes_of_optax_are_the_nearest(self) -> None:
        params = tree(0)
        ours = nadam(1e-2, **CODES).init(params)
        _, theirs = optax.nadam(1e-2).update(tree(1), optax.nadam(1e-2).init(params), params)
        converted = state_from_optax(theirs, ours)
        for leaf in IN_CODES:
            for name, encode in (("mu", oracle.encoded_signed), ("nu", oracle.encoded_unsigned)):
                wanted = encode(np.asarray(getattr(theirs[0], name)[leaf]))
                assert_same(tuple(getattr(converted, name)[leaf]), tuple(wanted))

    @pytest.mark.parametrize("kind", ["keras", "torch"])
    def test_to_and_from_the_others(self, kind: str) -> None:
        params = tree(0)
        tx = nadam(1e-2, momentum_decay=0.004, **CODES)
        _, state = train(tx, params)
        decoded = [numbers(moments) for moments in (state.mu, state.nu)]

        def arrange(leaves: list[Any]) -> Any:
            return dict(zip(sorted(SHAPES), leaves, strict=True))

        if kind == "keras":
            store = state_to_keras(state, learning_rate=None)
            moments = [store[str(i)] for i in range(1, 13)]
            found = arrange(moments[::2]), arrange(moments[1::2])
            back: Any = partial(state_from_keras, store, arrange)
        else:
            entries = state_to_torch(state, tensor=np.asarray)
            found = tuple(
                arrange([entries[i][name] for i in range(6)]) for name in ("exp_avg", "exp_avg_sq")
            )
            groups = [{"params": list(range(6))}]
            back = partial(state_from_torch, {"state": entries, "param_groups": groups}, arrange)
        assert_same(list(found), decoded)
        assert_same_codes(back(like=state), state)
        assert_same_codes(back(like=jax.eval_shape(tx.init, params)), state)
        assert_same([back().mu, back().nu], decoded)

    def test_refused(self) -> None:
        params = tree(0)
        state = nadam(1e-2, momentum_decay=0.004, **CODES).init(params)
        store = state_to_keras(state, learning_rate=None)
        with pytest.raises(TypeError, match="like is a dict; it must be a NadamState"):
            state_from_keras(store, like={})
        with pytest.raises(ValueError, match=r"mu.* is a list, and like.mu is a dict"):
            state_from_keras(store, like=state)


class TestInPlace:
    def test_only_the_call_touches_whole_leaves_and_no_moment_is_ever_in_float32(
        self, options: Any
    ) -> None:
        tx = nadamw(1e-2, **options)
        params = {"a": jnp.ones((64, 512), jnp.bfloat16), "b": jnp.ones((4, 1024), jnp.bfloat16)}
        state, grads = tx.init(params), jax.tree.map(jnp.ones_like, params)
        text = text_of(lambda p, s, g: tx.apply(g, s, p), params, state, grads, donate=(0, 1))
        assert text.count(CALL) == 1
        assert copies_of_arrays(text) == 0
        opcodes = {i.opcode for i in instructions(text) if i.bytes >= 4096}
        assert opcodes <= {"parameter", "custom-call", "get-tuple-element", "tuple"}
        if options == CODES:
            assert "f32[64,512]" not in text
        arrays = len(jax.tree.leaves((params, state)))
        assert aliased_results(text) == set(range(arrays))

    def test_memory_stays(self, options: Any) -> None:
        tx = nadamw(1e-2, **options)
        params = {"a": jnp.ones((64, 512)), "b": jnp.ones(100)}
        state, grads = tx.init(params), jax.tree.map(jnp.ones_like, params)
        step = jax.jit(lambda p, s, g: tx.apply(g, s, p), donate_argnums=(0, 1))

        def pointers() -> list[int]:
            return [x.unsafe_buffer_pointer() for x in jax.tree.leaves((params, state)) if x.ndim]

        before = pointers()
        for _ in range(3):
            params, state = step(params, state, grads)
        assert pointers() == before

    def test_in_a_loop(self) -> None:
        tx = nadamw(1e-2, **CODES)
        params = {"a": jnp.ones((64, 512)), "b": jnp.ones(4096)}
        grads = jax.tree.map(jnp.ones_like, params)

        def run(params: Any, state: Any, grads: Any) -> Any:
            body = lambda _, carry: tx.apply(grads, carry[1], carry[0])  # noqa: E731
            return jax.lax.fori_loop(0, 10, body, (params, state))

        text = text_of(run, params, tx.init(params), grads, donate=(0, 1))
        assert text.count(CALL) == 1
        assert copies_of_arrays(text) == 0


class TestSaving:
    def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(self, options: Any, tmp_path: Any) -> None:
        ocp = pytest.importorskip("orbax.checkpoint", reason="Orbax is tested here")
        tx = nadamw(1e-2, **options)
        params, state = train(tx, tree(0))
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "checkpoint", (params, state))
            checkpointer.wait_until_finished()
            like = tree(0), jax.eval_shape(tx.init, tree(0))
            restored = checkpointer.restore(tmp_path / "checkpoint", like)
        assert jax.tree.structure(restored) == jax.tree.structure((params, state))
        assert_same(run(tx, *restored, range(3, 6)), run(tx, params, state, range(3, 6)))

    def test_an_exported_step_is_the_step(self, options: Any) -> None:
        tx, params = nadamw(1e-2, **options), tree(0)
        state, grads = tx.init(params), tree(1)
        known = jax.export.DisabledSafetyCheck.custom_call("nadam_xla_update_v2")
        exported = jax.export.export(
            jax.jit(lambda p, s, g: tx.apply(g, s, p)), disabled_checks=[known]
        )(params, state, grads)
        loaded = jax.export.deserialize(exported.serialize())
        found = loaded.call(params, state, grads)
        assert jax.tree.structure(found[1]) == jax.tree.structure(state)
        assert_same(found, jax.jit(tx.apply)(grads, state, params))

    def test_for_a_platform_without_kernels(self) -> None:
        tx, params = nadamw(1e-2, **CODES), tree(0)
        exported = jax.export.export(jax.jit(tx.apply), platforms=["tpu"])
        assert "custom_call" not in exported(params, tx.init(params), params).mlir_module()


SURROUNDED: dict[str, Callable[[Any], Any]] = {
    "a chain": lambda tx: optax.chain(optax.clip_by_global_norm(1e6), tx),
    "ours": lambda tx: chain(optax.clip_by_global_norm(1e6), tx),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 1),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "masked": lambda tx: optax.masked(tx, True),
    "partition": lambda tx: optax.partition(
        {"all": tx}, lambda p: jax.tree.map(lambda _: "all", p)
    ),
}


class TestSurroundings:
    @pytest.mark.parametrize("name", SURROUNDED)
    def test_wrappers_of_optax(self, name: str) -> None:
        inner = nadam(1e-2, **CODES)
        tx, params = SURROUNDED[name](inner), tree(0)
        found, _ = run(tx, params, tx.init(params), range(2), kind="update")
        expected, _ = run(inner, params, inner.init(params), range(2), kind="update")
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), found, expected)

    def test_injected_hyperparameters(self) -> None:
        tx, params = optax.inject_hyperparams(nadam)(1e-2, **CODES), tree(0)
        state = tx.init(params)
        assert set(state.hyperparams).isdisjoint(CODES)
        run(tx, params, state, range(2), kind="update")

    def test_a_function_of_the_parameters_maps_codes_and_scales_or_both_as_one(self) -> None:
        params = tree(0)
        tx = nadam(1e-2, **CODES)
        state = tx.init(params)
        ones = optax.tree_utils.tree_map_params(tx, jnp.ones_like, state)
        assert_same(ones.mu, jax.tree.map(jnp.ones_like, state.mu))
        shapes = optax.tree_utils.tree_map_params(
            tx, lambda _, p: p.shape, state, params, is_leaf=is_blockwise
        )
        assert shapes.mu == shapes.nu == SHAPES

    def test_a_step_in_optax_s_protocol_is_not_fused_and_the_reason_is_named(self) -> None:
        tx, params = nadam(1e-2, **CODES), {"a": jnp.ones((64, 256))}

        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        state = tx.init(params)
        assert_same(fuse_updates(step)(params, state, params), jax.jit(step)(params, state, params))
        assert "codes of eight bits" in str(explain_updates(step)(params, state, params))

    def test_a_derivative_through_the_step_is_refused(self) -> None:
        tx, params = nadam(1e-2, **CODES), {"a": jnp.ones((64, 256))}

        def loss(params: Any) -> jax.Array:
            return jnp.sum(tx.apply(params, tx.init(params), params)[0]["a"])

        with pytest.raises(TypeError, match="no derivative where moments are in codes"):
            jax.grad(loss)(params)

    def test_flax_s_training_state(self) -> None:
        TrainState = pytest.importorskip("nadam_xla.flax.train_state").TrainState  # noqa: N806
        tx, params = nadam(1e-2, **CODES), tree(0)
        state = TrainState.create(apply_fn=None, params=params, tx=tx)
        state = jax.jit(lambda s, g: s.apply_gradients(grads=g))(state, tree(100))
        expected = run(tx, params, tx.init(params), range(1))
        assert_same((state.params, state.opt_state), expected)

    def test_flax_nnx(self) -> None:
        nnx = pytest.importorskip("flax.nnx")
        ours = pytest.importorskip("nadam_xla.flax.nnx")

        def trained(optimizer: Any, options: Any) -> np.ndarray:
            model = nnx.Linear(64, 128, rngs=nnx.Rngs(0))
            optimizer = optimizer(model, nadam(1e-2, **options), wrt=nnx.Param)

            @nnx.jit
            def step(model: Any, optimizer: Any, x: jax.Array) -> None:
                optimizer.update(model, nnx.grad(lambda m: jnp.mean(m(x) ** 2))(model))

            for i in range(3):
                step(model, optimizer, jnp.full((4, 64), i + 1.0))
            if options:
                assert is_blockwise(optimizer.opt_state.mu["kernel"].get_value())
            return np.asarray(model.kernel[...])

        exact, found = trained(ours.Optimizer, {}), trained(ours.Optimizer, CODES)
        np.testing.assert_allclose(found, exact, atol=0.01)
        assert (found != exact).any()
        with pytest.raises(ValueError, match=r"nadam_xla.flax.nnx.Optimizer keeps it"):
            trained(nnx.Optimizer, CODES)
