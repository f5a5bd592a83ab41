"""The average of the parameters that a step updates with them: the judges are optax and float64."""

from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import CALL, copies_of_arrays, instructions, text_of
from jax.test_util import check_grads
from x64 import enable_x64

import nadam_xla.jax
from nadam_xla.coefficients import Coefficients
from nadam_xla.jax import (
    explain_updates,
    full_params,
    fuse_updates,
    nadam,
    nadam_update,
    nadamw,
    state_from_optax,
    state_to_optax,
)
from nadam_xla.jax.hyperparameters import Hyperparameters
from nadam_xla.jax.primitive import reference
from nadam_xla.streams import Streams

Tree = Any
DECAY = 0.9
NO_PASS = {"parameter", "get-tuple-element", "tuple", "custom-call", "bitcast", "constant"}


def tree(seed: int, dtype: Any = np.float32) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    shapes = {"w": (33, 7), "b": (7,), "scale": ()}
    return {
        name: jnp.asarray(rng.normal(size=shape), dtype)
        + (1j * jnp.asarray(rng.normal(size=shape)) if np.dtype(dtype).kind == "c" else 0)
        for name, shape in shapes.items()
    }


def assert_close(found: Tree, expected: Tree, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def assert_equal(found: Tree, expected: Tree) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def trained(tx: Any, params: Tree, steps: int, state: Any = None) -> tuple[Tree, Any]:
    state, step = tx.init(params) if state is None else state, jax.jit(tx.apply)
    for seed in range(steps):
        params, state = step(tree(1 + seed, params["w"].dtype), state, params)
    return params, state


def by_optax(tx: Any, decay: float, params: Tree, steps: int) -> Tree:
    """What ``optax.ema`` makes of the parameters after each step of optax's optimizer."""
    ema = optax.ema(decay)
    state, of_ema, average = tx.init(params), ema.init(params), None
    for seed in range(steps):
        updates, state = tx.update(tree(1 + seed, params["w"].dtype), state, params)
        params = optax.apply_updates(params, updates)
        average, of_ema = ema.update(params, of_ema)
    return average


@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_it_is_what_optax_ema_makes_of_the_parameters(decay: float, steps: int) -> None:
    params = tree(0)
    _, state = trained(nadamw(0.1, average_decay=decay), params, steps)
    assert_close(state.average, by_optax(optax.nadamw(0.1), decay, params, steps), rtol=2e-5)


def test_it_is_so_in_float64_and_to_its_precision() -> None:
    with enable_x64(True):
        params = tree(0, np.float64)
        _, state = trained(nadam(0.1, average_decay=0.999), params, 20)
        assert all(x.dtype == np.float64 for x in jax.tree.leaves(state.average))
        expected = by_optax(optax.nadam(0.1), 0.999, params, 20)
        assert_close(state.average, expected, rtol=1e-11, atol=1e-12)


def test_long_after_the_beginning_it_is_optax_incremental_update() -> None:
    params, average = tree(0), tree(100)
    tx = nadam(0.1, average_decay=0.99)
    state = tx.init(params)._replace(count=jnp.asarray(100_000, jnp.int32), average=average)
    step = jax.jit(tx.apply)
    for seed in range(20):
        params, state = step(tree(1 + seed), state, params)
        average = optax.incremental_update(params, average, step_size=1 - 0.99)
    assert_close(state.average, average)


@pytest.mark.parametrize("decay", [0.5, 0.9999, 0.9999999])
def test_before_the_first_step_it_is_the_parameters_and_after_it_the_new_ones(decay: float) -> None:
    params = tree(0)
    tx = nadam(0.1, average_decay=decay)
    state = tx.init(params)
    assert_equal(state.average, params)
    new, state = trained(tx, params, 1)
    assert_close(state.average, new, rtol=3e-7, atol=1e-7)


def test_the_weights_are_exact_where_float32_cannot_hold_the_powers() -> None:
    """``1 - 0.9999999**t`` would have one digit."""
    for count in (1, 2, 10, 1000):
        row, _ = Hyperparameters(
            learning_rate=0.1, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, mu_dtype=None,
            nu_dtype=None, rounding="nearest", seed=0, nesterov=True, momentum_decay=None,
            average_decay=0.9999999,
        ).row(jnp.asarray(count - 1), None)  # fmt: skip
        expected = 1e-7 / -np.expm1(count * np.log(0.9999999))
        np.testing.assert_allclose(row.one_minus_average_decay, expected, rtol=1e-6)


def test_all_else_has_the_bits_that_it_has_without_it() -> None:
    params, state = trained(nadamw(0.1, average_decay=DECAY), tree(0), 10)
    without, plain = trained(nadamw(0.1), tree(0), 10)
    assert plain.average is None
    assert_equal(params, without)
    assert_equal(state._replace(average=None), plain)


@pytest.mark.parametrize("fused", [False, True])
def test_update_gives_the_bits_of_apply(fused: bool) -> None:
    tx = nadamw(0.1, average_decay=DECAY)

    def protocol(grads: Tree, state: Any, params: Tree) -> tuple[Tree, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(fuse_updates(protocol) if fused else protocol)
    params = tree(0)
    state = tx.init(params)
    for seed in range(5):
        params, state = step(tree(1 + seed), state, params)
    expected = trained(tx, tree(0), 5)
    assert_equal((params, state), expected)
    if fused:
        (report,) = explain_updates(protocol)(tree(1), state, params)
        assert report.returns_params
        assert text_of(fuse_updates(protocol), tree(1), state, params).count(CALL) == 1


def test_behind_a_scan_over_layers_it_stays_and_says_so() -> None:
    tx = nadam(0.1, average_decay=DECAY)
    stack = jnp.ones((4, 8, 8))

    def step(params: Tree, state: Any, x: jax.Array) -> tuple[Tree, Any]:
        def loss(params: Tree) -> jax.Array:
            out, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params)
            return jnp.sum(out**2)

        return tx.apply(jax.grad(loss)(params), state, params)

    arguments = stack, tx.init(stack), jnp.ones((2, 8))
    (report,) = explain_updates(fuse_updates(step))(*arguments)
    assert not report.woven
    assert "averages" in str(report)
    assert_close(jax.jit(fuse_updates(step))(*arguments), jax.jit(step)(*arguments))


def test_the_step_is_one_call_in_place_and_nothing_else_touches_a_leaf() -> None:
    params = {name: jnp.ones((64, n)) for n, name in enumerate("abc", start=16)}
    tx = nadamw(0.1, average_decay=DECAY)
    state = tx.init(params)
    step = jax.jit(lambda p, s, g: tx.apply(g, s, p), donate_argnums=(0, 1))
    text = step.lower(params, state, params).compile().as_text()
    assert text.count(CALL) == 1
    assert copies_of_arrays(text) == 0
    assert {i.opcode for i in instructions(text) if i.bytes >= 4096} <= NO_PASS

    def pointers(tree: Tree) -> list[int]:
        return [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)]

    before = pointers((params, state.mu, state.nu, state.average))
    grads = jax.tree.map(jnp.ones_like, params)
    for _ in range(3):
        params, state = step(params, state, grads)
    assert pointers((params, state.mu, state.nu, state.average)) == before


def test_a_skipped_step_leaves_its_bits() -> None:
    row = Coefficients(*[0.5] * len(Coefficients._fields))._replace(skip=1.0)
    average = tree(9)
    *_, found = nadam_update(row, tree(0), tree(1), tree(2), tree(3), average=average)
    assert_equal(found, average)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_of_narrow_parameters_it_is_wide_and_near_that_of_optax(dtype: Any, rounding: Any) -> None:
    params = tree(0, dtype)
    tx = nadam(0.1, average_decay=DECAY, rounding=rounding)
    ema = optax.ema(DECAY, accumulator_dtype=jnp.float32)
    state, of_ema = tx.init(params), ema.init(params)
    for seed in range(10):
        params, state = jax.jit(tx.apply)(tree(1 + seed, dtype), state, params)
        average, of_ema = ema.update(params, of_ema)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state.average))
    # It averages what is rounded to the parameters, of bfloat16 with half an ulp more.
    eps = float(jnp.finfo(dtype).eps)
    assert_close(state.average, average, rtol=eps, atol=2 * eps)


def test_of_parameters_with_masters_it_is_that_of_the_whole_weights() -> None:
    wide = jax.tree.map(lambda p: p.astype(jnp.bfloat16).astype(jnp.float32), tree(0))
    narrow = jax.tree.map(lambda p: p.astype(jnp.bfloat16), wide)
    params, state = trained(nadam(0.1, average_decay=DECAY, master="remainder"), narrow, 10)
    drawn = (tree(1 + seed, jnp.bfloat16) for seed in range(10))
    grads = [jax.tree.map(lambda g: g.astype(jnp.float32), each) for each in drawn]
    tx = nadam(0.1, average_decay=DECAY)
    expected, of_wide = wide, tx.init(wide)
    for given in grads:
        expected, of_wide = jax.jit(tx.apply)(given, of_wide, expected)
    assert_equal(full_params(params, state.master), expected)
    assert_equal(state.average, of_wide.average)


def test_of_complex_parameters_it_is_complex_and_optaxs() -> None:
    params = tree(0, np.complex64)
    _, state = trained(nadam(0.1, average_decay=DECAY), params, 5)
    assert all(x.dtype == np.complex64 for x in jax.tree.leaves(state.average))
    assert_close(state.average, by_optax(optax.nadam(0.1), DECAY, params, 5))


def test_the_reference_rule_gives_it_too() -> None:
    row = np.random.default_rng(0).uniform(0.1, 0.9, (1, 1, len(Coefficients._fields)))
    row[..., Coefficients._fields.index("skip")] = 0
    leaves = [jnp.abs(tree(i)["w"]) for i in range(5)]
    found = nadam_update(jnp.asarray(row[0, 0]), *leaves[:4], average=leaves[4])
    streams = Streams(has_average=True)
    assert_close(found, reference(jnp.asarray(row, jnp.float32), *leaves, streams=streams))


def test_a_population_has_decay_rates_of_its_own() -> None:
    decays = jnp.asarray([0.5, 0.9, 0.99])
    params = jax.vmap(lambda seed: jax.tree.map(lambda x: x + seed, tree(0)))(jnp.arange(3.0))

    def run(decay: jax.Array, params: Tree) -> tuple[Tree, Any]:
        tx = nadam(0.1, average_decay=decay)
        state = tx.init(params)
        for seed in range(3):
            params, state = tx.apply(tree(1 + seed), state, params)
        return params, state

    together = jax.jit(jax.vmap(run))(decays, params)
    for i, decay in enumerate(decays):
        alone = jax.jit(run)(decay, jax.tree.map(lambda x, i=i: x[i], params))
        assert_close(jax.tree.map(lambda x, i=i: x[i], together), alone)


def test_it_has_derivatives() -> None:
    """By the decay rate, the learning rate and the parameters, against differences in float64."""

    def run(decay: jax.Array, rate: jax.Array, start: jax.Array) -> jax.Array:
        tx = nadam(rate, average_decay=decay)
        params = {"w": start}
        state = tx.init(params)
        for i in range(3):
            params, state = tx.apply({"w": jnp.sin(params["w"] + i)}, state, params)
        return jnp.sum(state.average["w"] ** 2)

    with enable_x64(True):
        point = jnp.asarray(0.8), jnp.asarray(0.1), jnp.asarray([0.3, -1.2, 2.0])
        check_grads(run, point, order=1, modes=("fwd", "rev"), eps=1e-6)


def test_an_exported_step_gives_the_same_bits() -> None:
    tx = nadam(0.1, average_decay=DECAY)
    params = tree(0)
    state = tx.init(params)
    known = [jax.export.DisabledSafetyCheck.custom_call("nadam_xla_update_v2")]
    program = jax.export.export(jax.jit(tx.apply), disabled_checks=known)(tree(1), state, params)
    loaded = jax.export.deserialize(program.serialize())
    assert_equal(loaded.call(tree(1), state, params), jax.jit(tx.apply)(tree(1), state, params))


def test_it_goes_with_optaxs_wrappers() -> None:
    params = tree(0)
    tx = optax.inject_hyperparams(nadam)(0.1, average_decay=DECAY)
    state = tx.init(params)
    updates, state = tx.update(tree(1), state, params)
    (inner,) = [
        x
        for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, nadam_xla.jax.NadamState))
        if isinstance(x, nadam_xla.jax.NadamState)
    ]
    assert_close(inner.average, optax.apply_updates(params, updates))
    plain = nadam(0.1, average_decay=DECAY)
    marked = optax.tree_utils.tree_map_params(
        plain, lambda _: 1, plain.init(params), transform_non_params=lambda _: 0
    )
    assert jax.tree.leaves(marked.average) == [1] * 3


def test_what_does_not_fit_is_refused_by_name() -> None:
    params, grads = tree(0), tree(1)
    with_average, without = nadam(0.1, average_decay=DECAY), nadam(0.1)
    with pytest.raises(ValueError, match=r"state\.average is None, .* has an average_decay"):
        with_average.apply(grads, without.init(params), params)
    with pytest.raises(ValueError, match=r"state\.average is given, .* has no average_decay"):
        without.apply(grads, with_average.init(params), params)
    with pytest.raises(ValueError, match="average_decay needs the parameters"):
        with_average.update(grads, with_average.init(params))
    state = with_average.init(params)
    other = {**state.average, "b": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"state\.average\['b'\] has the shape \(3,\)"):
        with_average.apply(grads, state._replace(average=other), params)
    for decay, error in ((1.0, ValueError), (-0.1, ValueError), (jnp.ones(2), ValueError)):
        with pytest.raises(error, match="average_decay"):
            nadam(0.1, average_decay=decay)
    complex_params = tree(0, np.complex64)
    state = with_average.init(complex_params)
    real = jax.tree.map(jnp.real, state.average)
    with pytest.raises(TypeError, match=r"averages of complex parameters are complex"):
        with_average.apply(complex_params, state._replace(average=real), complex_params)


def test_states_of_other_optimizers_hold_none() -> None:
    params = tree(0)
    tx = nadam(0.1, average_decay=DECAY)
    theirs = optax.nadam(0.1)
    with pytest.raises(ValueError, match=r"like\.average is given"):
        state_from_optax(theirs.init(params), tx.init(params))
    with pytest.raises(ValueError, match=r"state\.average is given"):
        state_to_optax(tx.init(params), theirs.init(params))


def test_a_step_on_what_the_average_was_made_of_does_not_touch_the_parameters() -> None:
    """Both may be donated: the state's average is a copy."""
    params = tree(0)
    tx = nadam(0.1, average_decay=DECAY)
    step = jax.jit(partial(tx.apply), donate_argnums=(1, 2))
    new, state = step(tree(1), tx.init(params), params)
    assert_close(state.average, new)
