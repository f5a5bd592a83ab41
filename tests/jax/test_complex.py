"""Complex leaves train as with optax: the second moment is that of the gradient's magnitude."""

import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import calls_in
from training import assert_close
from x64 import enable_x64

from nadam_xla.coefficients import Coefficients
from nadam_xla.jax import (
    chain,
    fuse_updates,
    nadam,
    nadam_update,
    nadamw,
    state_from_optax,
    state_to_keras,
    state_to_optax,
    state_to_torch,
    sum_squares,
)

STEPS = 8


@pytest.fixture(autouse=True)
def no_imaginary_part_is_lost() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*omplex")
        yield


def numbers(seed: int, *shape: int, dtype: Any = jnp.complex64) -> jax.Array:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape), dtype)


def tree(seed: int) -> Any:
    return {"complex": numbers(seed, 3, 4), "real": numbers(seed + 1, 5).real, "scalar": numbers(2)}


def run(tx: Any, step: str = "update", start: Any = None) -> tuple[Any, Any]:
    @jax.jit
    def one(params: Any, state: Any, grads: Any) -> Any:
        if step == "apply":
            return tx.apply(grads, state, params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    one = jax.jit(fuse_updates(one)) if step == "fused" else one
    params, state = start or (tree(0), tx.init(tree(0)))
    for t in range(STEPS):
        params, state = one(params, state, tree(10 + t))
    return params, state


PAIRS = {
    "nadam": (nadam(1e-2), optax.nadam(1e-2)),
    "adam": (nadam(1e-2, nesterov=False), optax.adam(1e-2)),
    "nadamw": (
        nadamw(1e-2, weight_decay=0.1, mask={"complex": True, "real": False, "scalar": True}),
        optax.nadamw(1e-2, weight_decay=0.1, mask={"complex": True, "real": False, "scalar": True}),
    ),
    "first moments in complex64": (
        nadam(1e-2, mu_dtype="complex64"),
        optax.nadam(1e-2, mu_dtype="complex64"),
    ),
    "clipped": (
        chain(optax.clip_by_global_norm(0.5), nadam(1e-2)),
        optax.chain(optax.clip_by_global_norm(0.5), optax.nadam(1e-2)),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("step", ["update", "apply", "fused"])
def test_it_trains_as_optax_s(name: str, step: str) -> None:
    ours, theirs = PAIRS[name]
    params, state = run(ours, step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optax casts a real parameter's complex change
        expected, _ = run(theirs)
    assert_close(params, expected)
    assert jax.tree.map(jnp.result_type, params) == jax.tree.map(jnp.result_type, tree(0))
    nu = optax.tree_utils.tree_get(state, "nu")
    assert {x.dtype for x in jax.tree.leaves(nu)} == {jnp.dtype("float32")}


def test_complex128() -> None:
    with enable_x64(True):
        params = numbers(0, 3, dtype=jnp.complex128)
        for ours, theirs in ((nadam(1e-2), optax.nadam(1e-2)),):
            changes = [tx.update(params, tx.init(params), params)[0] for tx in (ours, theirs)]
            np.testing.assert_allclose(*changes, rtol=1e-7)
        state = nadam(1e-2, momentum_decay=1.0).init(params)
        dtypes = state.mu.dtype, state.nu.dtype, state.momentum_product.dtype
        assert dtypes == ("complex128", "float64", "float64")


def test_real_leaves_beside_them_are_still_one_call() -> None:
    tx = nadam(1e-2)
    params = tree(0)
    assert calls_in(tx.apply, params, tx.init(params), params) == 1


def test_populations_and_derivatives() -> None:
    def loss(rate: Any, tx_of: Any) -> Any:
        tx = tx_of(rate)
        params = numbers(0, 3)
        updates, _ = tx.update(numbers(1, 3), tx.init(params), params)
        return jnp.sum(jnp.abs(params + updates) ** 2)

    rates = jnp.array([1e-3, 1e-2])
    for function in (loss, jax.grad(loss)):
        ours, theirs = (
            jax.jit(jax.vmap(function, in_axes=(0, None)), static_argnums=1)(rates, tx_of)
            for tx_of in (nadam, optax.nadam)
        )
        assert_close(ours, theirs)


def test_the_rule_with_all_that_is_optional() -> None:
    row = Coefficients(0.5, 0.5, 1.0, 0.9, 0.1, 0.99, 0.01, 0.1, 1e-3, decay=0.2, l2=0.3)
    p, g, m = (numbers(seed, 4) for seed in range(3))
    v = jnp.abs(numbers(3, 4))
    new, mu, nu = nadam_update(row._replace(grad_scale=2.0, clip_value=0.5), p, g, m, v)
    clipped = jnp.clip(2 * g.real, -0.5, 0.5) + 1j * jnp.clip(2 * g.imag, -0.5, 0.5)
    gradient = clipped + 0.3 * p
    expected_mu = 0.9 * m + 0.1 * gradient
    expected_nu = 0.99 * v + 0.01 * jnp.abs(gradient) ** 2
    taken = 0.2 * p + 0.1 * (0.5 * expected_mu + 0.5 * gradient) / (jnp.sqrt(expected_nu) + 1e-3)
    assert_close((new, mu, nu), (p - taken, expected_mu, expected_nu))
    change, *_ = nadam_update(row._replace(skip=1.0), p, g, m, v, returns="change")
    assert not jnp.any(change)


class TestConversion:
    def test_a_run_begun_with_optax_goes_on(self) -> None:
        ours, theirs = nadam(1e-2), optax.nadam(1e-2)
        params, begun = run(theirs)
        state = state_from_optax(begun, like=ours.init(params))
        back = state_to_optax(state, like=begun)
        assert_close(back, begun)
        on = run(ours, start=(params, state))[0]
        assert_close(on, run(theirs, start=(params, begun))[0])

    @pytest.mark.parametrize(
        "convert",
        [
            lambda state: state_to_torch(state, jax.tree.leaves, tensor=np.asarray),
            lambda state: state_to_keras(state, jax.tree.leaves, learning_rate=None),
        ],
    )
    def test_torch_and_keras_have_another_second_moment_or_none(self, convert: Any) -> None:
        state = nadam(1e-2, momentum_decay=1.0).init(tree(0))
        with pytest.raises(TypeError, match=r"a moment is complex64\[3,4\]; only real ones"):
            convert(state)


class TestErrors:
    def test_complex_gradients_of_real_parameters(self) -> None:
        params, grads = {"w": jnp.ones(3)}, {"w": jnp.ones(3) * 1j}
        tx = nadam(1e-2)
        for step in (tx.update, tx.apply):
            with pytest.raises(TypeError, match=r"grads\['w'\] is complex64\[3\], and its first"):
                step(grads, tx.init(params), params)

    def test_first_moments_that_would_lose_the_imaginary_part(self) -> None:
        with pytest.raises(TypeError, match=r"params\['scalar'\].* mu_dtype is 'bfloat16'; first"):
            nadam(1e-2, mu_dtype="bfloat16").init({"real": jnp.ones(2), "scalar": numbers(0)})

    def test_second_moments_that_are_complex(self) -> None:
        x = numbers(0, 3)
        with pytest.raises(TypeError, match=r"nu is complex64\[3\]; second moments are real"):
            nadam_update(jnp.ones(len(Coefficients._fields)), x, x, x, x)

    def test_sums_of_squares(self) -> None:
        with pytest.raises(TypeError, match=r"tree\['w'\] is complex64\[3\]; it must be real"):
            sum_squares({"w": numbers(0, 3)})


class TestNumbers:
    """optax.inject_hyperparams makes complex scalars of real numbers, for complex parameters."""

    def test_injected_ones_are_real(self) -> None:
        ours, theirs = (optax.inject_hyperparams(make)(1e-2) for make in (nadam, optax.nadam))
        params = numbers(0, 3)
        found, expected = (
            jax.jit(tx.update)(numbers(1, 3), tx.init(params), params)[0] for tx in (ours, theirs)
        )
        assert_close(found, expected)

    @pytest.mark.parametrize("name", ["learning_rate", "b1", "b2", "eps", "l2"])
    @pytest.mark.parametrize("number", [0.1 + 0.1j, jnp.complex64(0.1 + 0.1j)])
    def test_one_with_an_imaginary_part_is_refused(self, name: str, number: Any) -> None:
        with pytest.raises(TypeError, match=f"{name} is .*; it must be real"):
            nadam(**{"learning_rate": 1e-2, name: number})

    def test_so_is_that_of_a_schedule(self) -> None:
        tx = nadam(lambda count: jnp.complex64(0.1j))
        with pytest.raises(TypeError, match=r"learning_rate is .*; it must be real"):
            tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


def test_a_schedule_for_each_element_and_no_rate_at_all_are_named() -> None:
    x = jnp.ones(3)
    tx = nadam(lambda count: x)
    with pytest.raises(ValueError, match=r"learning_rate has the shape \(3,\); it must be a scal"):
        tx.update(x, tx.init(x))
    with pytest.raises(TypeError, match="learning_rate is None; give a number"):
        nadam(None)  # type: ignore[arg-type]
