// The update rule over a stretch of memory, one implementation for each instruction set.
#pragma once

#include "kernels/update_call.h"

namespace nadam_xla::cpu {

template <typename T>
using UpdateLoop = void (*)(const T* row, const Streams<T>& streams, Returns returns);

// What one build of update_loop.cpp offers.
struct InstructionSet {
  const char* name;
  UpdateLoop<float> update_f32;
  UpdateLoop<double> update_f64;
};

}  // namespace nadam_xla::cpu
