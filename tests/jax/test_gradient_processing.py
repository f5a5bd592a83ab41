"""Gradients scaled, limited and judged in the row: against optax's chains, which are the judges."""

import re
from collections.abc import Callable
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from any_float import any_float
from compiled import CALL, copied_bytes, instructions, text_of
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from training import PARAMS, assert_close, gradients, train, tree
from x64 import enable_x64

from nadam_xla.jax import (
    chain,
    explain_updates,
    fuse_updates,
    nadam,
    nadamw,
    scale_by_nadam,
)

NORMS = 'custom_call_target="nadam_xla_sum_squares_v1"'
NEVER = 2**30  # so many steps in a row does optax leave out before it gives up
STEPS = 200


def with_bad_steps(grads: list[Any]) -> list[Any]:
    """The gradients, in some steps with an infinity or NaN in one leaf."""
    bad = {5: np.inf, 6: -np.inf, 7: np.nan, 50: np.inf, 120: np.nan, 199: np.inf}
    leaves = ["kernel", "bias", "scale"]
    spoilt = list(grads)
    for k, (step, value) in enumerate(bad.items()):
        name = leaves[k % 3]
        leaf = grads[step][name]
        spoilt[step] = grads[step] | {name: leaf.at[(1,) * leaf.ndim].set(value)}
    return spoilt


GRADS = gradients(STEPS)
BAD = with_bad_steps(GRADS)


def each_leaf(limit: float) -> optax.GradientTransformation:
    """Optax's clipping by global norm, of each leaf as of a tree of its own."""
    clip = optax.clip_by_global_norm(limit)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        return jax.tree.map(lambda g: clip.update(g, clip.init(g))[0], updates), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


# What of optax's is put before its optimizer.
LIMITS: dict[str, tuple[dict[str, Any], list[optax.GradientTransformation]]] = {
    "norm": ({"max_norm": 2.0}, [optax.clip_by_global_norm(2.0)]),
    "norm of leaves": ({"max_leaf_norm": 1.5}, [each_leaf(1.5)]),
    "value": ({"clip_value": 0.7}, [optax.clip(0.7)]),
    "norm, value": (
        {"max_norm": 9.0, "clip_value": 0.7},
        [optax.clip_by_global_norm(9.0), optax.clip(0.7)],
    ),
    "norm of leaves, value": (
        {"max_leaf_norm": 3.0, "clip_value": 0.7},
        [each_leaf(3.0), optax.clip(0.7)],
    ),
    "nothing": ({}, []),
}


@pytest.mark.parametrize("apply", [True, False], ids=["apply", "update"])
@pytest.mark.parametrize("name", LIMITS)
def test_two_hundred_steps_are_those_of_the_chain(name: str, apply: bool) -> None:
    arguments, before = LIMITS[name]
    ours = train(nadamw(1e-2, weight_decay=0.1, **arguments), GRADS, apply=apply)
    stock = train(optax.chain(*before, optax.nadamw(1e-2, weight_decay=0.1)), GRADS)
    assert_close(ours[0], stock[0])
    assert_close(ours[1].nu, optax.tree_utils.tree_get(stock[1], "nu"))


@pytest.mark.parametrize("apply", [True, False], ids=["apply", "update"])
@pytest.mark.parametrize("name", LIMITS)
def test_two_hundred_steps_of_which_some_are_skipped(name: str, apply: bool) -> None:
    arguments, before = LIMITS[name]
    ours = train(nadamw(1e-2, skip_nonfinite=True, **arguments), BAD, apply=apply)
    guarded = optax.apply_if_finite(optax.chain(*before, optax.nadamw(1e-2)), NEVER)
    stock = train(guarded, BAD)
    assert_close(ours[0], stock[0])
    assert ours[1].count == STEPS - 6 == optax.tree_utils.tree_get(stock[1], "count")


def test_what_is_not_finite_spoils_what_it_spoils_with_optax() -> None:
    for name in ("norm", "norm of leaves, value"):
        arguments, before = LIMITS[name]
        ours = train(nadamw(1e-2, **arguments), BAD[:9], apply=True)
        stock = train(optax.chain(*before, optax.nadamw(1e-2)), BAD[:9])
        assert_close(ours[0], stock[0])
        assert any(np.isnan(x).any() for x in jax.tree.leaves(ours[0])), name


@pytest.mark.parametrize("apply", [True, False], ids=["apply", "update"])
def test_a_loss_scale_that_changes_from_step_to_step(apply: bool) -> None:
    scales = [jnp.float32(2.0 ** (t % 9)) for t in range(STEPS)]
    scaled = [jax.tree.map(lambda g, s=s: g * s, g) for g, s in zip(BAD, scales, strict=True)]
    tx = nadamw(1e-2, max_norm=2.0, clip_value=0.5, skip_nonfinite=True)

    @jax.jit
    def step(params: Any, state: Any, grads: Any, loss_scale: jax.Array) -> Any:
        if apply:
            return tx.apply(grads, state, params, grad_scale=1 / loss_scale)
        updates, state = tx.update(grads, state, params, grad_scale=1 / loss_scale)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    for grads, scale in zip(scaled, scales, strict=True):
        params, state = step(params, state, grads, scale)
    assert step._cache_size() == 1
    inner = optax.chain(optax.clip_by_global_norm(2.0), optax.clip(0.5), optax.nadamw(1e-2))
    assert_close(params, train(optax.apply_if_finite(inner, NEVER), BAD)[0])


def of_one_step(arguments: dict[str, Any], grads: Any, grad_scale: Any = 1.0) -> Any:
    """The state after a step: with b1 = 0 its first moment is what the rule takes for gradients."""
    tx = nadam(1e-2, b1=0.0, **arguments)
    params = jax.tree.map(jnp.ones_like, grads)
    return tx.apply(grads, tx.init(params), params, grad_scale=grad_scale)[1]


JUDGES = {
    "max_norm": optax.clip_by_global_norm,
    "max_leaf_norm": each_leaf,
    "clip_value": optax.clip,
}


@cache
def limited(name: str) -> Any:
    """The gradients as we and as optax limit them."""

    @jax.jit
    def both(grads: Any, limit: jax.Array) -> Any:
        stock = JUDGES[name](limit)
        state = of_one_step({name: limit}, grads)
        return state.mu, stock.update(grads, stock.init(grads))[0]

    return both


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    limit=st.sampled_from([0.0, 1e-3, 1.0, 30.0, np.inf]),
    name=st.sampled_from(["max_norm", "max_leaf_norm", "clip_value"]),
    spread=st.sampled_from(["any", "tame", "zero"]),
    has_nan=st.booleans(),
)
def test_any_gradients_become_what_optax_makes_of_them(
    seed: int, limit: float, name: str, spread: str, has_nan: bool
) -> None:
    rng = np.random.default_rng(seed)
    if spread == "any":
        grads = [any_float(rng, (3, 5)), any_float(rng, (7,))]
    else:
        grads = [np.float32(rng.normal(size=s) * (spread == "tame")) for s in [(3, 5), (7,)]]
    if has_nan:
        grads[1][3] = np.nan
    for found, wanted in zip(*limited(name)(grads, limit), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=3e-38)


@cache
def guarded() -> Any:
    """How many steps we and optax take of one."""

    @jax.jit
    def both(grads: Any) -> Any:
        judge = optax.apply_if_finite(optax.identity(), NEVER)
        _, judged = judge.update(grads, judge.init(grads))
        return of_one_step({"skip_nonfinite": True}, grads).count, judged.last_finite

    return both


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), bad=st.sampled_from([None, np.nan, np.inf, -np.inf]))
def test_a_step_is_skipped_where_optax_rejects_it(seed: int, bad: float | None) -> None:
    rng = np.random.default_rng(seed)
    largest = np.finfo(np.float32).max
    grads = [np.clip(any_float(rng, (5, 9)), -largest, largest), any_float(rng, (70,))]
    grads[1] = np.where(np.isfinite(grads[1]), grads[1], largest).astype(np.float32)
    if bad is not None:
        grads[rng.integers(2)].flat[rng.integers(45)] = bad
    taken, by_optax = guarded()(grads)
    assert int(taken) == int(by_optax) == int(bad is None)


@pytest.mark.parametrize(
    ("scale", "is_taken"),
    [(1e-30, True), (0.0, True), (-1.0, True), (1e10, False), (np.inf, False), (np.nan, False)],
)
def test_it_is_judged_by_the_scaled_gradients(scale: float, is_taken: bool) -> None:
    """Whatever their squares do: those of 1e30 overflow."""
    grads = {"large": jnp.full((3, 4), 1e30), "small": jnp.ones(5)}
    for factor in (scale, jnp.float32(scale)):
        state = of_one_step({"skip_nonfinite": True, "max_norm": 2.0}, grads, grad_scale=factor)
        assert state.count == int(is_taken)


def test_the_norm_is_that_of_scaled_gradients_where_the_squares_of_others_overflow() -> None:
    grads = {"large": jnp.full((3, 4), 1e30), "small": jnp.ones(5)}
    state = of_one_step({"max_norm": 2.0}, grads, grad_scale=1e-30)
    np.testing.assert_allclose(state.mu["large"], np.full((3, 4), 2 / np.sqrt(12)), rtol=1e-6)


SKIPPING = {"skip_nonfinite": True, "max_norm": 1.0, "clip_value": 0.5}
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "nadam": lambda: nadam(1e-2, **SKIPPING),
    "nadamw": lambda: nadamw(1e-2, **SKIPPING),
    "with a product": lambda: nadam(1e-2, momentum_decay=0.004, **SKIPPING),
    "masters": lambda: nadamw(1e-2, master="remainder", **SKIPPING),
    "stochastic": lambda: nadamw(
        1e-2, rounding="stochastic", mu_dtype="bfloat16", nu_dtype="bfloat16", seed=3, **SKIPPING
    ),
    "masters, stochastic": lambda: nadam(
        1e-2, rounding="stochastic", master="correction", nu_dtype="bfloat16", **SKIPPING
    ),
}


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
    ("name", "bad"), list(zip(OPTIMIZERS, [np.nan, np.inf, -np.inf] * 2, strict=True))
)
def test_a_skipped_step_leaves_every_bit(name: str, bad: float) -> None:
    tx = OPTIMIZERS[name]()
    narrow = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    params = {"narrow": narrow, "wide": PARAMS | {"scale": jnp.float32(-0.0)}}
    grads = {"narrow": tree(1), "wide": tree(2)}
    step = jax.jit(tx.apply)
    params, state = step(grads, tx.init(params), params)
    params["wide"]["scale"] = jnp.float32(-0.0)
    grads["wide"]["bias"] = grads["wide"]["bias"].at[2].set(bad)
    assert bits(step(grads, state, params)) == bits((params, state))
    changes, after = jax.jit(tx.update)(grads, state, params)
    assert bits(after) == bits(state)
    assert all((np.signbit(x) & (np.asarray(x) == 0)).all() for x in jax.tree.leaves(changes))
    assert bits(optax.apply_updates(params, changes)) == bits(params)
    params, state = step({"narrow": tree(3), "wide": tree(4)}, state, params)
    assert state.count == 2


def test_a_direction_by_itself() -> None:
    rate = optax.scale_by_learning_rate(1e-2)
    ours = optax.chain(scale_by_nadam(max_norm=2.0, clip_value=0.5), rate)
    before = [optax.clip_by_global_norm(2.0), optax.clip(0.5)]
    stock = optax.chain(*before, optax.scale_by_adam(nesterov=True), rate)
    assert_close(train(ours, GRADS[:30])[0], train(stock, GRADS[:30])[0])
    guarded = optax.chain(scale_by_nadam(skip_nonfinite=True), rate)
    inner = optax.apply_if_finite(optax.scale_by_adam(nesterov=True), NEVER)
    assert_close(train(guarded, BAD[:30])[0], train(optax.chain(inner, rate), BAD[:30])[0])


class TestNumbers:
    def test_another_value_compiles_nothing_anew(self) -> None:
        @jax.jit
        def step(params: Any, state: Any, grads: Any, limit: Any, scale: Any) -> Any:
            tx = nadam(1e-2, max_norm=limit, clip_value=limit / 3)
            return tx.apply(grads, state, params, grad_scale=scale)

        tx = nadam(1e-2, max_norm=1.0)
        for limit in (0.0, 0.5, 4.0):
            new, _ = step(PARAMS, tx.init(PARAMS), GRADS[3], limit, 0.5)
            halves = jax.tree.map(lambda g: g * 0.5, GRADS[3])
            before = [optax.clip_by_global_norm(limit), optax.clip(limit / 3)]
            assert_close(new, train(optax.chain(*before, optax.nadam(1e-2)), [halves])[0])
        assert step._cache_size() == 1

    def test_schedules(self) -> None:
        limit = optax.linear_schedule(3.0, 0.5, 20)
        ours = nadam(1e-2, max_norm=limit, clip_value=limit)

        def scheduled(make: Any) -> optax.GradientTransformation:
            return optax.inject_hyperparams(make)(limit)

        before = [scheduled(optax.clip_by_global_norm), scheduled(optax.clip)]
        stock = optax.chain(*before, optax.nadam(1e-2))
        assert_close(train(ours, GRADS[:30], apply=True)[0], train(stock, GRADS[:30])[0])

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_hyperparameters_that_optax_injects(self, dtype: str) -> None:
        params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
        inject = optax.inject_hyperparams(nadamw, static_args=("b1", "b2"))
        tx = inject(1e-2, max_norm=8.0, skip_nonfinite=True)
        state = tx.init(params)
        assert set(state.hyperparams) >= {"max_norm"}
        assert not {"skip_nonfinite", "clip_value", "max_leaf_norm"} & set(state.hyperparams)
        state = optax.tree_utils.tree_set(state, max_norm=jnp.asarray(0.5, dtype))
        updates, _ = jax.jit(tx.update)(GRADS[2], state, params, grad_scale=0.5)
        plain = nadamw(1e-2, max_norm=0.5)
        expected, _ = plain.update(GRADS[2], plain.init(params), params, grad_scale=0.5)
        assert_close(updates, expected, rtol=1e-2 if dtype == "bfloat16" else 1e-5)

    @pytest.mark.parametrize("name", ["max_norm", "max_leaf_norm", "clip_value"])
    def test_what_is_no_limit_is_refused(self, name: str) -> None:
        for value in (-1.0, np.nan):
            with pytest.raises(ValueError, match=f"{name} is {value}; it must not be negative"):
                nadam(1e-2, **{name: value})
        with pytest.raises(ValueError, match=rf"{name} has the shape \(2,\)"):
            nadamw(1e-2, **{name: jnp.ones(2)})
        tx = scale_by_nadam(**{name: lambda _: jnp.ones(3)})
        with pytest.raises(ValueError, match=rf"{name} has the shape \(3,\)"):
            tx.update(PARAMS, tx.init(PARAMS))

    def test_contradictions_are_refused(self) -> None:
        with pytest.raises(ValueError, match="max_norm and max_leaf_norm are given"):
            nadam(1e-2, max_norm=1.0, max_leaf_norm=1.0)
        with pytest.raises(TypeError, match=r"skip_nonfinite is 3; it must be True or False"):
            nadam(1e-2, skip_nonfinite=3)

    @pytest.mark.parametrize(
        ("scale", "error", "message"),
        [
            (None, TypeError, "grad_scale is None; it must be a number"),
            (jnp.ones(3), ValueError, r"grad_scale has the shape \(3,\)"),
            (1 + 1j, TypeError, "grad_scale is .*1j.*; it must be real"),
        ],
    )
    def test_a_scale_that_is_none_is_refused(self, scale: Any, error: Any, message: str) -> None:
        tx = nadam(1e-2)
        for step in (tx.apply, tx.update):
            with pytest.raises(error, match=message):
                step(PARAMS, tx.init(PARAMS), PARAMS, grad_scale=scale)


class TestLeaves:
    def test_float64_beside_narrower_ones(self) -> None:
        with enable_x64(True):
            rng = np.random.default_rng(0)
            dtypes = ["float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "complex64"]
            grads = [jnp.asarray(rng.normal(size=(4, 5)), d) for d in dtypes]
            arguments = {"max_norm": 0.5, "skip_nonfinite": True}
            state = jax.jit(partial(of_one_step, arguments))(grads)
            wide = [np.asarray(g).astype("complex128") for g in grads]
            norm = np.sqrt(sum(np.sum(np.abs(g) ** 2) for g in wide))
            for mu, g in zip(state.mu, wide, strict=True):
                rtol = 1e-12 if mu.dtype == "float64" else 1e-6
                np.testing.assert_allclose(mu, g * 0.5 / norm, rtol=max(rtol, 3e-8))

    @pytest.mark.parametrize("part", ["real", "imaginary"])
    def test_complex_ones(self, part: str) -> None:
        rng = np.random.default_rng(0)
        drawn = rng.normal(size=(4, 3, 5)) + 1j * rng.normal(size=(4, 3, 5))
        grads = [{"z": jnp.asarray(g, jnp.complex64), "x": jnp.ones(3)} for g in drawn]
        bad = complex(np.inf, 0) if part == "real" else complex(0, np.nan)
        grads[2] = grads[2] | {"z": grads[2]["z"].at[1, 2].set(bad)}
        params = {"z": jnp.ones((3, 5), jnp.complex64), "x": jnp.ones(3)}
        ours = nadam(1e-2, max_norm=1.0, skip_nonfinite=True)
        stock = optax.chain(optax.clip_by_global_norm(1.0), optax.nadam(1e-2))
        guarded = optax.apply_if_finite(stock, NEVER)
        found, state = train(ours, grads, params, apply=True)
        assert_close(found, train(guarded, grads, params)[0])
        assert state.count == 3

    def test_elements_of_complex_ones_are_not_limited(self) -> None:
        tx = nadam(1e-2, clip_value=1.0)
        params = {"z": jnp.ones(3, jnp.complex64)}
        with pytest.raises(TypeError, match=r"grads\['z'\] is complex64\[3\]; clip_value limits"):
            tx.apply(params, tx.init(params), params)

    def test_the_norm_of_narrow_ones_is_not_narrow(self) -> None:
        """In bfloat16 a sum of squares stops growing, and in float16 it overflows."""
        for dtype in ("bfloat16", "float16"):
            grads = [jnp.full((100, 100), 3.0, dtype)]
            state = of_one_step({"max_norm": 1.0}, grads)
            np.testing.assert_allclose(state.mu[0], np.full((100, 100), 0.01), rtol=1e-6)

    def test_no_leaves(self) -> None:
        tx = nadamw(1e-2, max_norm=1.0, skip_nonfinite=True)
        for step in (tx.apply, tx.update):
            new, state = jax.jit(step)({}, tx.init({}), {})
            assert new == {}
            assert state.count == 1

    def test_of_some_leaves_alone(self) -> None:
        mask = {"kernel": True, "bias": False, "scale": True, "empty": True, "deep": False}
        masked = partial(optax.masked, mask=mask)
        stock = optax.chain(optax.clip_by_global_norm(0.5), optax.nadam(1e-2))
        ours = masked(nadam(1e-2, max_norm=0.5))
        assert_close(train(ours, GRADS[:9])[0], train(masked(stock), GRADS[:9])[0])

    def test_leaves_that_are_not_trained(self) -> None:
        params = {"w": jnp.ones(3), "f": jnp.tanh}
        grads = {"w": jnp.array([3.0, 0.0, 4.0]), "f": None}
        tx = nadam(1e-2, b1=0.0, max_norm=1.0)
        new, state = tx.apply(grads, tx.init({"w": params["w"], "f": None}), params)
        np.testing.assert_allclose(state.mu["w"], [0.6, 0.0, 0.8], rtol=1e-6)
        assert new["f"] is jnp.tanh


class TestPrograms:
    """What is compiled: gradients are read twice at most, and never written."""

    shapes = ((300, 700), (900,), ())

    def arguments(self, tx: Any) -> Any:
        params = [jnp.ones(s) for s in self.shapes]
        return params, tx.init(params), params, jnp.float32(0.5)

    def text(self, tx: Any, *, update: bool = False) -> str:
        def step(params: Any, state: Any, grads: Any, scale: Any) -> Any:
            if update:
                return tx.update(grads, state, params, grad_scale=scale)
            return tx.apply(grads, state, params, grad_scale=scale)

        # What update returns would take the memory of donated moments.
        return text_of(step, *self.arguments(tx), donate=() if update else (0, 1))

    @pytest.mark.parametrize("update", [False, True], ids=["apply", "update"])
    @pytest.mark.parametrize(
        "arguments",
        [
            {"max_norm": 1.0, "clip_value": 0.5, "skip_nonfinite": True},
            {"max_leaf_norm": 1.0, "skip_nonfinite": True},
            {"skip_nonfinite": True},
        ],
        ids=" ".join,
    )
    def test_two_passes_that_read_the_gradients(self, arguments: Any, update: bool) -> None:
        text = self.text(nadamw(1e-2, **arguments), update=update)
        entry = text[text.index("\nENTRY ") :]
        assert text.count(NORMS) == text.count(CALL) == 1
        assert copied_bytes(text) <= 64
        names = re.findall(r"%(\S+) = f32\[[\d,]*\]\S* parameter\(\d+\).*op_name=\"grads", entry)
        assert len(names) == len(self.shapes)
        for name in names:
            users = [line for line in entry.splitlines() if re.search(rf"[ (/]%{name}[,)]", line)]
            assert len(users) == 2, users
            assert NORMS in users[0]
            assert CALL in users[1]
        # All that is as large as a leaf is a parameter or a result of the call.
        moved = {i.opcode for i in instructions(text) if i.bytes >= 900 * 4}
        assert moved <= {"parameter", "custom-call", "get-tuple-element", "tuple"}
        assert "conditional" not in text

    @pytest.mark.parametrize("arguments", [{}, {"clip_value": 0.5}], ids=["scale", "value"])
    def test_what_needs_no_norm_takes_no_pass(self, arguments: Any) -> None:
        text = self.text(nadam(1e-2, **arguments))
        assert text.count(CALL) == 1
        assert NORMS not in text

    def test_without_any_of_it_the_program_is_what_it_was(self) -> None:
        tx = nadamw(1e-2)
        params, state, grads, _ = self.arguments(tx)

        def lowered(**given: Any) -> str:
            step = lambda params, state, grads: tx.apply(grads, state, params, **given)  # noqa: E731
            return jax.jit(step).lower(params, state, grads).as_text()

        assert lowered() == lowered(grad_scale=1.0)
        assert "sum_squares" not in lowered()
        assert "is_finite" not in lowered()

    def test_an_exported_one_goes_on(self) -> None:
        tx = nadamw(1e-2, max_norm=1.0, clip_value=0.5, skip_nonfinite=True)
        params, state, grads, scale = self.arguments(tx)
        step = jax.jit(lambda g, s, p, c: tx.apply(g, s, p, grad_scale=c))
        known = [
            jax.export.DisabledSafetyCheck.custom_call(name)
            for name in ("nadam_xla_update_v2", "nadam_xla_sum_squares_v1")
        ]
        for platforms in (["cpu"], ["cpu", "tpu"]):
            export = jax.export.export(step, platforms=platforms, disabled_checks=known)
            program = jax.export.deserialize(export(grads, state, params, scale).serialize())
            infinite = [grads[0].at[3, 4].set(jnp.inf), *grads[1:]]
            for some in (grads, infinite):
                found = program.call(some, state, params, scale)
                assert_close(found, step(some, state, params, scale), rtol=1e-6)

    def test_elsewhere_than_on_the_cpu_it_is_plain_stablehlo(self) -> None:
        tx = nadamw(1e-2, max_norm=1.0, skip_nonfinite=True)
        params, state, grads, _ = self.arguments(tx)
        export = jax.export.export(jax.jit(tx.apply), platforms=["tpu"])
        module = export(grads, state, params).mlir_module()
        assert "custom_call" not in module


@pytest.mark.parametrize("arguments", [{"max_norm": 0.5}, {"max_leaf_norm": 0.5}])
def test_the_norms_of_a_population_are_each_its_own(arguments: dict[str, float]) -> None:
    tx = nadam(1e-2, skip_nonfinite=True, **arguments)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *BAD[4:10])
    many = jax.tree.map(lambda p: jnp.stack([p] * 6), PARAMS)
    scales = jnp.linspace(0.5, 2.0, 6)
    state = jax.vmap(tx.init)(many)

    def step(params: Any, state: Any, grads: Any, scale: Any) -> Any:
        return tx.apply(grads, state, params, grad_scale=scale)

    text = text_of(jax.vmap(step), many, state, stacked, scales)
    assert text.count(NORMS) == text.count(CALL) == 1
    found = jax.jit(jax.vmap(step))(many, state, stacked, scales)
    assert found[1].count.tolist() == [1, 0, 0, 0, 1, 1]
    for i in range(6):
        alone = step(PARAMS, tx.init(PARAMS), BAD[4 + i], scales[i])
        assert_close(jax.tree.map(lambda x, i=i: x[i], found), alone, rtol=1e-6)


class TestDerivatives:
    @pytest.mark.parametrize(
        ("name", "mode"), [("max_norm", "rev"), ("max_leaf_norm", "fwd"), ("clip_value", "rev")]
    )
    def test_of_everything(self, name: str, mode: str) -> None:
        with enable_x64(True):
            rng = np.random.default_rng(0)
            params, grads = (
                [jnp.asarray(rng.normal(size=s)) for s in [(3, 4), (5,)]] for _ in "pg"
            )

            def step(grads: Any, params: Any, limit: Any, scale: Any) -> Any:
                tx = nadam(1e-1, eps_root=1e-2, skip_nonfinite=True, **{name: limit})
                return tx.apply(grads, tx.init(params), params, grad_scale=scale)[0]

            for limit in (0.6, 100.0):
                point = (grads, params, jnp.float64(limit), jnp.float64(0.7))
                check_grads(step, point, order=1, modes=[mode], atol=1e-4, rtol=1e-4)

    def test_at_gradients_that_are_zero(self) -> None:
        """Where optax's is NaN, for it is that of the root of zero."""
        tx = nadam(1e-1, eps_root=1e-3, max_norm=1.0, skip_nonfinite=True)
        params = {"w": jnp.ones(3)}

        def total(grads: Any) -> jax.Array:
            return tx.apply(grads, tx.init(params), params)[0]["w"].sum()

        slope = jax.jit(jax.grad(total))({"w": jnp.zeros(3)})["w"]
        assert np.isfinite(slope).all()
        assert (slope != 0).all()


class TestWrappers:
    tx = nadamw(1e-2, max_norm=2.0, skip_nonfinite=True)
    stock = optax.apply_if_finite(
        optax.chain(optax.clip_by_global_norm(2.0), optax.nadamw(1e-2)), NEVER
    )

    def test_our_chain(self) -> None:
        ours = chain(optax.scale(0.5), self.tx)
        halves = [jax.tree.map(lambda g: g / 4, g) for g in BAD[:20]]
        expected = train(self.stock, halves)[0]
        step = jax.jit(partial(ours.apply, grad_scale=0.5))
        state, params = ours.init(PARAMS), PARAMS
        for grads in BAD[:20]:
            params, state = step(grads, state, params)
        assert_close(params, expected)

    def test_optax_s_chain_and_fuse_updates(self) -> None:
        ours = optax.chain(optax.scale(0.5), self.tx)

        def step(params: Any, state: Any, grads: Any, scale: Any) -> Any:
            updates, state = ours.update(grads, state, params, grad_scale=scale)
            return optax.apply_updates(params, updates), state

        (report,) = explain_updates(step)(PARAMS, ours.init(PARAMS), GRADS[0], jnp.float32(1))
        assert report.returns_params
        assert not any(report.reasons)
        plain, fused = jax.jit(step), jax.jit(fuse_updates(step))
        params, state = PARAMS, ours.init(PARAMS)
        for grads in BAD[:10]:
            after = fused(params, state, grads, jnp.float32(0.5))
            assert bits(after) == bits(plain(params, state, grads, jnp.float32(0.5)))
            params, state = after
        assert state[1].count == 7

    def test_multi_steps(self) -> None:
        found = train(optax.MultiSteps(self.tx, 2), BAD[:20])[0]
        assert_close(found, train(optax.MultiSteps(self.stock, 2), BAD[:20])[0])

    def test_flax_nnx(self) -> None:
        from flax import nnx  # noqa: PLC0415

        from nadam_xla.flax.nnx import Optimizer  # noqa: PLC0415

        model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        optimizer = Optimizer(model, self.tx, wrt=nnx.Param)
        grads = nnx.grad(lambda model: jnp.sum(model(jnp.ones((4, 3))) ** 2))(model)
        before = bits(nnx.state(model))
        optimizer.update(model, grads, grad_scale=jnp.inf)
        assert bits(nnx.state(model)) == before
        optimizer.update(model, grads, grad_scale=0.5)
        assert bits(nnx.state(model)) != before

    def test_flax_linen(self) -> None:
        from nadam_xla.flax.train_state import TrainState  # noqa: PLC0415

        state = TrainState.create(apply_fn=None, params=PARAMS, tx=self.tx)
        found = state.apply_gradients(grads=GRADS[0], grad_scale=0.5)
        halves = jax.tree.map(lambda g: g / 2, GRADS[0])
        assert_close(found.params, state.apply_gradients(grads=halves).params)
        other = TrainState.create(apply_fn=None, params=PARAMS, tx=optax.nadam(1e-2))
        with pytest.raises(TypeError, match="grad_scale"):
            other.apply_gradients(grads=GRADS[0], grad_scale=0.5)


class TestScannedLayers:
    """A norm of all gradients must wait for the last of them; a factor and a clamp need not."""

    params = MappingProxyType({"w": jnp.full((6, 4, 4), 0.2), "b": jnp.zeros((6, 4))})

    def step(self, tx: Any) -> Any:
        def loss(params: Any, x: jax.Array) -> jax.Array:
            layer = lambda x, p: (jnp.tanh(x @ p["w"] + p["b"]), None)  # noqa: E731
            return jnp.sum(jax.lax.scan(layer, x, params)[0] ** 2)

        def step(params: Any, state: Any, x: jax.Array, scale: jax.Array) -> Any:
            return tx.apply(jax.grad(loss)(params, x), state, params, grad_scale=scale)

        return step

    @pytest.mark.parametrize(
        ("arguments", "is_woven"),
        [
            ({}, True),
            ({"clip_value": 0.01}, True),
            ({"max_norm": 0.1}, False),
            ({"max_leaf_norm": 0.1}, False),
            ({"skip_nonfinite": True}, False),
        ],
    )
    def test_what_is_woven(self, arguments: Any, is_woven: bool) -> None:
        tx = nadam(1e-2, **arguments)
        step = self.step(tx)
        params = dict(self.params)
        arguments = params, tx.init(params), jnp.ones((2, 4)), jnp.float32(0.5)
        (report,) = explain_updates(step)(*arguments)
        assert report.woven == is_woven
        assert is_woven or "computed from what the scan makes" in str(report)
        woven = jax.jit(fuse_updates(step))(*arguments)
        assert bits(woven) == bits(jax.jit(step)(*arguments))
