// One fused Nadam step over some rows of a table.
#pragma once

#include <cstdint>

#include "kernels/cpu/loops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/rows_call.h"

namespace nadam_xla::cpu {

// Where a number of a row stands among those of its batch entry. In ascending order the rows
// ascend, and so do the places of each.
class RowPlace {
 public:
  RowPlace() = default;
  RowPlace(const std::int64_t row, const std::int64_t place)
      : bits_(static_cast<std::uint64_t>(row) << 32 | static_cast<std::uint64_t>(place)) {}

  std::int64_t row() const { return static_cast<std::int64_t>(bits_ >> 32); }
  std::int64_t place() const { return static_cast<std::int64_t>(bits_ & 0xffffffff); }

 private:
  std::uint64_t bits_;
};

// The numbers of one batch entry that are those of rows, sorted.
struct SortedRows {
  const RowPlace* places;
  std::int64_t count;

  bool is_first_of_row(const std::int64_t i) const {
    return i == 0 || places[i].row() != places[i - 1].row();
  }
};

// Sorts in the workspace of `numbers`, where the result stays until the next call.
SortedRows sorted_rows(const RowNumbers& numbers, std::int64_t entry, std::int64_t height);

// Runs the whole call, sharing it with the pool's threads.
template <typename T>
void update_rows(const RowsCall<T>& call, const Pool& pool);

extern template void update_rows(const RowsCall<float>&, const Pool&);
extern template void update_rows(const RowsCall<double>&, const Pool&);

}  // namespace nadam_xla::cpu
