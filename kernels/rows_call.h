// One call of the update of some rows of a table, as an embedding's step needs it.
//
// The rows are given by their numbers, in any order. Those that occur more than once are summed
// first, in the order in which they occur; those that do not occur are neither read nor written. A
// number that is none of a row is left out, as XLA's scatter has it.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/update_call.h"

namespace nadam_xla {

// The numbers of the rows that are touched.
struct RowNumbers {
  const void* given;   // [batch][count], of 32 or 64 bits
  bool are_wide;       // of 64 bits
  std::int64_t count;  // of one batch entry

  // On a GPU: [batch][count]. Of each batch entry, the places of the numbers in ascending order;
  // those of equal numbers ascend too.
  const std::int32_t* order = nullptr;
  // On the CPU: memory for sorting one batch entry.
  void* workspace = nullptr;

  // Of the place in all batch entries.
  NADAM_XLA_INLINE std::int64_t at(const std::int64_t place) const {
    return are_wide ? static_cast<const std::int64_t*>(given)[place]
                    : static_cast<const std::int32_t*>(given)[place];
  }

  static constexpr std::int64_t kMostRows = std::int64_t{1} << 32;  // of a table
  static constexpr std::int64_t kMostTouched = (std::int64_t{1} << 31) - 1;
  static constexpr std::int64_t workspace_bytes(const std::int64_t count) { return 16 * count; }
};

template <typename T>
struct RowsCall {
  // One leaf, whose results are in the memory of its streams; `length` counts the elements of one
  // batch entry of the table. Its gradients are [batch][count][columns].
  UpdateCall<T> of;
  std::int64_t columns;  // the elements of a row
  RowNumbers numbers;

  const Leaf& table() const { return of.leaves[0]; }
  // The rows of one batch entry.
  std::int64_t height() const { return columns == 0 ? 0 : table().length / columns; }
};

}  // namespace nadam_xla
