#include "kernels/cuda/update_blockwise.h"
#include "kernels/cuda/update_kernels.h"

namespace nadam_xla::cuda {
namespace {

// The warp that this thread is a lane of.
class ThreadsOfWarp {
 public:
  static constexpr int kLanes = 1;

  __device__ __forceinline__ explicit ThreadsOfWarp(const std::int32_t lane) : lane_(lane) {}

  template <typename Phase>
  __device__ __forceinline__ void each(const Phase& phase) const {
    phase(lane_, 0);
  }

  __device__ __forceinline__ std::uint32_t largest(const std::uint32_t (&numbers)[1]) const {
#if __CUDA_ARCH__ >= 800
    return __reduce_max_sync(kAll, numbers[0]);
#else
    std::uint32_t found = numbers[0];
    for (int by = kWarp / 2; by != 0; by /= 2) found = max(found, __shfl_xor_sync(kAll, found, by));
    return found;
#endif
  }

  __device__ __forceinline__ std::uint32_t of_lane(const std::int32_t lane,
                                                   const std::uint32_t (&numbers)[1]) const {
    return __shfl_sync(kAll, numbers[0], lane);
  }

  __device__ __forceinline__ void wait() const { __syncwarp(); }

 private:
  static constexpr unsigned kAll = 0xffffffff;

  std::int32_t lane_;
};

template <Returns kReturns, Averaging kAveraging, std::size_t kCapacity>
__global__ void __launch_bounds__(kThreads, BlockwiseLeaf<kAveraging>::blocks(kReturns))
    update_blockwise_kernel(
        const __grid_constant__ UpdateLaunch<float, BlockwiseLeaf<kAveraging>, kCapacity> launch) {
  const auto block = static_cast<std::int32_t>(blockIdx.x);
  const auto thread = static_cast<std::int32_t>(threadIdx.x);
  const ThreadsOfWarp warp(thread % kWarp);
  with_tile(launch, block, thread / kWarp,
            [&](const BlockwiseLeaf<kAveraging>& leaf, const std::int32_t tile) {
              update_blocks<kReturns>(launch, leaf, tile, warp);
            });
}

}  // namespace

template <typename T, typename OneLeaf, std::size_t kBytes>
UpdateKernels update_kernels() {
  constexpr std::size_t kCapacity = kUpdateCapacity<T, OneLeaf, kBytes>;
  constexpr Averaging kAveraging = OneLeaf::kAveraged;
  return {reinterpret_cast<const void*>(
              &update_blockwise_kernel<Returns::kParams, kAveraging, kCapacity>),
          reinterpret_cast<const void*>(
              &update_blockwise_kernel<Returns::kChange, kAveraging, kCapacity>)};
}

template UpdateKernels update_kernels<float, BlockwiseLeaf<Averaging::kOff>, kSmallParameters>();
template UpdateKernels update_kernels<float, BlockwiseLeaf<Averaging::kOn>, kSmallParameters>();

}  // namespace nadam_xla::cuda
