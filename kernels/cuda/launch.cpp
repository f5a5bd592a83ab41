#include "kernels/cuda/launch.h"

#include "kernels/cuda/check.h"
#include "kernels/cuda/launch_plan.h"

namespace nadam_xla::cuda {

void launch(const void* const kernel, const std::int64_t blocks, const void* const parameters,
            const cudaStream_t stream, const char* const what) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  void* arguments[] = {const_cast<void*>(parameters)};
  check(cudaLaunchKernelExC(&config, kernel, arguments), what);
}

void load(const char* const what, const std::initializer_list<const void*> kernels) {
  cudaFuncAttributes attributes{};
  for (const void* const kernel : kernels) check(cudaFuncGetAttributes(&attributes, kernel), what);
}

}  // namespace nadam_xla::cuda
