"""``nadam_xla.keras.update_path``: what the warning says, and what nobody is warned of."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from nadam_xla import UpdatePath
from nadam_xla.keras import Nadam, update_path

BACKEND = keras.backend.backend()
FUSED = BACKEND in ("tensorflow", "jax")

only_where_fused = pytest.mark.skipif(not FUSED, reason=f"{BACKEND} has no fused step")


def variables() -> list[Any]:
    return [keras.Variable(np.ones(3, "f")) for _ in range(2)]


def built(optimizer: Any) -> Any:
    optimizer.build(variables())
    return optimizer


def warnings_of_a_step(optimizer: Any, trainable_variables: list[Any] | None = None) -> list[str]:
    if trainable_variables is None:
        trainable_variables = optimizer._trainable_variables
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.apply([ops.ones(3) for _ in trainable_variables], trainable_variables)
    return [str(w.message) for w in caught if "own update" in str(w.message)]


@only_where_fused
@pytest.mark.parametrize("make", [Nadam, lambda: built(Nadam())], ids=["new", "built"])
def test_the_kernel(make: Callable[[], Any]) -> None:
    assert update_path(make()) == UpdatePath("kernel")


@pytest.mark.skipif(FUSED, reason="for the backends without a fused step")
def test_other_backends_have_the_parents_update_and_nobody_is_warned() -> None:
    optimizer = built(Nadam())
    reason = f"nadam_xla has no fused step for Keras's backend {BACKEND}"
    assert update_path(optimizer) == UpdatePath("stock", reason)
    assert warnings_of_a_step(optimizer) == []


@only_where_fused
def test_what_is_switched_off_nobody_is_warned_of() -> None:
    optimizer = built(Nadam(name="plain"))
    optimizer.fused = False
    assert update_path(optimizer) == UpdatePath("stock", "plain has fused set to False")
    assert warnings_of_a_step(optimizer) == []
    optimizer.fused = True
    assert update_path(optimizer) == UpdatePath("kernel")


class Signs(Nadam):
    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        return [ops.sign(g) for g in grads]


@only_where_fused
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Signs(name="a"), "a (Signs) has a method _clip_gradients of its own"),
        (lambda: Nadam(name="b", weight_decay=[0.1] * 3), "of b, weight_decay has the shape (3,)"),
    ],
    ids=["a method of its own", "no scalar"],
)
def test_the_warning_says_the_same_and_asking_does_not_use_it_up(
    make: Callable[[], Any], reason: str
) -> None:
    optimizer = built(make())
    assert update_path(optimizer) == update_path(optimizer) == UpdatePath("stock", reason)
    said = warnings_of_a_step(optimizer)
    assert said == [f"{reason}. Training goes on by Keras's own update."]
    assert warnings_of_a_step(optimizer) == [], "once"


@only_where_fused
def test_a_step_of_some_variables() -> None:
    optimizer = built(Nadam(name="twice"))
    first, second = optimizer._trainable_variables
    assert update_path(optimizer, [second]) == UpdatePath("kernel")
    path = update_path(optimizer, [first, first])
    assert path == UpdatePath("stock", "twice was given a variable twice in one step")


@only_where_fused
def test_within_loss_scaling() -> None:
    inner = Nadam()
    optimizer = built(keras.optimizers.LossScaleOptimizer(inner))
    assert update_path(optimizer) == UpdatePath("kernel")
    inner.fused = False
    assert update_path(optimizer).update == "stock"


def test_another_optimizer_is_refused() -> None:
    with pytest.raises(TypeError, match="optimizer is a Adam; it must be nadam_xla's Nadam"):
        update_path(keras.optimizers.Adam())


def test_unknown_variables_are_refused() -> None:
    with pytest.raises(ValueError, match="Unknown variable"):
        update_path(built(Nadam()), variables())
