#include "kernels/cuda/update_kernels.h"
#include "kernels/cuda/update_thread.h"

namespace nadam_xla::cuda {
namespace {

template <Returns kReturns, typename T, typename OneLeaf, std::size_t kCapacity>
__global__ void __launch_bounds__(kThreads, OneLeaf::kBlocks)
    update_kernel(const __grid_constant__ UpdateLaunch<T, OneLeaf, kCapacity> launch) {
  run_update_thread<kReturns>(launch, static_cast<std::int32_t>(blockIdx.x),
                              static_cast<std::int32_t>(threadIdx.x));
}

}  // namespace

template <typename T, typename OneLeaf, std::size_t kBytes>
UpdateKernels update_kernels() {
  constexpr std::size_t kCapacity = kUpdateCapacity<T, OneLeaf, kBytes>;
  return {reinterpret_cast<const void*>(&update_kernel<Returns::kParams, T, OneLeaf, kCapacity>),
          reinterpret_cast<const void*>(&update_kernel<Returns::kChange, T, OneLeaf, kCapacity>)};
}

template UpdateKernels update_kernels<float, ComputedLeaf<float>, kSmallParameters>();
template UpdateKernels update_kernels<float, ComputedLeaf<float>, kLargestParameters>();
template UpdateKernels update_kernels<double, ComputedLeaf<double>, kSmallParameters>();
template UpdateKernels update_kernels<double, ComputedLeaf<double>, kLargestParameters>();
template UpdateKernels update_kernels<float, StoredLeaf<Averaging::kOff>, kSmallParameters>();
template UpdateKernels update_kernels<double, StoredLeaf<Averaging::kOff>, kSmallParameters>();
template UpdateKernels update_kernels<float, StoredLeaf<Averaging::kOn>, kSmallParameters>();
template UpdateKernels update_kernels<double, StoredLeaf<Averaging::kOn>, kSmallParameters>();

}  // namespace nadam_xla::cuda
