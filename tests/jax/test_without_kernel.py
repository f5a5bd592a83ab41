"""Where there is no kernel, as on TPUs: plain StableHLO, of no more operations than it takes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from nadam_xla.coefficients import Coefficients, constant_momentum
from nadam_xla.coefficients import nadam as coefficients
from nadam_xla.jax import nadam, nadam_update, nadamw

LEAVES = {"kernel": jnp.linspace(-1, 1, 12).reshape(3, 4), "bias": jnp.linspace(0, 2, 4)}


def row(**others: Any) -> Coefficients:
    momentum = constant_momentum(0.9, 3.0)
    given = {"learning_rate": 1e-2, "b1": 0.9, "b2": 0.99, "b2_power": 0.97, "eps": 1e-3}
    return coefficients(momentum=momentum, **given)._replace(**others)


def by_optimizer(tx: Any) -> Callable[[Any, Any], Any]:
    return lambda params, grads: tx.apply(grads, tx.init(params), params)


def by_row(**others: Any) -> Callable[[Any, Any], Any]:
    return lambda params, grads: nadam_update(
        row(**others), params, grads, jax.tree.map(jnp.sin, params), jax.tree.map(jnp.square, grads)
    )


STEPS = {
    "nadam": by_optimizer(nadam(1e-2)),
    "schedule": by_optimizer(nadam(lambda count: 1e-2 / (1 + count))),
    "decay": by_optimizer(nadamw(1e-2, weight_decay=0.3)),
    "a row for each leaf": by_optimizer(nadamw(1e-2, mask={"kernel": True, "bias": False})),
    "l2": by_row(l2=0.1),
    "clipped": by_row(clip_value=0.5, grad_scale=0.7),
    "skipped": by_row(skip=1.0),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("step", STEPS)
def test_it_is_what_the_kernel_gives(step: str, dtype: str, request: pytest.FixtureRequest) -> None:
    with enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(dtype), LEAVES)
        grads = jax.tree.map(lambda x: jnp.cos(5 * x), params)
        expected = jax.jit(STEPS[step])(params, grads)
        request.getfixturevalue("no_kernels")
        given = jax.jit(STEPS[step])
        assert "custom_call" not in given.lower(params, grads).as_text()
        rtol = {"float32": 1e-5, "float64": 1e-12, "bfloat16": 2e-2}[dtype]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(
                np.asarray(a, float), np.asarray(b, float), rtol=rtol, atol=rtol / 100
            ),
            given(params, grads),
            expected,
        )


def test_coefficients_that_are_traced_may_switch_each_part_on_and_off(no_kernels: None) -> None:
    del no_kernels
    names = ("l2", "clip_value", "skip", "decay")

    def step(values: jax.Array) -> Any:
        return by_row(**dict(zip(names, values, strict=True)))(LEAVES, LEAVES)

    for values in ([0.1, 0.5, 0.0, 0.2], [0.0, 0.0, 0.0, 0.0], [0.1, 0.1, 1.0, 0.1]):
        known = by_row(**dict(zip(names, values, strict=True)))
        expected = jax.jit(known)(LEAVES, LEAVES)
        given = jax.jit(step)(jnp.array(values))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), given, expected)


def module_for_tpu(step: Callable[[Any, Any], Any]) -> str:
    return jax.export.export(jax.jit(step), platforms=["tpu"])(LEAVES, LEAVES).mlir_module()


def test_what_is_off_costs_nothing() -> None:
    """No table is taken apart, and nothing chosen for an update that is never skipped."""
    of_leaves = [
        line for line in module_for_tpu(by_row()).splitlines() if "tensor<3x4xf32>" in line
    ]
    for operation in ("slice", "select", "compare", "is_finite", "minimum", "maximum"):
        assert not any(f"stablehlo.{operation}" in line for line in of_leaves)
    assert "slice" not in module_for_tpu(by_row())
    assert "stablehlo.minimum" in module_for_tpu(by_row(clip_value=0.5))
