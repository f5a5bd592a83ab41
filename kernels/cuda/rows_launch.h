// The launches of an update of some rows of a table. A thread has an item: a few consecutive
// elements of the row at one rank, which is a place in the ascending order of the numbers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/codec.h"
#include "kernels/cuda/launch_plan.h"
#include "kernels/cuda/update_stored.h"
#include "kernels/rows_call.h"

namespace nadam_xla::cuda {

inline constexpr std::int64_t kMostBlocks = 0x7fffffff;  // of a launch

// The parameters of a launch.
template <typename T>
struct RowsLaunch {
  const T* coefficients;  // of the first batch entry's row,
  std::int64_t stride;    // and so many numbers behind it those of the next
  RowFormat format;
  StreamSet streams = StreamSet::with_params();
  Rounding rounding;
  Leaf leaf;
  RowNumbers numbers;
  std::int64_t height;        // the rows of a batch entry
  std::int64_t columns;       // the elements of a row
  std::int64_t items_of_row;  // the items of a rank
  std::int64_t begin;         // the launch has the items from this one on
  std::int64_t end;           // the items of the call
};

// How many elements an item has: a group, where each that a row has can be loaded as one and has
// random numbers of its own; otherwise one.
template <typename T>
int elements_of_item(const RowsCall<T>& call) {
  const Leaf& leaf = call.table();
  bool in_groups = call.columns % kGroup == 0;
  for (int i = 0; i < kStreams; ++i) {
    if (!call.of.streams.has(static_cast<Stream>(i))) continue;
    in_groups = in_groups && before_boundary(leaf.stored[i], leaf.in[i], 0) == 0;
  }
  return in_groups ? kGroup : 1;
}

// Calls with the parameters of each launch and the number of its blocks, which has `most_blocks` at
// most.
template <typename T, typename Start>
void each_launch(const RowsCall<T>& call, const std::int64_t most_blocks, const Start& start) {
  const std::int64_t height = call.height();
  const bool is_empty = height == 0;
  RowsLaunch<T> launch;
  launch.coefficients = call.of.coefficients + call.of.row_of(0) * call.of.format.length;
  launch.stride = call.of.rows * call.of.format.length;
  launch.format = call.of.format;
  launch.streams = call.of.streams;
  launch.rounding = call.of.rounding;
  launch.leaf = call.table();
  launch.numbers = call.numbers;
  launch.height = height;
  launch.columns = call.columns;
  launch.items_of_row = call.columns / elements_of_item(call);
  launch.end = is_empty ? 0 : call.of.batch * call.numbers.count * launch.items_of_row;
  for (launch.begin = 0; launch.begin < launch.end; launch.begin += most_blocks * kThreads) {
    const std::int64_t blocks = divided_up(launch.end - launch.begin, kThreads);
    start(launch, std::min(blocks, most_blocks));
  }
}

}  // namespace nadam_xla::cuda
