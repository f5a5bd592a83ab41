// One call of the update: what the FFI layer decodes and the CPU and CUDA layers execute.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/host_device.h"
#include "kernels/streams.h"
#include "kernels/update_rule.h"

namespace nadam_xla {

// What the first results of a call hold.
enum class Returns { kParams, kChange };

// The streams of a stretch of `length` elements. An output is either the very memory of its input
// or memory that overlaps none of the inputs.
template <typename T>
struct Streams {
  const T* in[kStreams];  // of one that a call lacks, the gradients: nothing reads them as that
  T* out[kResults];       // the new parameters, or their change (the input: grads); the new states
  std::int64_t length;

  NADAM_XLA_INLINE const T* operator[](const Stream stream) const {
    return in[static_cast<int>(stream)];
  }
};

template <typename T>
NADAM_XLA_INLINE Streams<T> part_of(const Streams<T>& s, const std::int64_t offset,
                                    const std::int64_t length) {
  Streams<T> part = s;
  NADAM_XLA_UNROLL
  for (int i = 0; i < kStreams; ++i) part.in[i] += offset;
  NADAM_XLA_UNROLL
  for (int i = 0; i < kResults; ++i) part.out[i] += offset;
  part.length = length;
  return part;
}

// Loops over the streams would keep gcc from vectorizing the loop over the elements.
template <typename T, std::size_t... kStream>
NADAM_XLA_INLINE Element<T> element_of(const Streams<T>& s, const std::int64_t i,
                                       std::index_sequence<kStream...>) {
  return {{s.in[kStream][i]...}};
}

template <typename T, std::size_t... kState>
NADAM_XLA_INLINE void store_states(const Streams<T>& s, const std::int64_t i, const Updated<T>& to,
                                   std::index_sequence<kState...>) {
  ((s.out[1 + kState][i] = to.states[kState]), ...);
}

template <Returns kReturns, typename T>
NADAM_XLA_INLINE void update_element(const Row<T>& row, const Streams<T>& s, const std::int64_t i) {
  const Updated<T> to = update_rule(row, element_of(s, i, std::make_index_sequence<kStreams>()));
  s.out[0][i] = kReturns == Returns::kParams ? to.params : to.change;
  store_states(s, i, to, std::make_index_sequence<kStates>());
}

// One entry of stacks: the streams that have results hold `entries` of `length` elements, all
// others one, and the entry that is updated stands in the memory of the device. One that is out of
// range is the nearest that is not, as XLA's slices have it.
struct Entry {
  const std::int32_t* index = nullptr;  // null: the streams are no stacks
  std::int64_t entries = 1;
};

// The streams of the entry. It reads the index.
template <typename T>
NADAM_XLA_INLINE Streams<T> entry_of(const Streams<T>& s, const Entry& entry) {
  if (entry.index == nullptr) return s;
  const std::int64_t given = *entry.index;
  const std::int64_t from_above = given < entry.entries ? given : entry.entries - 1;
  const std::int64_t offset = (from_above < 0 ? 0 : from_above) * s.length;
  Streams<T> part = s;
  NADAM_XLA_UNROLL
  for (int i = 0; i < kResults; ++i) {
    part.in[static_cast<int>(stream_of_result(i))] += offset;
    part.out[i] += offset;
  }
  return part;
}

template <typename T>
struct UpdateCall {
  const T* coefficients;  // [batch][rows][format.length]
  RowFormat format;
  std::int64_t batch;  // the leading axis of every leaf; 1 where there is none
  std::int64_t rows;   // 1: one row for all leaves; otherwise one for each, from `first_row` on
  std::int64_t first_row;
  Returns returns;
  std::vector<Streams<T>> leaves;  // `length` counts the elements of one batch entry
  StreamSet streams = StreamSet::with_params();
  Entry entry = {};  // where it is one, `batch` is 1

  // The leaf's row in a batch entry's part of the table.
  std::int64_t row_of(const std::int64_t leaf) const { return rows == 1 ? 0 : first_row + leaf; }
};

}  // namespace nadam_xla
