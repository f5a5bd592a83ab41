"""Nothing is copied: from pointers and from the compiled program."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import CALL, aliased_results, copies_of_arrays

from nadam_xla.coefficients import Coefficients
from nadam_xla.jax import lowering, nadam, nadamw, oldest_jax, primitive, registration
from nadam_xla.streams import Streams


def pointers(tree: Any) -> list[int]:
    return [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree) if x.ndim and x.size]


def params_of(leaves: int) -> list[jax.Array]:
    # The sizes differ, so that JAX's pairing of donated arguments can be read off the pointers.
    return [jnp.ones((64, i + 1)) for i in range(leaves)]


def mean_loss(params: list[jax.Array], x: jax.Array) -> jax.Array:
    return sum(jnp.mean((x @ p) ** 2) for p in params)


@pytest.mark.parametrize("leaves", [1, 33])
@pytest.mark.parametrize(
    "tx",
    [nadam(1e-3), nadam(1e-3, momentum_decay=1.0), nadamw(1e-3)],
    ids=["constant", "scheduled", "w"],
)
class TestTrainingStep:
    def step(self, tx: Any) -> Any:
        def step(params: Any, state: Any, x: jax.Array) -> tuple[Any, Any, jax.Array]:
            loss, grads = jax.value_and_grad(mean_loss)(params, x)
            params, state = tx.apply(grads, state, params)
            return params, state, loss

        return jax.jit(step, donate_argnums=(0, 1))

    def test_parameters_and_moments_keep_their_memory(self, tx: Any, leaves: int) -> None:
        params = params_of(leaves)
        state = tx.init(params)
        step, x = self.step(tx), jnp.ones((8, 64))
        before = pointers(params), pointers(state.mu), pointers(state.nu)
        for _ in range(3):
            params, state, _ = step(params, state, x)
        assert (pointers(params), pointers(state.mu), pointers(state.nu)) == before

    def test_the_compiled_step_copies_nothing(self, tx: Any, leaves: int) -> None:
        params = params_of(leaves)
        compiled = self.step(tx).lower(params, tx.init(params), jnp.ones((8, 64))).compile()
        text = compiled.as_text()
        assert copies_of_arrays(text) == 0
        assert text.count(CALL) == -(-leaves // 32), "some tens of leaves in a call"
        assert len(aliased_results(text)) >= 3 * leaves


def test_the_update_needs_no_temporary_memory_to_speak_of() -> None:
    tx = nadam(1e-3)
    params = [jnp.ones((512, 512)) for _ in range(8)]
    state = tx.init(params)
    step = jax.jit(
        lambda params, state, grads: tx.apply(grads, state, params), donate_argnums=(0, 1)
    )
    analysis = step.lower(params, state, params).compile().memory_analysis()
    assert analysis.temp_size_in_bytes <= 64 * 1024


def steps_of(tx: Any) -> dict[str, Any]:
    return {
        "apply": lambda params, state, grads: tx.apply(grads, state, params),
        "update": lambda params, state, grads: tx.update(grads, state, params),
        "update without params": lambda params, state, grads: tx.update(grads, state),
    }


@pytest.mark.parametrize("step", ["apply", "update", "update without params"])
def test_arguments_that_are_not_donated_stay_as_they_are_and_are_not_copied(step: str) -> None:
    """Aliased, XLA would copy every one of them before the call."""
    tx = nadam(1e-3)
    params = params_of(3)
    arguments = params, tx.init(params), params_of(3)
    kept = jax.tree.map(np.array, arguments)
    compiled = jax.jit(steps_of(tx)[step])
    first, new_state = compiled(*arguments)
    jax.tree.map(np.testing.assert_array_equal, kept, arguments)
    assert not np.array_equal(first[0], params[0])
    assert new_state.count == 1
    assert copies_of_arrays(compiled.lower(*arguments).compile().as_text()) == 0


def test_without_parameters_the_changes_take_the_memory_of_the_gradients() -> None:
    """They are no operand then; the gradients in their place would have to be copied."""
    tx = nadam(1e-3)
    grads = params_of(3)
    state = tx.init(grads)
    step = jax.jit(tx.update, donate_argnums=(0, 1))
    compiled = step.lower(grads, state).compile()
    assert copies_of_arrays(compiled.as_text()) == 0
    assert len(aliased_results(compiled.as_text())) >= 3 * 3
    expected, _ = tx.update(grads, state, grads)
    before = pointers(grads), pointers(state.mu), pointers(state.nu)
    changes, state = step(grads, state)
    assert (pointers(changes), pointers(state.mu), pointers(state.nu)) == before
    jax.tree.map(np.testing.assert_array_equal, changes, expected)


def test_a_product_with_parameters_that_were_overwritten_is_that_of_the_new_ones() -> None:
    """JAX 0.7.2 to 0.8.1 kept what XNNPACK had made of the old ones, by their address."""
    tx = nadam(0.1)
    params = jnp.ones((2048, 2048))
    state, x = tx.init(params), jnp.ones((64, 2048))
    step = jax.jit(tx.apply, donate_argnums=(1, 2))
    total = jax.jit(lambda params: (x @ params).sum())
    grads = jnp.ones_like(params)
    for _ in range(3):
        params, state = step(grads, state, params)
        in_place = total(params)
        np.testing.assert_allclose(in_place, total(jnp.array(params)), rtol=1e-5)


def test_a_jax_that_multiplies_by_overwritten_parameters_is_refused_at_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jax, "__version_info__", (0, 8, 1))
    with pytest.raises(ImportError, match=r"needs JAX 0\.8\.2 or later, and this is"):
        importlib.reload(oldest_jax)


def test_a_runtime_with_an_older_ffi_is_refused_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration._native, "FFI_API_VERSION", (0, 99))
    with pytest.raises(
        ImportError, match=r"built for version 0.99 of XLA's FFI, and jaxlib .* has"
    ):
        lowering.install()


def test_the_primitive_checks_what_reaches_it_past_the_functions_above() -> None:
    x = jnp.ones((2, 3))
    width = len(Coefficients._fields)
    table = jnp.ones((1, 1, width))
    for operands, message in [
        ((table, x, x, x), "it takes as many of each of params, grads, mu, nu"),
        ((table[..., :5], x, x, x, x), "a table of the shape"),
        ((table, x, x.T, x, x), r"operand 2; it must have the shape \(2, 3\)"),
        ((table, x, x.astype(jnp.int32), x, x), "operand 2; .* a floating dtype"),
        (
            (jnp.ones((5, 1, width)), x, x, x, x),
            "first axis must be the table's batch of 5",
        ),
    ]:
        with pytest.raises(TypeError, match=message):
            primitive.bind(*operands, streams=Streams())
