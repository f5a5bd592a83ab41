"""Nadam inside TensorFlow's XLA: the fused update of tensors, and raw ops on variables.

Importing this registers the kernels with the XLA that is part of TensorFlow. Where that cannot be
reached, the ops raise :class:`NotImplementedError` and say why.
"""

from nadam_xla.frameworks import in_versions
from nadam_xla.tensorflow.any_tensorflow import TESTED_TENSORFLOW

with in_versions("tensorflow", TESTED_TENSORFLOW):
    from nadam_xla.tensorflow import raw_ops
    from nadam_xla.tensorflow.rows import nadam_update_rows
    from nadam_xla.tensorflow.sum_squares import sum_squares
    from nadam_xla.tensorflow.update import nadam_update
    from nadam_xla.tensorflow.update_path import update_path

__all__ = ["nadam_update", "nadam_update_rows", "raw_ops", "sum_squares", "update_path"]
