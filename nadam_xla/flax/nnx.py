"""Flax NNX's optimizer."""

from typing import Any

import jax
from flax import nnx

# Flax 0.12.7 renamed it.
_pure = nnx.as_pure if hasattr(nnx, "as_pure") else nnx.pure


class Optimizer(nnx.Optimizer):  # type: ignore[misc]
    """``flax.nnx.Optimizer`` whose ``update`` is one pass.

    Its arguments are those of Flax's. ``tx`` must have an ``apply``, as
    :func:`nadam_xla.jax.nadam`, :func:`nadam_xla.jax.nadamw` and :func:`nadam_xla.jax.chain` do.

    Raises:
        TypeError: it has none.
    """

    def __init__(self, model: Any, tx: Any, **kwargs: Any) -> None:
        if not hasattr(tx, "apply"):
            raise TypeError(
                f"tx is {type(tx).__module__}.{type(tx).__qualname__} without apply; it must be"
                " nadam, nadamw or chain of nadam_xla.jax (flax.nnx.Optimizer takes any other)"
            )
        super().__init__(model, tx, **kwargs)

    def update(self, model: Any, grads: Any, /, **kwargs: Any) -> None:
        """Takes one step: sets the model's parameters and this optimizer's state and step.

        Flax's own returns the change of the parameters. Here there is none.

        Args:
            model: the module.
            grads: the gradients, as ``nnx.grad`` gives them.
            **kwargs: whatever else the optimizer's transformations take.

        Raises:
            ValueError: the gradients do not fit the parameters; the message names the leaf.
            TypeError: a leaf is not a floating-point array.
        """
        # Older versions have one kind of modules.
        kind = {"graph": self.graph} if hasattr(self, "graph") else {}
        params = _pure(nnx.state(model, self.wrt, **kind))
        given = _pure(nnx.state(grads, self.wrt, **kind))
        new, state = self.tx.apply(given, _pure(self.opt_state), params, **_pure(kwargs))
        nnx.update(model, new)
        jax.tree.map(_set_value, self.opt_state, state, is_leaf=_is_variable)
        self.step[...] += 1


def _is_variable(node: object) -> bool:
    return isinstance(node, nnx.Variable)


def _set_value(variable: Any, value: Any) -> None:
    """Where Flax's own ``nnx.update`` would take a moment in codes apart, which is two arrays."""
    if hasattr(variable, "set_value"):
        variable.set_value(value)
    else:  # older versions
        variable.value = value
