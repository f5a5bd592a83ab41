"""Our `chain`: optax's, with an `apply`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from compiled import CALL, copies_of_arrays, text_of
from training import PARAMS, assert_close, gradients, train

from nadam_xla.jax import chain, nadam, nadamw, scale_by_nadam

GRADS = gradients(12)
BEFORE: dict[str, list[Any]] = {
    "nothing": [],
    "clipping": [optax.clip_by_global_norm(1.0)],
    "several with states": [
        optax.zero_nans(),
        optax.clip(0.5),
        optax.add_noise(0.01, 0.5, 0),
        optax.trace(0.9),
    ],
    "some that read the parameters": [
        optax.adaptive_grad_clip(0.1),
        optax.add_decayed_weights(0.1),
    ],
}


@pytest.mark.parametrize("name", BEFORE)
def test_it_trains_as_optax_s(name: str) -> None:
    before = BEFORE[name]
    ours = chain(*before, nadamw(1e-2, weight_decay=0.1))
    params, state = train(ours, GRADS, apply=True)
    expected, expected_state = train(
        optax.chain(*before, optax.nadamw(1e-2, weight_decay=0.1)), GRADS
    )
    assert_close(params, expected)
    for own, theirs in zip(state[:-1], expected_state[:-1], strict=True):
        assert jax.tree.structure(own) == jax.tree.structure(theirs)
    of_update, state_of_update = train(ours, GRADS)
    assert_close(params, of_update)
    assert jax.tree.structure(state) == jax.tree.structure(state_of_update)


def test_a_chain_may_end_in_a_chain() -> None:
    inner = chain(optax.clip(0.5), nadam(1e-2))
    params, state = train(chain(optax.clip_by_global_norm(1.0), inner), GRADS, apply=True)
    flat = optax.chain(optax.clip_by_global_norm(1.0), optax.clip(0.5), optax.nadam(1e-2))
    assert_close(params, train(flat, GRADS)[0])
    assert len(state) == len(state[-1]) == 2


def test_extra_arguments_reach_those_that_take_them() -> None:
    seen = []

    def update(updates: Any, state: Any, params: Any = None, *, value: Any, **_: Any) -> Any:
        seen.append(value)
        return updates, state

    takes = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    tx = chain(takes, optax.clip(0.1), nadam(1e-2))
    tx.apply(GRADS[0], tx.init(PARAMS), PARAMS, value=3)
    assert seen == [3]


def test_it_ends_in_the_one_pass() -> None:
    tx = chain(optax.clip(0.5), nadamw(1e-2))
    params = jnp.ones((64, 64))

    def step(params: Any, state: Any, grads: Any) -> Any:
        return tx.apply(grads, state, params)

    text = text_of(step, params, tx.init(params), params, donate=(0, 1))
    assert text.count(CALL) == 1
    assert copies_of_arrays(text) == 0


@pytest.mark.parametrize(
    ("transformations", "given"),
    [
        ((), "None"),
        ((nadam(1e-2), optax.scale(0.5)), "GradientTransformation"),
        ((optax.clip(1.0), scale_by_nadam()), "GradientTransformationExtraArgs"),
        ((optax.clip(1.0), optax.nadam(1e-2)), "GradientTransformation"),
    ],
)
def test_the_last_one_must_be_ours(transformations: Any, given: str) -> None:
    with pytest.raises(
        TypeError, match=f"last transformation of chain is .*{given}.*must be nadam"
    ):
        chain(*transformations)


def test_another_state_is_refused() -> None:
    tx = chain(optax.clip(1.0), nadam(1e-2))
    with pytest.raises(TypeError, match="it must be the tuple of 2 states that init returned"):
        tx.apply(GRADS[0], nadam(1e-2).init(PARAMS), PARAMS)
