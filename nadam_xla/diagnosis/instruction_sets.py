"""The instruction sets of this machine for which there are kernels."""

from nadam_xla import _native
from nadam_xla.diagnosis.facts import Native


def find_out(found: Native) -> None:
    """Those that could be used, whatever the environment says."""
    found["instruction_sets"] = _native.available_instruction_sets()
