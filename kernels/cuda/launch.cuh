// Loading kernels, and starting one whose one parameter is a struct.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/check.h"
#include "kernels/cuda/launch_plan.h"

namespace nadam_xla::cuda {

template <typename Parameters>
void launch(void (*kernel)(Parameters), const std::int64_t blocks, const Parameters& parameters,
            const cudaStream_t stream, const char* const what) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, parameters), what);
}

template <typename... Kernel>
void load(const char* const what, Kernel* const... kernels) {
  cudaFuncAttributes attributes{};
  (check(cudaFuncGetAttributes(&attributes, kernels), what), ...);
}

}  // namespace nadam_xla::cuda
