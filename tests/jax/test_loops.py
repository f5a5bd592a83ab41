"""The step inside JAX's control flow: right, and in place."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import CALL, aliased_results, copied_bytes, copies_of_arrays, entry_of, text_of

from nadam_xla.jax import nadam

STEPS = 5
PARAMS = {
    "kernel": jnp.linspace(-1.0, 1.0, 35).reshape(7, 5),
    "bias": jnp.linspace(0.5, 2.0, 5),
    "more": jnp.full((3, 7), 0.25),
}
LEAVES = 9  # of parameters and moments
BATCHES = jnp.arange(1.0, 1.0 + STEPS)
OURS, STOCK = nadam(1e-2), optax.nadam(1e-2)


def loss(params: Any, batch: jax.Array) -> jax.Array:
    return sum(jnp.sum((batch * jnp.sin(p) - 0.5) ** 2) for p in jax.tree.leaves(params))


gradient_of_loss = jax.grad(loss)


def step_of(tx: Any, gradient: Any = gradient_of_loss) -> Any:
    def step(params: Any, state: Any, batch: jax.Array) -> tuple[Any, Any]:
        grads = gradient(params, batch)
        if tx is OURS:
            return tx.apply(grads, state, params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def scan(tx: Any) -> Any:
    def train(params: Any, state: Any) -> Any:
        def body(carry: Any, batch: jax.Array) -> Any:
            return step_of(tx)(*carry, batch), None

        return jax.lax.scan(body, (params, state), BATCHES)[0]

    return train


def unrolled_scan(tx: Any) -> Any:
    def train(params: Any, state: Any) -> Any:
        def body(carry: Any, batch: jax.Array) -> Any:
            return step_of(tx)(*carry, batch), None

        return jax.lax.scan(body, (params, state), BATCHES, unroll=STEPS)[0]

    return train


def fori_loop(tx: Any) -> Any:
    def train(params: Any, state: Any) -> Any:
        def body(i: jax.Array, carry: Any) -> Any:
            return step_of(tx)(*carry, BATCHES[i])

        return jax.lax.fori_loop(0, STEPS, body, (params, state))

    return train


def while_loop(tx: Any) -> Any:
    def train(params: Any, state: Any) -> Any:
        def count(state: Any) -> jax.Array:
            return optax.tree_utils.tree_get(state, "count")

        def body(carry: Any) -> Any:
            return step_of(tx)(*carry, BATCHES[count(carry[1])])

        return jax.lax.while_loop(lambda carry: count(carry[1]) < STEPS, body, (params, state))

    return train


def remat(tx: Any) -> Any:
    def train(params: Any, state: Any) -> Any:
        step = step_of(tx, jax.grad(jax.checkpoint(loss)))
        for batch in BATCHES:
            params, state = step(params, state, batch)
        return params, state

    return train


LOOPS = {f.__name__: f for f in (scan, unrolled_scan, fori_loop, while_loop, remat)}


def plain_loop(tx: Any) -> tuple[Any, Any]:
    params, state = PARAMS, tx.init(PARAMS)
    for batch in BATCHES:
        params, state = step_of(tx)(params, state, batch)
    return params, state


def assert_close(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), a, b)


@pytest.mark.parametrize("loop", LOOPS)
class TestLoops:
    def test_it_equals_a_plain_loop_and_optax(self, loop: str) -> None:
        params, state = LOOPS[loop](OURS)(PARAMS, OURS.init(PARAMS))
        assert_close((params, state), plain_loop(OURS))
        assert_close(params, plain_loop(STOCK)[0])
        assert state.count == STEPS

    def test_donated_it_is_in_place_from_the_first_step_to_the_last(self, loop: str) -> None:
        arguments = PARAMS, OURS.init(PARAMS)
        text = text_of(LOOPS[loop](OURS), *arguments, donate=(0, 1))
        assert text.count(CALL) >= 1
        assert copies_of_arrays(text) == 0
        assert len(aliased_results(text)) == len(jax.tree.leaves(arguments))

    def test_kept_arguments_are_copied_once_at_the_most(self, loop: str) -> None:
        """Into the loop, which then runs in place."""
        text = text_of(LOOPS[loop](OURS), PARAMS, OURS.init(PARAMS))
        assert copies_of_arrays(text) == copies_of_arrays(entry_of(text)) <= LEAVES


GRADS = jax.grad(loss)(PARAMS, BATCHES[0])
BAD_GRADS = jax.tree.map(lambda g: g.at[0].set(jnp.nan), GRADS)


def is_finite(grads: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grads)]))


def step_or_keep(tx: Any, *, swapped: bool) -> Any:
    """Takes the step where the gradients are finite, else leaves everything as it is."""

    def take(params: Any, state: Any, grads: Any) -> Any:
        return step_of(tx, lambda *_: grads)(params, state, None)

    def keep(params: Any, state: Any, grads: Any) -> Any:
        return params, state

    def train(params: Any, state: Any, grads: Any) -> Any:
        branches = (keep, take) if swapped else (take, keep)
        return jax.lax.cond(is_finite(grads) ^ swapped, *branches, params, state, grads)

    return train


@pytest.mark.parametrize("swapped", [False, True], ids=["step if", "keep if"])
class TestStepInOneBranch:
    def test_each_branch_does_what_it_says(self, swapped: bool) -> None:
        state = OURS.init(PARAMS)
        train = jax.jit(step_or_keep(OURS, swapped=swapped))
        assert_close(train(PARAMS, state, GRADS), OURS.apply(GRADS, state, PARAMS))
        kept = train(PARAMS, state, BAD_GRADS)
        jax.tree.map(np.testing.assert_array_equal, kept, (PARAMS, state))

    @pytest.mark.parametrize("donate", [(0, 1), ()], ids=["donated", "kept"])
    def test_its_copies_are_optax_s(self, swapped: bool, donate: tuple[int, ...]) -> None:
        ours, stock = (
            text_of(
                step_or_keep(tx, swapped=swapped), PARAMS, tx.init(PARAMS), GRADS, donate=donate
            )
            for tx in (OURS, STOCK)
        )
        assert ours.count(CALL) == 1
        if swapped and jax.__version_info__ < (0, 12):
            # There XLA copies where the step stands in the first of the branches, which is the
            # false one: stock optax's step too, and ours once more. docs/jax/loops.md tells it.
            assert copies_of_arrays(ours) <= copies_of_arrays(stock) + LEAVES
        else:
            assert copies_of_arrays(ours) <= copies_of_arrays(stock)
            assert copies_of_arrays(ours) == (0 if donate else LEAVES)


WRAPPERS = {
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "apply_if_finite around a chain": lambda tx: optax.apply_if_finite(
        optax.chain(optax.clip_by_global_norm(1.0), tx), 3
    ),
    "apply_if_finite in a chain": lambda tx: optax.chain(
        optax.clip_by_global_norm(1.0), optax.apply_if_finite(tx, 3)
    ),
    "conditionally_mask": lambda tx: optax.conditionally_mask(tx, lambda step: step % 2 == 0),
    "conditionally_transform": lambda tx: optax.conditionally_transform(
        tx, lambda step: step % 2 == 0
    ),
}


@pytest.mark.parametrize(
    ("given", "donate"), [(True, ()), (False, (0, 1))], ids=["given", "computed, donated"]
)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_s_branch_takes_no_more_memory_than_with_optax(
    wrapper: str, given: bool, donate: tuple[int, ...]
) -> None:
    params = [jnp.ones((256, 256))] * 4

    def compiled(tx: Any) -> Any:
        tx = WRAPPERS[wrapper](tx)

        def step(params: Any, state: Any, data: Any) -> Any:
            def mean_square(params: Any) -> jax.Array:
                return sum(jnp.mean(jnp.tanh(data @ p) ** 2) for p in params)

            grads = data if given else jax.grad(mean_square)(params)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        data = params if given else jnp.ones((8, 256))
        return jax.jit(step, donate_argnums=donate).lower(params, tx.init(params), data).compile()

    ours, stock = compiled(nadam(1e-2)), compiled(optax.nadam(1e-2))
    temporary = [x.memory_analysis().temp_size_in_bytes for x in (ours, stock)]
    assert temporary[0] <= temporary[1] + 4096
    assert copied_bytes(ours.as_text()) <= copied_bytes(stock.as_text())


def test_a_step_in_each_branch_takes_that_step() -> None:
    transformations = [nadam(rate) for rate in (1e-1, 1e-2, 1e-3)]

    def train(which: jax.Array, params: Any, state: Any) -> Any:
        branches = [lambda p, s, tx=tx: tx.apply(GRADS, s, p) for tx in transformations]
        return jax.lax.switch(which, branches, params, state)

    state = OURS.init(PARAMS)
    compiled = jax.jit(train)
    for which, tx in enumerate(transformations):
        assert_close(compiled(which, PARAMS, state), tx.apply(GRADS, state, PARAMS))


def test_it_runs_where_jit_is_disabled() -> None:
    state = OURS.init(PARAMS)
    expected = OURS.apply(GRADS, state, PARAMS)
    with jax.disable_jit():
        assert_close(OURS.apply(GRADS, state, PARAMS), expected)
