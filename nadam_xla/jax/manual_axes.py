"""Over which axes of the mesh a value varies inside ``shard_map``, in each JAX's own words."""

from collections.abc import Sequence
from typing import Any

import jax


def vary_alike(values: Sequence[jax.Array], also: jax.Array) -> list[jax.Array]:
    """The values, each made to vary over every axis over which one of them or ``also`` does.

    That is a change of their types alone. Outside ``shard_map``, and where it does not check this,
    they come back as they are.
    """
    varying = [varying_axes(jax.typeof(value)) for value in values]
    union = varying_axes(jax.typeof(also)).union(*varying)
    return [
        _vary_over(value, union - axes) if union - axes else value
        for value, axes in zip(values, varying, strict=True)
    ]


def varying_axes(type_: Any) -> frozenset[str]:
    """The axes over which an array of this type varies."""
    if hasattr(type_, "manual_axis_type"):  # JAX 0.10 and later
        return frozenset(type_.manual_axis_type.varying)
    return frozenset(type_.vma)


def _vary_over(value: jax.Array, axes: frozenset[str]) -> jax.Array:
    names = tuple(sorted(axes))
    varying: jax.Array = jax.lax.pcast(value, names, to="varying")
    return varying
