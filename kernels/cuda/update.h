// One fused Nadam step over the leaves of a call, on a GPU.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/update_call.h"

namespace nadam_xla::cuda {

// Enqueues the whole call, a launch for each few hundred leaves. It allocates nothing, waits for
// nothing and reads no memory of the device, so that a CUDA graph can capture it. Throws
// std::runtime_error for an error of CUDA's.
template <typename T>
void update(const UpdateCall<T>& call, cudaStream_t stream);

// Has the current device load the kernels. CUDA does so at the first launch by default, which may
// stand in a capture, where nothing may be loaded. Throws std::runtime_error for an error of
// CUDA's.
void load_update_kernels();

extern template void update(const UpdateCall<float>&, cudaStream_t);
extern template void update(const UpdateCall<double>&, cudaStream_t);

}  // namespace nadam_xla::cuda
