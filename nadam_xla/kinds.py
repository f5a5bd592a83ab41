"""Which leaves can be updated together: those that are computed alike and consist of the same."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nadam_xla.blockwise import CODES
from nadam_xla.calls import compute_dtype
from nadam_xla.storage import NARROW
from nadam_xla.streams import Streams

ROUNDED = ("params", "mu", "nu")
"""The streams whose new values are rounded to what is stored."""


class Kind(NamedTuple):
    """What the leaves that are updated together have in common."""

    dtype: str  # that they are computed in
    streams: Streams


def by_kind(
    dtypes: Mapping[str, Sequence[str]],
    has_master: Sequence[bool],
    rounding: str,
    has_average: Sequence[bool] | None = None,
) -> dict[Kind, list[int]]:
    """The leaves, by their numbers, of each kind.

    Args:
        dtypes: of each leaf, its name, for each of ``ROUNDED``. Moments of the dtype of codes are
            codes, and have scales.
        has_master: of each leaf.
        rounding: as :data:`nadam_xla.storage.Rounding` has it. Of what is not narrow, it is
            nearest.
        has_average: of each leaf; None: none has one.
    """
    kinds: dict[Kind, list[int]] = {}
    for i, dtype in enumerate(dtypes["params"]):
        is_narrow = any(dtypes[name][i] in NARROW for name in ROUNDED)
        streams = Streams(
            has_master=has_master[i],
            is_stochastic=rounding == "stochastic" and is_narrow,
            has_average=has_average is not None and has_average[i],
            has_mu_scales=dtypes["mu"][i] == CODES["mu"],
            has_nu_scales=dtypes["nu"][i] == CODES["nu"],
        )
        kinds.setdefault(Kind(compute_dtype(dtype), streams), []).append(i)
    return kinds
