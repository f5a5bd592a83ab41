"""The entries of a PartitionSpec."""

from collections.abc import Iterable
from typing import TypeAlias

from jax.sharding import PartitionSpec

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
