#include "kernels/cuda/update_kernels.h"

namespace nadam_xla::cuda {
namespace {

template <Returns kReturns, typename T, std::size_t kCapacity>
__global__ void __launch_bounds__(kThreads)
    update_kernel(const __grid_constant__ UpdateLaunch<T, kCapacity> launch) {
  run_update_thread<kReturns>(launch, static_cast<std::int32_t>(blockIdx.x),
                              static_cast<std::int32_t>(threadIdx.x));
}

}  // namespace

template <typename T, std::size_t kBytes>
UpdateKernels update_kernels() {
  constexpr std::size_t kCapacity = kUpdateCapacity<T, kBytes>;
  return {reinterpret_cast<const void*>(&update_kernel<Returns::kParams, T, kCapacity>),
          reinterpret_cast<const void*>(&update_kernel<Returns::kChange, T, kCapacity>)};
}

template UpdateKernels update_kernels<float, kSmallParameters>();
template UpdateKernels update_kernels<float, kLargestParameters>();
template UpdateKernels update_kernels<double, kSmallParameters>();
template UpdateKernels update_kernels<double, kLargestParameters>();

}  // namespace nadam_xla::cuda
