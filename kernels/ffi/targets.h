// The names of the custom calls, the same on every platform. The number is a promise: an exported
// program keeps meaning what it meant.
#pragma once

#include "kernels/update_rule.h"

namespace nadam_xla::ffi {

// The calls of the update differ in the layout of their rows alone.
constexpr const char* update_target(const RowLayout layout) {
  return layout == RowLayout::kV1 ? "nadam_xla_update_v1" : "nadam_xla_update_v2";
}

// The update of one entry of stacks: of the layers, say, whose parameters a scan runs over.
inline constexpr const char* kUpdateEntryTarget = "nadam_xla_update_entry_v1";

// The update of some rows of a table.
inline constexpr const char* kUpdateRowsTarget = "nadam_xla_update_rows_v1";

inline constexpr const char* kSumSquaresTarget = "nadam_xla_sum_squares_v1";

}  // namespace nadam_xla::ffi
