// Errors of the CUDA runtime as exceptions.
#pragma once

#include <cuda_runtime_api.h>

namespace nadam_xla::cuda {

// Throws std::runtime_error, with CUDA's name and words for the error, unless it is cudaSuccess.
void check(cudaError_t error, const char* what);

}  // namespace nadam_xla::cuda
