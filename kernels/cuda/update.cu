#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/update.h"
#include "kernels/cuda/update_launch.h"

namespace nadam_xla::cuda {
namespace {

template <Returns kReturns, typename T, std::size_t kCapacity>
__global__ void __launch_bounds__(kThreads)
    update_kernel(const __grid_constant__ UpdateLaunch<T, kCapacity> launch) {
  run_update_thread<kReturns>(launch, static_cast<std::int32_t>(blockIdx.x),
                              static_cast<std::int32_t>(threadIdx.x));
}

template <std::size_t kCapacity, typename T>
void start(const UpdateCall<T>& call, const PlannedLaunch& planned, const cudaStream_t stream) {
  using Launch = UpdateLaunch<T, kCapacity>;
  void (*const kernel)(Launch) = call.returns == Returns::kParams
                                     ? update_kernel<Returns::kParams, T, kCapacity>
                                     : update_kernel<Returns::kChange, T, kCapacity>;
  launch(kernel, planned.blocks(), launch_of<kCapacity>(call, planned), stream,
         "the launch of the update");
}

}  // namespace

template <typename T>
void update(const UpdateCall<T>& call, const cudaStream_t stream) {
  constexpr std::size_t kFew = kUpdateCapacity<T, kSmallParameters>;
  constexpr std::size_t kMany = kUpdateCapacity<T, kLargestParameters>;
  const LaunchPlan plan = plan_of(call, kMany);
  for (const PlannedLaunch& planned : plan.launches()) {
    // A launch costs the host the more the larger its parameters are.
    if (planned.leaves.size() <= kFew) {
      start<kFew>(call, planned, stream);
    } else {
      start<kMany>(call, planned, stream);
    }
  }
}

namespace {

template <typename T, std::size_t kBytes>
void load_kernels() {
  constexpr std::size_t kCapacity = kUpdateCapacity<T, kBytes>;
  load("loading the kernels of the update", update_kernel<Returns::kParams, T, kCapacity>,
       update_kernel<Returns::kChange, T, kCapacity>);
}

}  // namespace

void load_update_kernels() {
  load_kernels<float, kSmallParameters>();
  load_kernels<float, kLargestParameters>();
  load_kernels<double, kSmallParameters>();
  load_kernels<double, kLargestParameters>();
}

template void update(const UpdateCall<float>&, cudaStream_t);
template void update(const UpdateCall<double>&, cudaStream_t);

}  // namespace nadam_xla::cuda
