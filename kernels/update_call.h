// One call of the update: what the FFI layer decodes and the CPU and CUDA layers execute.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/host_device.h"
#include "kernels/update_rule.h"

namespace nadam_xla {

// What the first results of a call hold.
enum class Returns { kParams, kChange };

// The seven streams of a stretch of `length` elements. An output is either the very memory of its
// input or memory that overlaps none of the inputs.
template <typename T>
struct Streams {
  const T* params;  // where a call has none, its gradients: nothing reads them as parameters
  const T* grads;
  const T* mu;
  const T* nu;
  T* updated;  // the new parameters (the input: params), or their change (the input: grads)
  T* mu_out;
  T* nu_out;
  std::int64_t length;
};

template <typename T>
NADAM_XLA_INLINE Streams<T> part_of(const Streams<T>& s, const std::int64_t offset,
                                    const std::int64_t length) {
  return {s.params + offset,  s.grads + offset,  s.mu + offset,     s.nu + offset,
          s.updated + offset, s.mu_out + offset, s.nu_out + offset, length};
}

// One entry of stacks: all streams but the gradients hold `entries` of `length` elements, and the
// entry that is updated stands in the memory of the device. One that is out of range is the nearest
// that is not, as XLA's slices have it.
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
  return {s.params + offset,  s.grads,           s.mu + offset,     s.nu + offset,
          s.updated + offset, s.mu_out + offset, s.nu_out + offset, s.length};
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
  bool has_params = true;
  Entry entry = {};  // where it is one, `batch` is 1

  // The leaf's row in a batch entry's part of the table.
  std::int64_t row_of(const std::int64_t leaf) const { return rows == 1 ? 0 : first_row + leaf; }
};

}  // namespace nadam_xla
