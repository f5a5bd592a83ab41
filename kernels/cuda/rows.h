// One fused Nadam step over some rows of a table, on a GPU.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/rows_call.h"

namespace nadam_xla::cuda {

// Enqueues the whole call, whose numbers have their order: a launch, or none where there is nothing
// to update, or several where there is more than one can have. It allocates nothing, waits for
// nothing and reads no memory of the device, so that a CUDA graph can capture it. Throws
// std::runtime_error for an error of CUDA's.
template <typename T>
void update_rows(const RowsCall<T>& call, cudaStream_t stream);

// As load_update_kernels.
void load_rows_kernels();

extern template void update_rows(const RowsCall<float>&, cudaStream_t);
extern template void update_rows(const RowsCall<double>&, cudaStream_t);

}  // namespace nadam_xla::cuda
