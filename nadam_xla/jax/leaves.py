"""The leaves of an update: the arrays that each consists of, and which are updated together."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nadam_xla.blockwise import SCALES
from nadam_xla.calls import compute_dtype
from nadam_xla.jax.blockwise import Blockwise, is_blockwise
from nadam_xla.jax.dtypes import is_complex
from nadam_xla.jax.manual_axes import varying_axes
from nadam_xla.kinds import ROUNDED
from nadam_xla.storage import NARROW, Rounding
from nadam_xla.streams import Streams


class Leaf(NamedTuple):
    """A leaf's arrays by their streams, those of its codes and scales among them."""

    given: Mapping[str, jax.Array]
    master: jax.Array | None

    def array(self, stream: str) -> Any:
        """That of a stream."""
        return self.master if stream == "master" else self.given[stream]

    def has_scales(self, moment: str) -> bool:
        """Whether a moment is in codes."""
        return SCALES[moment] in self.given

    @property
    def dtype(self) -> Any:
        """That of the leaf's change, and of its parameter where it is there."""
        params = self.given.get("params")
        if params is not None:
            return params.dtype
        in_codes = [name for name in SCALES if self.has_scales(name)]
        # The scales stand for the codes, which are float32 too.
        return jnp.result_type(*(x for name, x in self.given.items() if name not in in_codes))


def leaf_of(given: Mapping[str, Any], master: jax.Array | None) -> Leaf:
    """The leaf of these arrays and moments in codes."""
    arrays: dict[str, Any] = {}
    for name, x in given.items():
        if is_blockwise(x):
            arrays |= {name: x.codes, SCALES[name]: x.scales}
        else:
            arrays[name] = x
    return Leaf({name: jnp.asarray(x) for name, x in arrays.items()}, master)


def moment_of(new: Mapping[str, jax.Array], name: str) -> jax.Array | Blockwise:
    """The moment, in codes where its scales are there."""
    scales = new.get(SCALES[name])
    return new[name] if scales is None else Blockwise(new[name], scales)


class LeafKind(NamedTuple):
    """What the leaves that are updated together have in common."""

    dtype: str  # that they are computed in
    streams: Streams
    is_complex: bool
    axes: tuple[str, ...]  # over which they vary in ``shard_map``, where numbers are drawn


def kinds_of(
    leaves: Mapping[int, Leaf], plain: Streams, rounding: Rounding
) -> dict[LeafKind, list[int]]:
    """The leaves, by their numbers, of each kind.

    Args:
        leaves: those that are updated, by their numbers.
        plain: as for :func:`kind_of`.
        rounding: likewise.
    """
    kinds: dict[LeafKind, list[int]] = {}
    for i, leaf in leaves.items():
        kinds.setdefault(kind_of(leaf, plain, rounding), []).append(i)
    return kinds


def kind_of(leaf: Leaf, plain: Streams, rounding: Rounding) -> LeafKind:
    """The kind of a leaf.

    Args:
        leaf: the leaf.
        plain: the streams of one that has no master and is rounded to the nearest.
        rounding: of what is narrow.
    """
    stored = [x for name, x in leaf.given.items() if name in ROUNDED]
    is_stochastic = rounding == "stochastic" and any(str(x.dtype) in NARROW for x in stored)
    varying = (varying_axes(jax.typeof(x)) for x in leaf.given.values())
    streams = plain._replace(
        has_master=leaf.master is not None,
        is_stochastic=is_stochastic,
        has_mu_scales=leaf.has_scales("mu"),
        has_nu_scales=leaf.has_scales("nu"),
    )
    return LeafKind(
        dtype=compute_dtype(str(leaf.dtype)),
        streams=streams,
        is_complex=any(map(is_complex, leaf.given.values())),
        axes=tuple(sorted(frozenset().union(*varying))) if streams.is_drawn else (),
    )
