// One call of the sums of squares: what the FFI layer decodes and the CPU and CUDA layers execute.
#pragma once

#include <cstdint>
#include <vector>

namespace nadam_xla {

template <typename T>
struct SumSquaresCall {
  struct Leaf {
    const T* data;
    std::int64_t length;  // the elements of one batch entry
  };

  std::int64_t batch;  // the leading axis of every leaf; 1 where there is none
  std::vector<Leaf> leaves;
  T* sums;  // [batch][leaves]
};

}  // namespace nadam_xla
