// Loading kernels, and starting one whose one parameter is a struct. A kernel is known by the
// address that it has on the host.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <initializer_list>

namespace nadam_xla::cuda {

// Both throw std::runtime_error for an error of CUDA's; `what` says in its message what failed.
void launch(const void* kernel, std::int64_t blocks, const void* parameters, cudaStream_t stream,
            const char* what);
void load(const char* what, std::initializer_list<const void*> kernels);

}  // namespace nadam_xla::cuda
