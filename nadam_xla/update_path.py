"""Which update a step runs, and why: the one type in which every framework answers."""

from typing import Literal, NamedTuple, TypeAlias

Update: TypeAlias = Literal["kernel", "stablehlo", "stock", "none"]


class UpdatePath(NamedTuple):
    """Which update a step runs.

    Attributes:
        update: ``"kernel"``: nadam_xla's kernel, in one pass. ``"stablehlo"``: the same rule in
            plain operations, which XLA compiles. ``"stock"``: the framework's own update.
            ``"none"``: there is no update, and what would call it raises.
        reason: why it is not the kernel; None where it is.
    """

    update: Update
    reason: str | None = None

    def __str__(self) -> str:
        """Both, as a sentence has them."""
        return self.update if self.reason is None else f"{self.update}: {self.reason}"
