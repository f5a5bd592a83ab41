// The kernels of the update by their addresses on the host. nvcc compiles these and no other code
// of the host, whose compiler and standard library may then be other ones than nvcc works with.
#pragma once

#include <cstddef>

#include "kernels/cuda/update_launch.h"

namespace nadam_xla::cuda {

// Each has one parameter: an UpdateLaunch<T, OneLeaf, kUpdateCapacity<T, OneLeaf, kBytes>>.
struct UpdateKernels {
  const void* returning_params;
  const void* returning_change;
};

// OneLeaf: ComputedLeaf<T>; StoredLeaf with or without an average; or, where T is float,
// BlockwiseLeaf with or without one.
template <typename T, typename OneLeaf, std::size_t kBytes>
UpdateKernels update_kernels();

}  // namespace nadam_xla::cuda
