"""The names of the custom calls, the same on every platform; kernels/ffi/targets.h has them too.

The number is a promise: an exported program keeps meaning what it meant.
"""

UPDATE = "nadam_xla_update_v2"
UPDATE_ENTRY = "nadam_xla_update_entry_v1"
UPDATE_ROWS = "nadam_xla_update_rows_v1"
SUM_SQUARES = "nadam_xla_sum_squares_v1"
