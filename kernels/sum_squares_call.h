// One call of the sums of squares: what the FFI layer decodes and the CPU and CUDA layers execute.
#pragma once

#include <math.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/host_device.h"
#include "kernels/storage.h"

namespace nadam_xla {

// What a call returns for each sum of squares.
enum class OfSquares {
  kSum,
  // The root of the sum, and the largest finite number where that is larger. So it is finite if
  // and only if all numbers of the leaf are, but where the squares of doubles overflow.
  kNorm,
};

// The result for a sum.
template <typename T>
NADAM_XLA_INLINE T result_of(const OfSquares what, const double sum) {
  if (what == OfSquares::kSum) return static_cast<T>(sum);
  constexpr double kLargest = std::numeric_limits<T>::max();
  const double norm = ::sqrt(sum);
  const bool is_beyond = norm > kLargest && sum <= std::numeric_limits<double>::max();
  return static_cast<T>(is_beyond ? kLargest : norm);
}

// A result is a number of T. A leaf is stored so too, or it is narrower and the results are
// float32.
template <typename T>
struct SumSquaresCall {
  struct Leaf {
    const void* data;
    Storage stored;
    std::int64_t length;  // the elements of one batch entry
  };

  std::int64_t batch;  // the leading axis of every leaf; 1 where there is none
  std::vector<Leaf> leaves;
  T* results;  // [batch][leaves]
  OfSquares what = OfSquares::kSum;
};

}  // namespace nadam_xla
