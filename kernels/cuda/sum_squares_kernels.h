// The kernels of the sums of squares by their addresses on the host, as those of the update.
#pragma once

#include <cstddef>

#include "kernels/cuda/sum_squares_launch.h"

namespace nadam_xla::cuda {

// Each has one parameter: a SumSquaresLaunch<T, kSumSquaresCapacity<T, kBytes>>.
struct SumSquaresKernels {
  const void* sum_parts;  // a warp for each tile
  const void* add_parts;  // a warp for each sum
};

template <typename T, std::size_t kBytes>
SumSquaresKernels sum_squares_kernels();

}  // namespace nadam_xla::cuda
