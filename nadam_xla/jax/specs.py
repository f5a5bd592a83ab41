"""The entries of a PartitionSpec."""

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, TypeAlias

from jax.sharding import NamedSharding, PartitionSpec

from nadam_xla.blockwise import BLOCK

Entry: TypeAlias = str | tuple[str, ...] | None
"""How one dimension is sharded: not at all, over a mesh axis, or over several."""


def spec(*entries: Entry) -> PartitionSpec:
    """The PartitionSpec with these entries."""
    return PartitionSpec(*entries)


def axes_in(entry: Entry) -> tuple[str, ...]:
    """The mesh axes in one entry."""
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def axes_of(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The mesh axes in all entries."""
    return tuple(axis for entry in entries for axis in axes_in(entry))


def scales_entries(shape: Sequence[int], entries: Iterable[Entry], mesh: Any) -> list[Entry]:
    """Those of the scales of a moment in codes, for these of its codes.

    Where the last axis is sharded, but not between blocks, it is whole in the scales.

    Args:
        shape: of the codes.
        entries: of the codes, or the first of them.
        mesh: that has the axes.
    """
    of_codes = [*entries, *[None] * len(shape)][: len(shape)]
    parts = prod(mesh.shape[axis] for axis in axes_in(of_codes[-1]))
    return of_codes if shape[-1] % (parts * BLOCK) == 0 else [*of_codes[:-1], None]


def scales_sharding(shape: Sequence[int], of_codes: NamedSharding) -> NamedSharding:
    """That of the scales of a moment in codes, for that of its codes.

    Args:
        shape: of the codes.
        of_codes: their sharding.
    """
    mesh = of_codes.mesh
    entries = scales_entries(shape, of_codes.spec, mesh)
    return NamedSharding(mesh, spec(*entries), memory_kind=of_codes.memory_kind)
