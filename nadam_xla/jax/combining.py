"""Transformations of the gradients, and then the fused pass."""

from typing import Any

import jax
import optax
from jax.tree_util import keystr

from nadam_xla.jax.checks import PyTree, describe
from nadam_xla.jax.optimizer import NadamTransformation, with_apply
from nadam_xla.jax.rows import is_sparse


def chain(*transformations: optax.GradientTransformation) -> NadamTransformation:
    """``optax.chain`` that ends in one of our optimizers, with an ``apply``.

    ``apply(grads, state, params) -> (params, state)`` runs the first transformations, and hands
    what they make of the gradients to the last one's ``apply``, which makes the new parameters in
    one pass. ``init``, ``update`` and the state are those of ``optax.chain``::

        tx = chain(optax.clip_by_global_norm(1.0), nadamw(1e-3))

    Args:
        *transformations: any of optax's transformations, and then :func:`nadam`, :func:`nadamw` or
            another ``chain``.

    Raises:
        TypeError: the last one has no ``apply``, or none is given. ``apply`` raises it where a
            gradient is a :class:`RowGradient` and there are transformations before the last, which
            would take its indices for gradients.
    """
    last = transformations[-1] if transformations else None
    if not isinstance(last, NadamTransformation):
        raise TypeError(
            f"the last transformation of chain is {describe(last)}; it must be nadam, nadamw or a"
            " chain of them (optax.chain takes any other, and fuse_updates may fuse what it makes)"
        )
    chained = optax.chain(*transformations)
    first = [optax.with_extra_args_support(each) for each in transformations[:-1]]

    def apply(
        grads: PyTree, state: tuple[Any, ...], params: PyTree, **extra_args: Any
    ) -> tuple[PyTree, tuple[Any, ...]]:
        if not isinstance(state, tuple) or len(state) != len(transformations):
            raise TypeError(
                f"state is {describe(state)}; it must be the tuple of {len(transformations)} states"
                " that init returned"
            )
        if first:
            _check_dense(grads)
        states = []
        for transformation, before in zip(first, state[:-1], strict=True):
            grads, after = transformation.update(grads, before, params, **extra_args)
            states.append(after)
        new, of_last = last.apply(grads, state[-1], params, **extra_args)
        return new, (*states, of_last)

    return with_apply(chained.init, chained.update, apply)


def _check_dense(grads: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads, is_leaf=is_sparse):
        if is_sparse(leaf):
            raise TypeError(
                f"grads{keystr(path)} is {describe(leaf)}, of which the transformations before the"
                " optimizer know nothing: use the optimizer's own max_norm, clip_value and the like"
            )
