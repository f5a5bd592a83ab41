#include "kernels/cuda/sum_squares_kernels.h"

namespace nadam_xla::cuda {
namespace {

// The same bits in every run: the lanes are added up in one order. Lane 0 has the sum.
__device__ double sum_over_warp(double value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_down_sync(0xffffffff, value, distance);
  }
  return value;
}

__device__ std::int64_t number_of_warp() {
  return std::int64_t{kTilesOfBlock} * blockIdx.x + threadIdx.x / kWarp;
}

template <typename T, std::size_t kCapacity>
__global__ void __launch_bounds__(kThreads)
    sum_parts_kernel(const __grid_constant__ SumSquaresLaunch<T, kCapacity> launch) {
  const std::int64_t tile = number_of_warp();
  const auto lane = static_cast<std::int32_t>(threadIdx.x % kWarp);
  if (tile >= launch.tiles) return;
  const double total = sum_over_warp(sum_of_lane(launch, static_cast<std::int32_t>(tile), lane));
  if (lane == 0) launch.parts[tile] = total;
}

// One warp for each sum.
template <typename T, std::size_t kCapacity>
__global__ void __launch_bounds__(kThreads)
    add_parts_kernel(const __grid_constant__ SumSquaresLaunch<T, kCapacity> launch) {
  const std::int64_t sum = number_of_warp();
  const int lane = threadIdx.x % kWarp;
  if (sum >= launch.leaves * launch.batch) return;
  const PartsOfSum parts = parts_of_sum(launch, sum);
  if (parts.count == 0) return;
  double total = 0;
  for (std::int64_t i = lane; i < parts.count; i += kWarp) total += parts.begin[i];
  total = sum_over_warp(total);
  if (lane == 0) launch.results[parts.index] = result_of<T>(launch.what, total);
}

}  // namespace

template <typename T, std::size_t kBytes>
SumSquaresKernels sum_squares_kernels() {
  constexpr std::size_t kCapacity = kSumSquaresCapacity<T, kBytes>;
  return {reinterpret_cast<const void*>(&sum_parts_kernel<T, kCapacity>),
          reinterpret_cast<const void*>(&add_parts_kernel<T, kCapacity>)};
}

template SumSquaresKernels sum_squares_kernels<float, kSmallParameters>();
template SumSquaresKernels sum_squares_kernels<float, kLargestParameters>();
template SumSquaresKernels sum_squares_kernels<double, kSmallParameters>();
template SumSquaresKernels sum_squares_kernels<double, kLargestParameters>();

}  // namespace nadam_xla::cuda
