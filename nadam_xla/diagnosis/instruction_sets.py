"""The instruction sets of this machine for which there are kernels."""

from nadam_xla.diagnosis.facts import Native
from nadam_xla.native_module import _native


def find_out(found: Native) -> None:
    """Those that could be used, whatever the environment says."""
    found["instruction_sets"] = _native.available_instruction_sets()
