// From a call to the stretches that the loops take.
#pragma once

#include <cstdint>

#include "kernels/cpu/loops.h"
#include "kernels/update_call.h"
#include "kernels/update_rule.h"

namespace nadam_xla::cpu {

// A batch entry of a leaf, as the loops get it; `begin`: of the stretch in the entry.
template <typename T>
UpdateStretch<T> stretch_of(const UpdateCall<T>& call, const std::int64_t leaf,
                            const std::int64_t entry, const std::int64_t begin,
                            const std::int64_t length) {
  const Leaf& whole = call.leaves[leaf];
  const std::int64_t row = entry * call.rows + call.row_of(leaf);
  const T* const coefficients = call.coefficients + row * call.format.length;
  return {read_row(coefficients, call.format, call.streams),
          part_of(whole, entry * whole.length + begin, length),
          call.returns,
          call.streams,
          call.rounding,
          draws(call.rounding, call.streams) ? read_key(coefficients) : RandomKey{},
          begin};
}

}  // namespace nadam_xla::cpu
