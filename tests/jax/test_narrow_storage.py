"""Optimizers whose arrays are narrow: the state, its steps, and every transformation of them."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import storage_oracle as stored
from compiled import CALL, aliased_results, copies_of_arrays, instructions, text_of

from nadam_xla.coefficients import Coefficients, with_random_key
from nadam_xla.jax import (
    explain_updates,
    fuse_updates,
    nadam,
    nadam_update,
    nadamw,
    scale_by_nadam,
    state_from_keras,
    state_from_optax,
    state_from_torch,
    state_to_keras,
    state_to_optax,
    state_to_torch,
)
from nadam_xla.jax.primitive import bind, reference
from nadam_xla.streams import Streams

BF16, F16, F32 = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16), jnp.dtype(jnp.float32)
SHAPES = {"kernel": (33, 5), "bias": (5,), "scale": ()}
MOMENTS = {"mu_dtype": BF16, "nu_dtype": BF16}
STOCHASTIC = {**MOMENTS, "rounding": "stochastic"}
MASTERS = ("float32", "remainder", "correction")

# What users may choose, by the dtype of their parameters.
CHOICES: dict[str, tuple[Any, dict[str, Any]]] = {
    "float32": (F32, {}),
    "float32, narrow moments": (F32, MOMENTS),
    "float32, stochastic moments": (F32, STOCHASTIC),
    "bfloat16": (BF16, {}),
    "float16": (F16, {"mu_dtype": F16, "nu_dtype": BF16}),
    "bfloat16, stochastic": (BF16, STOCHASTIC),
    "float16, stochastic": (F16, {"mu_dtype": F16, "nu_dtype": F16, "rounding": "stochastic"}),
    "bfloat16, float32": (BF16, {"master": "float32", **MOMENTS}),
    "float16, float32": (F16, {"master": "float32"}),
    "bfloat16, remainder": (BF16, {"master": "remainder", **STOCHASTIC}),
    "bfloat16, correction": (BF16, {"master": "correction", **STOCHASTIC}),
}


def tree(seed: int, dtype: Any, scale: float = 1.0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(scale * rng.normal(size=s), dtype) for k, s in SHAPES.items()}


def steps(
    tx: Any,
    params: Any,
    n: int = 3,
    *,
    dtype: Any = None,
    kind: str = "apply",
    compilations: int = 1,
) -> Any:
    """The parameters and the state after some steps."""

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        if kind == "apply":
            return tx.apply(grads, state, params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    dtype = dtype or jax.tree.leaves(params)[0].dtype
    for t in range(n):
        params, state = step(params, state, tree(10 + t, dtype))
    assert step._cache_size() <= compilations, "recompiled"
    return params, state


def assert_same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(params=CHOICES)
def choice(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any]]:
    return CHOICES[request.param]


class TestDefaults:
    def test_they_change_neither_state_nor_program(self) -> None:
        named = nadam(1e-2, nu_dtype=None, rounding="nearest", seed=0, master=None)
        params = tree(0, F32)
        state = nadam(1e-2).init(params)
        assert state.master is None
        assert_same(named.init(params), state)
        programs = [
            jax.jit(lambda p, s, g, tx=tx: tx.apply(g, s, p)).lower(params, state, params).as_text()
            for tx in (nadam(1e-2), named)
        ]
        assert programs[0] == programs[1]

    @pytest.mark.parametrize("make", [nadam, nadamw])
    def test_an_injected_state_has_no_seed(self, make: Callable[..., Any]) -> None:
        state = optax.inject_hyperparams(make)(1e-2).init(tree(0, F32))
        assert set(state.hyperparams).isdisjoint({"seed", "rounding", "nu_dtype", "master"})


class TestInit:
    def test_the_state_has_what_the_choice_needs(self, choice: Any) -> None:
        dtype, options = choice
        params = tree(0, dtype)
        state = nadam(1e-2, **options).init(params)
        for name in ("mu", "nu"):
            wanted = options.get(f"{name}_dtype", F32)
            assert {x.dtype for x in getattr(state, name).values()} == {wanted}
        kinds = {"float32": F32, "remainder": np.dtype("uint16"), "correction": np.dtype("uint8")}
        if "master" in options:
            assert {x.dtype for x in state.master.values()} == {kinds[options["master"]]}
            assert jax.tree.map(jnp.shape, state.master) == jax.tree.map(jnp.shape, params)
        else:
            assert state.master is None
        if options.get("master") == "float32":
            assert_same(state.master, jax.tree.map(lambda p: p.astype(F32), params))

    def test_parameters_that_are_wide_have_no_master(self) -> None:
        params = {"wide": jnp.ones(3), "narrow": jnp.ones(3, BF16), "complex": jnp.ones(2, "c8")}
        state = nadam(1e-2, master="remainder").init(params)
        assert state.master["wide"] is state.master["complex"] is None
        assert state.master["narrow"].dtype == jnp.uint16

    @pytest.mark.parametrize("master", ["remainder", "correction"])
    def test_float16_has_no_remainder(self, master: str) -> None:
        message = rf"params\['x'\] is float16\[3\]: a {master} completes a bfloat16.*float32"
        with pytest.raises(TypeError, match=message):
            nadam(1e-2, master=master).init({"x": jnp.ones(3, F16)})

    def test_it_can_be_evaluated_in_shape_alone(self, choice: Any) -> None:
        dtype, options = choice
        tx, params = nadam(1e-2, **options), tree(0, dtype)
        shapes, state = jax.eval_shape(tx.init, params), tx.init(params)
        assert jax.tree.structure(shapes) == jax.tree.structure(state)
        jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or 1 / 0, shapes, state)


REFUSED_ARGUMENTS = [
    ({"rounding": "up"}, ValueError, "rounding is 'up'; it must be one of nearest, stochastic"),
    ({"master": "half"}, ValueError, "master is 'half'; it must be None or one of float32, rem"),
    ({"seed": -1}, ValueError, "seed is -1; it must be a whole number from 0"),
    ({"seed": 2**32}, ValueError, r"seed is 4294967296; .* to 2\*\*32 - 1"),
    ({"seed": 1.5}, TypeError, "seed is 1.5; it must be a whole number"),
    ({"seed": True}, TypeError, "seed is True"),
    ({"seed": jnp.zeros(2, int)}, ValueError, r"seed has the shape \(2,\); it must be a scalar"),
    ({"nu_dtype": jnp.int8}, TypeError, "nu_dtype is .*; it must be a floating dtype, .* or None"),
    ({"nu_dtype": jnp.complex64}, TypeError, "nu_dtype is .*; it must be a floating dtype"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED_ARGUMENTS)
def test_arguments_that_are_refused(options: Any, error: type[Exception], message: str) -> None:
    for make in (nadam, nadamw, scale_by_nadam):
        if make is scale_by_nadam and "master" in options:
            continue
        with pytest.raises(error, match=message):
            make(1e-2, **options) if make is not scale_by_nadam else make(**options)


class TestStatesOfAnotherChoice:
    @staticmethod
    def refuse(
        made: Any, used: Any, error: type[Exception], message: str, dtype: Any = BF16
    ) -> None:
        params = tree(0, dtype)
        state = nadam(1e-2, **made).init(params)
        tx = nadam(1e-2, **used)
        for step in (tx.apply, tx.update):
            with pytest.raises(error, match=message):
                step(params, state, params)

    def test_without_masters(self) -> None:
        message = "state.master is None, and this optimizer has master='remainder': the state was"
        self.refuse({}, {"master": "remainder"}, ValueError, message)

    def test_with_masters(self) -> None:
        message = "state.master is given, and this optimizer has master=None"
        self.refuse({"master": "remainder"}, {}, ValueError, message)

    @pytest.mark.parametrize("made", MASTERS)
    @pytest.mark.parametrize("used", MASTERS)
    def test_of_another_kind(self, made: str, used: str) -> None:
        if made == used:
            return
        message = rf"state.master\['bias'\] is .*, of master='{made}', and the optimizer has mas"
        self.refuse({"master": made}, {"master": used}, TypeError, message)

    def test_of_another_second_moment(self) -> None:
        message = r"state.nu\['bias'\] is float32\[5\], and nu_dtype is bfloat16: the state was"
        self.refuse({}, {"nu_dtype": BF16}, ValueError, message, F32)

    def test_masters_that_fit_no_parameter(self) -> None:
        params = tree(0, BF16)
        tx = nadam(1e-2, master="remainder")
        state = tx.init(params)
        with pytest.raises(TypeError, match=r"state.master\['bias'\] is None; it must be the mas"):
            tx.apply(params, state._replace(master={**state.master, "bias": None}), params)
        short = {**state.master, "bias": jnp.zeros(4, jnp.uint16)}
        with pytest.raises(ValueError, match=r"state.master\['bias'\] has the shape \(4,\)"):
            tx.apply(params, state._replace(master=short), params)
        wide = {**params, "bias": jnp.ones(5)}
        with pytest.raises(TypeError, match=r"state.master\['bias'\] is uint16\[5\]; it cannot be"):
            tx.apply(wide, state, wide)

    def test_the_update_needs_parameters(self) -> None:
        params = tree(0, BF16)
        for options in ({"master": "float32"}, {"rounding": "stochastic"}):
            tx = nadam(1e-2, **options)
            with pytest.raises(ValueError, match="needs the parameters: call update"):
                tx.update(params, tx.init(params))
        tx = scale_by_nadam(rounding="stochastic", **MOMENTS)
        tx.update(params, tx.init(params))


class TestSteps:
    def test_apply_equals_update_and_apply_updates(self, choice: Any) -> None:
        """But where optax's protocol rounds the change and then the sum."""
        dtype, options = choice
        tx, params = nadamw(1e-2, **options), tree(0, dtype)
        if dtype == F32 or options.keys() & {"master", "rounding"}:
            assert_same(steps(tx, params), steps(tx, params, kind="update"))
        else:
            runs = (steps(tx, params, kind=kind)[0].values() for kind in ("apply", "update"))
            for a, b in zip(*runs, strict=True):
                np.testing.assert_allclose(a.astype(F32), b.astype(F32), atol=2e-2)

    def test_gradients_in_another_dtype(self, choice: Any) -> None:
        dtype, options = choice
        tx, params = nadam(1e-2, **options), tree(0, dtype)
        for grads in (F32, BF16, F16):
            after = steps(tx, params, dtype=grads)
            for a, b in zip(
                jax.tree.leaves(after), jax.tree.leaves((params, tx.init(params))), strict=True
            ):
                assert (a.dtype, a.shape) == (b.dtype, b.shape)

    @pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
    def test_a_float32_master_makes_the_steps_of_float32(self, dtype: Any) -> None:
        narrow = tree(0, dtype)
        wide = jax.tree.map(lambda p: p.astype(F32), narrow)
        params, state = steps(nadamw(1e-2, master="float32"), narrow, 5)
        expected, _ = steps(nadamw(1e-2), wide, 5, dtype=dtype)
        assert_same(state.master, expected)
        assert_same(params, jax.tree.map(lambda p: p.astype(dtype), expected))

    def test_a_remainder_makes_the_steps_of_float32(self) -> None:
        narrow = tree(0, BF16)
        wide = jax.tree.map(lambda p: p.astype(F32), narrow)
        params, state = steps(nadamw(1e-2, master="remainder"), narrow, 5)
        expected, _ = steps(nadamw(1e-2), wide, 5, dtype=BF16)
        for name, x in expected.items():
            found = stored.joined(np.asarray(params[name]), np.asarray(state.master[name]))
            np.testing.assert_array_equal(found, x)

    def test_seed_step_and_leaf_give_other_numbers(self) -> None:
        params = {name: jnp.full(4096, 0.8125, BF16) for name in "ab"}
        grads = {name: jnp.full(4096, 1.2265625, BF16) for name in "ab"}

        def ups(seed: int, count: int = 0, name: str = "a") -> np.ndarray:
            tx = nadam(1e-2, seed=seed, **STOCHASTIC)
            state = tx.init(params)._replace(count=jnp.int32(count))
            moment = tx.apply(grads, state, params)[1].mu[name]
            return np.asarray(moment) != np.min(np.asarray(moment))

        assert_same(ups(3), ups(3))
        for other in (ups(4), ups(3, count=1), ups(3, name="b"), ups(3 + (1 << 16))):
            assert abs(np.corrcoef(ups(3), other)[0, 1]) < 5 / np.sqrt(4096)

    def test_nothing_recompiles_over_seeds(self) -> None:
        params = tree(0, BF16)

        @jax.jit
        def step(seed: jax.Array, params: Any, state: Any) -> Any:
            return nadam(1e-2, seed=seed, **STOCHASTIC).apply(params, state, params)

        state = nadam(1e-2, **STOCHASTIC).init(params)
        found = [step(seed, params, state) for seed in (0, 1, 2**31 - 1)]
        assert step._cache_size() == 1
        assert_same(found[1], nadam(1e-2, seed=1, **STOCHASTIC).apply(params, state, params))

    def test_seventy_leaves_in_calls(self) -> None:
        params = [jnp.full(100 + i, 0.8125, BF16) for i in range(70)]
        tx = nadam(1e-2, seed=5, **STOCHASTIC)
        together, _ = jax.jit(tx.apply)(params, tx.init(params), params)
        one_by_one, _ = tx.apply(params, tx.init(params), params)
        assert_same(together, one_by_one)
        assert len({np.asarray(p)[:100].tobytes() for p in together}) == 70

    def test_moments_on_a_plateau_move_on_the_average_where_the_nearest_stay(self) -> None:
        """The second moment of bfloat16 changes by less than half its last place."""
        params = jnp.ones(4096, BF16)
        grads = jnp.full(4096, 1.0, BF16)
        averages = {}
        for rounding in ("nearest", "stochastic"):
            tx = nadam(0.0, rounding=rounding, **MOMENTS)
            state = tx.init(params)
            state = state._replace(nu=jnp.full(4096, 0.5, BF16))
            step = jax.jit(tx.apply)
            for _ in range(200):
                _, state = step(grads, state, params)
            averages[rounding] = float(jnp.mean(state.nu.astype(F32)))
        assert averages["nearest"] == 0.5
        assert abs(averages["stochastic"] - (1 - 0.5 * 0.999**200)) < 2e-3


def row_with_key(leaves: int = 1) -> Coefficients:
    row = Coefficients(1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 1.0)
    return with_random_key(row, seed=7, step=3, leaf=np.arange(leaves, dtype=np.float32))


class TestReference:
    """What XLA's own operations make of the same is what the kernel makes of it.

    The coefficients are powers of two, so that no contraction rounds otherwise.
    """

    @pytest.mark.parametrize("returns_change", [False, True])
    @pytest.mark.parametrize("is_stochastic", [False, True])
    @pytest.mark.parametrize("master", [None, "float32", "uint16", "uint8"])
    @pytest.mark.parametrize("dtype", [BF16, F16, F32], ids=str)
    def test_every_storage(
        self, dtype: Any, master: str | None, is_stochastic: bool, returns_change: bool
    ) -> None:
        if master is not None and (dtype == F32 or (dtype == F16 and master != "float32")):
            return
        rng = np.random.default_rng(0)
        streams = Streams(True, returns_change, master is not None, is_stochastic)
        leaves: list[Any] = []
        for name in streams.operands:
            for shape in ((300,), (7, 5), ()):
                x = rng.normal(size=shape) if name != "nu" else rng.uniform(size=shape)
                of = {"params": dtype, "grads": BF16, "mu": BF16, "nu": F16}.get(name, master)
                kind = jnp.dtype(of).kind
                drawn = rng.integers(0, 256, shape) if kind == "u" else x
                leaves.append(jnp.asarray(drawn, of))
        table = jnp.stack(
            jnp.broadcast_arrays(*(jnp.asarray(c, F32) for c in row_with_key(3))), axis=-1
        )[None]
        found = jax.jit(partial(bind, streams=streams))(table, *leaves)
        expected = jax.jit(partial(reference, streams=streams))(table, *leaves)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(np.asarray(a, F32), np.asarray(b, F32))


class TestBatching:
    def test_a_population_of_seeds_is_its_members(self) -> None:
        seeds = jnp.arange(4)

        def train(seed: jax.Array, params: Any) -> Any:
            tx = nadamw(1e-2, seed=seed, **STOCHASTIC)
            return tx.apply(params, tx.init(params), params)

        params = jax.tree.map(lambda p: jnp.stack([p] * 4), tree(0, BF16))
        found = jax.jit(jax.vmap(train))(seeds, params)
        for i in range(4):
            alone = jax.jit(train)(seeds[i], tree(0, BF16))
            assert_same(jax.tree.map(lambda x: x[i], found), alone)  # noqa: B023
        kernels = np.asarray(found[0]["kernel"]).reshape(4, -1)
        assert len(np.unique(kernels, axis=0)) == 4

    def test_every_choice_under_vmap(self, choice: Any) -> None:
        dtype, options = choice
        tx = nadamw(1e-2, **options)
        members = [tree(i, dtype) for i in range(3)]
        population = jax.tree.map(lambda *x: jnp.stack(x), *members)

        def train(params: Any) -> Any:
            state = tx.init(params)
            for t in range(2):
                params, state = tx.apply(tree(10 + t, dtype), state, params)
            return params, state

        found = jax.jit(jax.vmap(train))(population)
        for i, member in enumerate(members):
            assert_same(jax.tree.map(lambda x: x[i], found), jax.jit(train)(member))  # noqa: B023

    def test_vmap_of_vmap_over_other_axes(self) -> None:
        @jax.jit
        def train(seed: jax.Array, leaf: jax.Array) -> Any:
            tx = nadam(1e-2, seed=seed, **STOCHASTIC)
            return tx.apply(leaf, tx.init(leaf), leaf)[0]

        leaves = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2, 3)), BF16)
        seeds = jnp.arange(2)
        found = jax.vmap(jax.vmap(train, in_axes=(None, 1)), in_axes=(0, 1))(seeds, leaves)
        for i in range(2):
            for j in range(3):
                np.testing.assert_array_equal(found[i, j], train(seeds[i], leaves[:, i, j]))


class TestDifferentiation:
    """Through the nearest numbers; stochastic rounding as the identity."""

    @staticmethod
    def losses(options: Any, dtype: Any) -> Callable[[Any], jax.Array]:
        params, grads = tree(0, dtype)["kernel"], tree(1, dtype)["kernel"]

        def loss(rate: Any) -> jax.Array:
            tx = nadamw(rate, **options)
            state, new = tx.init(params), params
            for _ in range(2):
                new, state = tx.apply(grads, state, new)
            return jnp.sum(new.astype(F32))

        return loss

    @pytest.mark.parametrize(
        "name",
        [
            "float32, stochastic moments",
            "bfloat16",
            "bfloat16, stochastic",
            "bfloat16, float32",
            "bfloat16, correction",
        ],
    )
    def test_of_the_learning_rate(self, name: str) -> None:
        dtype, options = CHOICES[name]
        loss = self.losses(options, dtype)
        backward, forward = jax.jit(lambda rate: (jax.grad(loss)(rate), jax.jacfwd(loss)(rate)))(
            1e-2
        )
        wide = jax.jit(jax.grad(self.losses({}, F32)))(1e-2)
        np.testing.assert_allclose(backward, wide, rtol=0.05)
        np.testing.assert_allclose(forward, backward, rtol=0.02)

    def test_of_the_gradients_through_what_is_drawn(self) -> None:
        params, grads = tree(0, BF16), tree(1, BF16)

        def mu_of(options: Any) -> Callable[[Any], Any]:
            tx = nadam(1e-2, **options)
            return lambda grads: tx.apply(grads, tx.init(params), params)[1].mu

        tangents = jax.tree.map(jnp.ones_like, grads)
        drawn, nearest = (
            jax.jit(partial(jax.jvp, mu_of(options)))((grads,), (tangents,))[1]
            for options in (STOCHASTIC, MOMENTS)
        )
        assert_same(drawn, nearest)

    @pytest.mark.parametrize("master", MASTERS)
    def test_integers_have_no_derivative_and_the_rest_has_it(self, master: str) -> None:
        params = tree(0, BF16)
        tx = nadam(1e-2, master=master)
        state = tx.init(params)

        def loss(params: Any, state: Any) -> jax.Array:
            new, state = tx.apply(params, state, params)
            return jnp.sum(new["kernel"].astype(F32))

        of_params, of_state = jax.jit(jax.grad(loss, argnums=(0, 1), allow_int=True))(params, state)
        assert np.all(np.isfinite(np.asarray(of_params["kernel"], F32)))
        assert of_state.count.dtype == jax.dtypes.float0
        if master == "float32":
            # The parameter is what its master says, and so are its derivatives.
            assert np.all(np.asarray(of_state.master["kernel"]) == 1)
        else:
            assert of_state.master["kernel"].dtype == jax.dtypes.float0
            assert np.all(np.asarray(of_params["kernel"], F32) != 0)


KNOWN_CALL = jax.export.DisabledSafetyCheck.custom_call("nadam_xla_update_v2")


class TestExport:
    def test_every_choice_goes_round(self, choice: Any) -> None:
        dtype, options = choice
        tx, params = nadamw(1e-2, **options), tree(0, dtype)
        state, grads = tx.init(params), tree(1, dtype)

        def step(params: Any, state: Any, grads: Any) -> Any:
            return tx.apply(grads, state, params)

        exported = jax.export.export(jax.jit(step), disabled_checks=[KNOWN_CALL])
        loaded = jax.export.deserialize(exported(params, state, grads).serialize())
        assert_same(loaded.call(params, state, grads), jax.jit(step)(params, state, grads))

    def test_for_a_platform_without_kernels(self, choice: Any) -> None:
        dtype, options = choice
        tx, params = nadamw(1e-2, **options), tree(0, dtype)
        exported = jax.export.export(jax.jit(tx.apply), platforms=["tpu"])
        module = exported(params, tx.init(params), params).mlir_module()
        assert "custom_call" not in module

    def test_with_a_choice_of_platforms(self) -> None:
        tx, params = nadamw(1e-2, master="remainder", **STOCHASTIC), tree(0, BF16)
        state = tx.init(params)
        exported = jax.export.export(
            jax.jit(tx.apply), platforms=["cpu", "tpu"], disabled_checks=[KNOWN_CALL]
        )(params, state, params)
        assert_same(exported.call(params, state, params), jax.jit(tx.apply)(params, state, params))


class TestInPlace:
    @staticmethod
    def step_of(tx: Any, kind: str) -> Any:
        def apply(params: Any, state: Any, grads: Any) -> Any:
            return tx.apply(grads, state, params)

        def update(params: Any, state: Any, grads: Any) -> Any:
            return tx.update(grads, state, params)

        return {"apply": apply, "update": update}[kind]

    def test_only_the_call_touches_whole_leaves(self, choice: Any) -> None:
        dtype, options = choice
        tx = nadamw(1e-2, **options)
        params = {"a": jnp.ones((64, 64), dtype), "b": jnp.ones(4096, dtype)}
        state, grads = tx.init(params), jax.tree.map(jnp.ones_like, params)
        text = text_of(self.step_of(tx, "apply"), params, state, grads, donate=(0, 1))
        assert text.count(CALL) == 1
        assert copies_of_arrays(text) == 0
        smallest = min(x.nbytes for x in jax.tree.leaves((params, state)) if x.ndim)
        opcodes = {i.opcode for i in instructions(text) if i.bytes >= smallest}
        assert opcodes <= {"parameter", "custom-call", "get-tuple-element", "tuple"}
        arrays = len(jax.tree.leaves((params, state)))
        assert aliased_results(text) == set(range(arrays))

    def test_memory_stays(self, choice: Any) -> None:
        dtype, options = choice
        tx = nadamw(1e-2, **options)
        params = {"a": jnp.ones((64, 64), dtype), "b": jnp.ones(100, dtype)}
        state, grads = tx.init(params), jax.tree.map(jnp.ones_like, params)
        step = jax.jit(self.step_of(tx, "apply"), donate_argnums=(0, 1))

        def pointers(params: Any, state: Any) -> list[int]:
            return [x.unsafe_buffer_pointer() for x in jax.tree.leaves((params, state)) if x.ndim]

        before = pointers(params, state)
        for _ in range(3):
            params, state = step(params, state, grads)
        assert pointers(params, state) == before

    def test_in_a_loop(self, choice: Any) -> None:
        dtype, options = choice
        tx = nadamw(1e-2, **options)
        params = {"a": jnp.ones((64, 64), dtype), "b": jnp.ones(4096, dtype)}
        grads = jax.tree.map(jnp.ones_like, params)

        def run(params: Any, state: Any, grads: Any) -> Any:
            body = lambda _, carry: tx.apply(grads, carry[1], carry[0])  # noqa: E731
            return jax.lax.fori_loop(0, 10, body, (params, state))

        text = text_of(run, params, tx.init(params), grads, donate=(0, 1))
        assert text.count(CALL) == 1
        assert copies_of_arrays(text) == 0


class TestTrees:
    MIXED = {"wide": jnp.ones(8), "narrow": jnp.ones(8, BF16)}  # noqa: RUF012

    @pytest.mark.parametrize("master", MASTERS)
    def test_a_function_of_the_parameters_reaches_the_masters(self, master: str) -> None:
        params = tree(0, BF16)
        tx = nadam(1e-2, master=master)
        state = tx.init(params)
        doubled = optax.tree_utils.tree_map_params(tx, lambda x: jnp.zeros_like(x) + 1, state)
        for name in ("mu", "nu", "master"):
            assert_same(getattr(doubled, name), jax.tree.map(jnp.ones_like, getattr(state, name)))
        shapes = optax.tree_utils.tree_map_params(
            tx, lambda x, p: (x.shape, p.shape), state, params
        )
        assert shapes.master == {k: (s, s) for k, s in SHAPES.items()}

    def test_mixed_trees(self) -> None:
        tx = nadam(1e-2, master="remainder")
        state = tx.init(self.MIXED)
        ones = optax.tree_utils.tree_map_params(tx, lambda x: jnp.zeros_like(x) + 1, state)
        assert ones.master["wide"] is None
        assert_same(ones.master["narrow"], jnp.ones(8, jnp.uint16))
        params, state = steps_of_mixed(tx, self.MIXED)
        expected, _ = steps_of_mixed(nadam(1e-2), {"wide": self.MIXED["wide"]})
        assert_same(params["wide"], expected["wide"])

    def test_complex_parameters_beside_masters(self) -> None:
        params = {"c": jnp.ones(3, jnp.complex64), "n": jnp.ones(3, BF16)}
        tx = nadam(1e-2, master="float32", rounding="stochastic")
        new, state = tx.apply(params, tx.init(params), params)
        assert new["c"].dtype == jnp.complex64
        assert state.master["c"] is None


def steps_of_mixed(tx: Any, params: Any) -> Any:
    state = tx.init(params)
    for _ in range(3):
        params, state = jax.jit(tx.apply)(jax.tree.map(jnp.ones_like, params), state, params)
    return params, state


class TestWrappers:
    def test_a_chain(self, choice: Any) -> None:
        dtype, options = choice
        tx = optax.chain(optax.clip(0.5), nadamw(1e-2, **options))
        steps(tx, tree(0, dtype), kind="update")

    def test_multi_steps(self, choice: Any) -> None:
        dtype, options = choice
        params = tree(0, dtype)
        tx = optax.MultiSteps(nadamw(1e-2, **options), 2)
        # Optax 0.2.5 sums in another dtype than that of its zeros.
        found, _ = steps(tx, params, 4, kind="update", compilations=2)
        assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, params)

    def test_injected_hyperparameters_with_a_seed(self) -> None:
        params = tree(0, BF16)
        make = optax.inject_hyperparams(nadam, hyperparam_dtype=F32)
        tx = make(1e-2, seed=jnp.uint32(3), **STOCHASTIC)
        found, state = steps(tx, params, kind="update")
        assert state.hyperparams["seed"] == 3
        assert_same(found, steps(nadam(jnp.float32(1e-2), seed=3, **STOCHASTIC), params)[0])

    def test_a_branch(self, choice: Any) -> None:
        dtype, options = choice
        tx, params = nadamw(1e-2, **options), tree(0, dtype)
        state = tx.init(params)

        @jax.jit
        def step(go: jax.Array, params: Any, state: Any) -> Any:
            return jax.lax.cond(
                go, lambda: tx.apply(params, state, params), lambda: (params, state)
            )

        assert_same(step(True, params, state), jax.jit(tx.apply)(params, state, params))
        assert_same(step(False, params, state), (params, state))

    def test_a_scan(self, choice: Any) -> None:
        dtype, options = choice
        tx, params = nadamw(1e-2, **options), tree(0, dtype)
        grads = [tree(10 + t, dtype) for t in range(3)]
        stack = jax.tree.map(lambda *x: jnp.stack(x), *grads)

        @jax.jit
        def run(params: Any) -> Any:
            body = lambda carry, g: (tx.apply(g, carry[1], carry[0]), None)  # noqa: E731
            return jax.lax.scan(body, (params, tx.init(params)), stack)[0]

        assert_same(run(params), steps(tx, params))

    def test_apply_if_finite(self) -> None:
        """Its other branch returns zeros like the gradients, and the change is of float32."""
        params = tree(0, BF16)
        tx = optax.apply_if_finite(nadamw(1e-2, master="remainder", **STOCHASTIC), 5)
        steps(tx, params, dtype=F32, kind="update")


class TestFuseUpdates:
    @pytest.mark.parametrize(
        "name", ["bfloat16, stochastic", "bfloat16, remainder", "float16, float32"]
    )
    def test_masters_and_stochastic_rounding_stay_unfused_and_it_says_so(self, name: str) -> None:
        dtype, options = CHOICES[name]
        tx, params = nadamw(1e-2, **options), tree(0, dtype)

        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        state, grads = tx.init(params), tree(1, dtype)
        (report,) = explain_updates(step)(params, state, grads)
        assert not report.returns_params
        assert "it has master weights or rounds stochastically" in str(report)
        assert_same(
            jax.jit(fuse_updates(step))(params, state, grads), jax.jit(step)(params, state, grads)
        )

    @pytest.mark.parametrize("moments", [{}, MOMENTS], ids=["wide", "narrow"])
    def test_scanned_layers_with_narrow_moments_are_updated_in_place(self, moments: Any) -> None:
        tx = nadamw(1e-2, **moments)
        rng = np.random.default_rng(0)
        params = jnp.asarray(rng.normal(size=(6, 8, 8)), F32)
        x = jnp.asarray(rng.normal(size=(3, 8)), F32)

        def loss(params: Any) -> jax.Array:
            return jnp.mean(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params)[0] ** 2)

        def step(params: Any, state: Any) -> Any:
            return tx.apply(jax.grad(loss)(params), state, params)

        state = tx.init(params)
        text = text_of(fuse_updates(step), params, state, donate=(0, 1))
        assert text.count('custom_call_target="nadam_xla_update_entry_v1"') == 1
        stacks = [line for line in text.splitlines() if re.search(r"= \w+\[6,8,8\]", line)]
        assert not [line for line in stacks if re.search(r" (copy|convert|fusion)\(", line)]
        assert_same(jax.jit(fuse_updates(step))(params, state), jax.jit(step)(params, state))


class TestConversions:
    def test_narrow_moments_come_from_optax_and_go_back(self) -> None:
        params = tree(0, BF16)
        theirs, ours = optax.nadamw(1e-2), nadamw(1e-2, **STOCHASTIC)
        params, state = steps(theirs, params, kind="update")
        converted = state_from_optax(state, ours.init(params))
        assert {x.dtype for x in jax.tree.leaves((converted.mu, converted.nu))} == {BF16}
        ours.apply(params, converted, params)
        back = state_to_optax(converted, theirs.init(params))
        assert jax.tree.structure(back) == jax.tree.structure(state)

    def test_narrow_moments_go_to_keras_and_pytorch_and_come_back(self) -> None:
        params = tree(0, BF16)
        tx = nadam(1e-2, momentum_decay=1.0, **STOCHASTIC)
        _, state = steps(tx, params)
        arrange = lambda leaves: dict(zip(sorted(SHAPES), leaves, strict=True))  # noqa: E731
        wide = jax.tree.map(lambda x: x.astype(F32), (state.mu, state.nu))
        from_keras = state_from_keras(state_to_keras(state, learning_rate=None), arrange)
        assert_same((from_keras.mu, from_keras.nu), wide)
        theirs = state_to_torch(state, tensor=np.array)
        groups = [{"params": list(theirs)}]
        from_torch = state_from_torch({"state": theirs, "param_groups": groups}, arrange)
        assert_same((from_torch.mu, from_torch.nu), wide)

    @pytest.mark.parametrize("master", MASTERS)
    def test_masters_are_refused_on_the_way_out(self, master: str) -> None:
        """Nobody else keeps them, and what they hold would be lost."""
        params = tree(0, BF16)
        tx = nadam(1e-2, master=master)
        message = "state.master is given, and no other optimizer has such"
        with pytest.raises(ValueError, match=message):
            state_to_optax(tx.init(params), optax.nadam(1e-2).init(params))
        state = nadam(1e-2, master=master, momentum_decay=1.0).init(params)
        with pytest.raises(ValueError, match=message):
            state_to_keras(state, learning_rate=None)
        with pytest.raises(ValueError, match=message):
            state_to_torch(state, tensor=np.array)

    @pytest.mark.parametrize("master", MASTERS)
    def test_a_run_of_optax_goes_on_with_masters_of_its_parameters(self, master: str) -> None:
        params = tree(0, BF16)
        theirs, ours = optax.nadamw(1e-2), nadamw(1e-2, master=master)
        params, state = steps(theirs, params, kind="update")
        with pytest.raises(ValueError, match=r"like.master is given, and optax's states hold"):
            state_from_optax(state, ours.init(params))
        converted = state_from_optax(state, nadamw(1e-2).init(params))
        ours.apply(params, converted._replace(master=ours.init(params).master), params)


def test_nadam_update_has_masters_for_some_leaves() -> None:
    params = {"wide": jnp.ones(8), "narrow": jnp.ones(8, BF16)}
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape), params)
    master = {"wide": None, "narrow": jnp.zeros(8, jnp.uint16)}
    new, mu, nu, masters = nadam_update(
        row_with_key(2), params, params, zeros, zeros, master=master, rounding="stochastic"
    )
    assert masters["wide"] is None
    assert masters["narrow"].dtype == jnp.uint16
    with pytest.raises(TypeError, match=r"master\['wide'\] is uint16\[8\]; it cannot be the mas"):
        nadam_update(
            row_with_key(2),
            params,
            params,
            zeros,
            zeros,
            master={"wide": master["narrow"], "narrow": master["narrow"]},
        )
    with pytest.raises(ValueError, match="rounding is 'down'"):
        nadam_update(row_with_key(2), params, params, zeros, zeros, rounding="down")
    del mu, nu, new
