"""Flax linen's training state."""

from typing import Any

from flax.training import train_state
from jax.typing import ArrayLike

# The collection whose "gradients" take the place of its values, as Flax's own states treat it.
_OVERWRITTEN = train_state.OVERWRITE_WITH_GRADIENT


class TrainState(train_state.TrainState):  # type: ignore[misc]
    """``flax.training.train_state.TrainState`` whose ``apply_gradients`` is one pass.

    Where ``tx`` has an ``apply``, as :func:`nadam_xla.jax.nadam`, :func:`nadam_xla.jax.nadamw` and
    :func:`nadam_xla.jax.chain` have it, that makes the new parameters; where it has none, Flax's
    own method does, and :func:`nadam_xla.jax.fuse_updates` around the step may still fuse it. It is
    in place where the ``jax.jit`` around it donates the state.
    """

    def apply_gradients(
        self, *, grads: Any, grad_scale: ArrayLike | None = None, **kwargs: Any
    ) -> "TrainState":
        """The state after one more step.

        Args:
            grads: the gradients, a tree like ``params``.
            grad_scale: a scalar that they are multiplied by, as ``apply`` takes it; only with a
                ``tx`` that has it.
            **kwargs: other attributes to replace.

        Raises:
            ValueError: the gradients do not fit the parameters; the message names the leaf.
            TypeError: a leaf is not a floating-point array.
        """
        scale = {} if grad_scale is None else {"grad_scale": grad_scale}
        if not hasattr(self.tx, "apply"):
            return super().apply_gradients(grads=grads, **scale, **kwargs)  # type: ignore[no-any-return]
        overwrites = _OVERWRITTEN in grads
        trees = self.params, grads
        trained, given = (tree["params"] for tree in trees) if overwrites else trees
        params, opt_state = self.tx.apply(given, self.opt_state, trained, **scale)
        if overwrites:
            params = {"params": params, _OVERWRITTEN: grads[_OVERWRITTEN]}
        changed = {"step": self.step + 1, "params": params, "opt_state": opt_state}
        return self.replace(**changed, **kwargs)  # type: ignore[no-any-return]
