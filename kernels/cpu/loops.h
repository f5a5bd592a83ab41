// The loops over a stretch of memory, one implementation of each for each instruction set.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/storage.h"
#include "kernels/update_call.h"
#include "kernels/update_rule.h"

namespace nadam_xla::cpu {

// The elements of a step of the loops over what is not stored as it is computed: few enough that
// the processor, which looks some hundred instructions ahead, decodes and encodes others while the
// divider is busy with these.
inline constexpr std::int64_t kStep = 32;

// A stretch of one leaf, and all that its update needs to know.
template <typename T>
struct UpdateStretch {
  Row<T> row;
  Leaf leaf;
  Returns returns;
  StreamSet streams;
  Rounding rounding;
  RandomKey key;       // where it is stochastic
  std::int64_t first;  // the number of the first element in its batch entry, a multiple of kStep
  // Of each step, the number of its first element; null where they follow `first`.
  const std::int64_t* elements_of_steps = nullptr;

  NADAM_XLA_INLINE std::int64_t element_of_step(const std::int64_t begin) const {
    return elements_of_steps == nullptr ? first + begin : elements_of_steps[begin / kStep];
  }
};

// Some blocks of one leaf of which a moment is stored in codes.
struct BlockwiseStretch {
  UpdateStretch<float> of;  // the whole batch entry: its first element is that of number zero
  Scales scales;
  std::int64_t first_block, blocks;
};

template <typename T>
using UpdateLoop = void (*)(const UpdateStretch<T>& stretch);

using BlockwiseLoop = void (*)(const BlockwiseStretch& stretch);

template <typename T>
using SumSquaresLoop = double (*)(const void* x, Storage stored, std::int64_t length);

// What one build of loops.cpp offers.
struct InstructionSet {
  const char* name;
  UpdateLoop<float> update_f32;
  UpdateLoop<double> update_f64;
  BlockwiseLoop update_blockwise;
  SumSquaresLoop<float> sum_squares_f32;
  SumSquaresLoop<double> sum_squares_f64;
};

}  // namespace nadam_xla::cpu
