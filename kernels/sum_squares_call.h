// One call of the sums of squares: what the FFI layer decodes and the CPU and CUDA layers execute.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/storage.h"

namespace nadam_xla {

// A sum is a number of T. A leaf is stored so too, or it is narrower and the sums are float32.
template <typename T>
struct SumSquaresCall {
  struct Leaf {
    const void* data;
    Storage stored;
    std::int64_t length;  // the elements of one batch entry
  };

  std::int64_t batch;  // the leading axis of every leaf; 1 where there is none
  std::vector<Leaf> leaves;
  T* sums;  // [batch][leaves]
};

}  // namespace nadam_xla
