// One call of the update: what the FFI layer decodes and the CPU and CUDA layers execute.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/host_device.h"
#include "kernels/storage.h"
#include "kernels/streams.h"
#include "kernels/update_rule.h"

namespace nadam_xla {

// What the first results of a call hold.
enum class Returns { kParams, kChange };

// The streams of a stretch of `length` elements, stored as the rule computes them. An output is
// either the very memory of its input or memory that overlaps none of the inputs.
template <typename T, Averaging kAveraging = Averaging::kOff>
struct Streams {
  // Of one that a call lacks, the gradients: nothing reads them as that.
  const T* in[rule_streams(kAveraging)];
  T* out[rule_results(kAveraging)];  // the new parameters, or their change; the new states
  std::int64_t length;
};

// The same, each stored in a way of its own, and with the master weights.
struct Leaf {
  const void* in[kStreams];  // of one that a call lacks, the gradients: nothing reads them as that
  void* out[kResults];       // the new parameters, or their change (the input: grads); the states
  Storage stored[kStreams];  // of one that a call lacks: as the gradients
  Storage stored_first;      // the first result
  std::int64_t length;

  NADAM_XLA_INLINE Storage storage(const Stream stream) const {
    return stored[static_cast<int>(stream)];
  }
  // A state is stored as it was.
  NADAM_XLA_INLINE Storage storage_of_result(const int result) const {
    return result == 0 ? stored_first : storage(stream_of_result(result));
  }
};

NADAM_XLA_INLINE const void* advanced(const void* const p, const std::int64_t bytes) {
  return static_cast<const char*>(p) + bytes;
}
NADAM_XLA_INLINE void* advanced(void* const p, const std::int64_t bytes) {
  return static_cast<char*>(p) + bytes;
}

NADAM_XLA_INLINE Leaf part_of(const Leaf& leaf, const std::int64_t offset,
                              const std::int64_t length) {
  Leaf part = leaf;
  NADAM_XLA_UNROLL
  for (int i = 0; i < kStreams; ++i) {
    part.in[i] = advanced(leaf.in[i], offset * size_of(leaf.stored[i]));
  }
  NADAM_XLA_UNROLL
  for (int i = 0; i < kResults; ++i) {
    part.out[i] = advanced(leaf.out[i], offset * size_of(leaf.storage_of_result(i)));
  }
  part.length = length;
  return part;
}

// Whether all that the rule reads and writes is stored as it computes.
template <typename T>
NADAM_XLA_INLINE bool is_stored_as_computed(const Leaf& leaf, const StreamSet streams) {
  bool all = leaf.stored_first == kStorageOf<T> && !streams.has(Stream::kMaster);
  NADAM_XLA_UNROLL
  for (int i = 0; i < kRuleStreams; ++i) all = all && leaf.stored[i] == kStorageOf<T>;
  return all;
}

// Of a leaf that is stored so.
template <typename T, Averaging kAveraging = Averaging::kOff>
NADAM_XLA_INLINE Streams<T, kAveraging> as_computed(const Leaf& leaf) {
  Streams<T, kAveraging> streams;
  NADAM_XLA_UNROLL
  for (int i = 0; i < rule_streams(kAveraging); ++i) {
    streams.in[i] = static_cast<const T*>(leaf.in[i]);
  }
  NADAM_XLA_UNROLL
  for (int i = 0; i < rule_results(kAveraging); ++i) streams.out[i] = static_cast<T*>(leaf.out[i]);
  streams.length = leaf.length;
  return streams;
}

// Loops over the streams would keep gcc from vectorizing the loop over the elements.
template <typename T, Averaging kAveraging, std::size_t... kStream>
NADAM_XLA_INLINE Element<T, kAveraging> element_of(const Streams<T, kAveraging>& s,
                                                   const std::int64_t i,
                                                   std::index_sequence<kStream...>) {
  return {{s.in[kStream][i]...}};
}

template <typename T, Averaging kAveraging, std::size_t... kState>
NADAM_XLA_INLINE void store_states(const Streams<T, kAveraging>& s, const std::int64_t i,
                                   const Updated<T, kAveraging>& to,
                                   std::index_sequence<kState...>) {
  ((s.out[1 + kState][i] = to.states[kState]), ...);
}

template <Returns kReturns, Terms kTerms = Terms::kDecayAndClamp, typename T, Averaging kAveraging>
NADAM_XLA_INLINE void update_element(const Row<T>& row, const Streams<T, kAveraging>& s,
                                     const std::int64_t i) {
  const Updated<T, kAveraging> to = update_rule<kTerms>(
      row, element_of(s, i, std::make_index_sequence<rule_streams(kAveraging)>()));
  s.out[0][i] = kReturns == Returns::kParams ? to.params : to.change;
  store_states(s, i, to, std::make_index_sequence<rule_states(kAveraging)>());
}

// One entry of stacks: the streams that have results hold `entries` of `length` elements, all
// others one, and the entry that is updated stands in the memory of the device. One that is out of
// range is the nearest that is not, as XLA's slices have it.
struct Entry {
  const std::int32_t* index = nullptr;  // null: the streams are no stacks
  std::int64_t entries = 1;
};

// The elements of a stack that stand before the entry, each of which has `length`. It reads the
// index.
NADAM_XLA_INLINE std::int64_t offset_of(const Entry& entry, const std::int64_t length) {
  if (entry.index == nullptr) return 0;
  const std::int64_t given = *entry.index;
  const std::int64_t from_above = given < entry.entries ? given : entry.entries - 1;
  return (from_above < 0 ? 0 : from_above) * length;
}

// The leaf with the streams of the entry.
NADAM_XLA_INLINE Leaf entry_of(const Leaf& leaf, const Entry& entry) {
  const std::int64_t offset = offset_of(entry, leaf.length);
  Leaf part = leaf;
  NADAM_XLA_UNROLL
  for (int i = 0; i < kResults; ++i) {
    const auto stream = static_cast<int>(stream_of_result(i));
    part.in[stream] = advanced(leaf.in[stream], offset * size_of(leaf.stored[stream]));
    part.out[i] = advanced(leaf.out[i], offset * size_of(leaf.storage_of_result(i)));
  }
  return part;
}

// The scales of a leaf of which a moment is stored in codes: one for each block of a row, row by
// row. Null are those of a moment that is not.
struct Scales {
  const float* in[kMoments];
  float* out[kMoments];  // either that very memory, or memory that overlaps none of the inputs
  std::int64_t columns;  // the elements of a row
};

// Whether random numbers are drawn, and so each row has their key. What is in codes is always
// rounded by them: else a second moment, which changes by less than half a code, would never move.
NADAM_XLA_INLINE constexpr bool draws(const Rounding rounding, const StreamSet streams) {
  return rounding == Rounding::kStochastic || streams.has_scales();
}

template <typename T>
struct UpdateCall {
  const T* coefficients;  // [batch][rows][format.length]
  RowFormat format;
  std::int64_t batch;  // the leading axis of every leaf; 1 where there is none
  std::int64_t rows;   // 1: one row for all leaves; otherwise one for each, from `first_row` on
  std::int64_t first_row;
  Returns returns;
  std::vector<Leaf> leaves;  // `length` counts the elements of one batch entry
  StreamSet streams = StreamSet::with_params();
  Rounding rounding = Rounding::kNearest;
  Entry entry = {};                 // where it is one, `batch` is 1
  std::vector<Scales> scales = {};  // of each leaf; empty where no moment is stored in codes

  // The leaf's row in a batch entry's part of the table.
  std::int64_t row_of(const std::int64_t leaf) const { return rows == 1 ? 0 : first_row + leaf; }
};

}  // namespace nadam_xla
