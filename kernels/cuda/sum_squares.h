// The sum of squares of each leaf of a call, on a GPU.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/sum_squares_launch.h"
#include "kernels/sum_squares_call.h"

namespace nadam_xla::cuda {

// Enqueues the whole call, two launches for each few hundred leaves: blocks leave their parts in
// the workspace, and the parts of each sum are added up in one order, so that the same call gives
// the same bits. It allocates nothing, waits for nothing and reads no memory of the device, so that
// a CUDA graph can capture it. Throws std::runtime_error for an error of CUDA's and
// std::invalid_argument for a workspace with less than a place for each sum and one more.
template <typename T>
void sum_squares(const SumSquaresCall<T>& call, const Workspace& workspace, cudaStream_t stream);

// As load_update_kernels.
void load_sum_squares_kernels();

extern template void sum_squares(const SumSquaresCall<float>&, const Workspace&, cudaStream_t);
extern template void sum_squares(const SumSquaresCall<double>&, const Workspace&, cudaStream_t);

}  // namespace nadam_xla::cuda
