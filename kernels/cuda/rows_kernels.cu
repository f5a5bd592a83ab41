#include "kernels/cuda/rows_kernels.h"
#include "kernels/cuda/rows_thread.h"

namespace nadam_xla::cuda {
namespace {

// A multiprocessor need have room for one block alone: the compiler would make room for more than
// it has registers for.
template <typename T, int kCount>
__global__ void __launch_bounds__(kThreads, 1)
    rows_kernel(const __grid_constant__ RowsLaunch<T> launch) {
  update_item<kCount>(launch, launch.begin + std::int64_t{kThreads} * blockIdx.x + threadIdx.x);
}

}  // namespace

template <typename T>
RowsKernels rows_kernels() {
  return {reinterpret_cast<const void*>(&rows_kernel<T, kGroup>),
          reinterpret_cast<const void*>(&rows_kernel<T, 1>)};
}

template RowsKernels rows_kernels<float>();
template RowsKernels rows_kernels<double>();

}  // namespace nadam_xla::cuda
