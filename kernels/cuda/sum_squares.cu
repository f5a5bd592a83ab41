#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sum_squares.h"

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
  if (lane == 0) launch.sums[parts.index] = static_cast<T>(total);
}

template <std::size_t kCapacity, typename T>
void start(const SumSquaresCall<T>& call, const PlannedLaunch& planned,
           const std::int64_t tile_length, double* const parts, const cudaStream_t stream) {
  const auto parameters = launch_of<kCapacity>(call, planned, tile_length, parts);
  launch(sum_parts_kernel<T, kCapacity>, planned.blocks(), parameters, stream,
         "the launch of the sums of squares");
  const bool all_short = std::all_of(
      planned.leaves.begin(), planned.leaves.end(),
      [&](const PlannedLeaf& leaf) { return is_short(call.leaves[leaf.index].length); });
  if (all_short) return;
  launch(add_parts_kernel<T, kCapacity>, divided_up(parameters.leaves * call.batch, kTilesOfBlock),
         parameters, stream, "the launch that adds up the sums of squares");
}

}  // namespace

template <typename T>
void sum_squares(const SumSquaresCall<T>& call, const Workspace& workspace,
                 const cudaStream_t stream) {
  constexpr std::size_t kFew = kSumSquaresCapacity<T, kSmallParameters>;
  constexpr std::size_t kMany = kSumSquaresCapacity<T, kLargestParameters>;
  if (call.batch == 0) return;
  const std::int64_t tile_length = sum_squares_tile(call, workspace.count);
  const LaunchPlan plan = plan_of(call, tile_length, kMany);
  double* parts = workspace.parts;
  for (const PlannedLaunch& planned : plan.launches()) {
    if (planned.leaves.size() <= kFew) {
      start<kFew>(call, planned, tile_length, parts, stream);
    } else {
      start<kMany>(call, planned, tile_length, parts, stream);
    }
    parts += planned.tiles;
  }
}

namespace {

template <typename T, std::size_t kBytes>
void load_kernels() {
  constexpr std::size_t kCapacity = kSumSquaresCapacity<T, kBytes>;
  load("loading the kernels of the sums of squares", sum_parts_kernel<T, kCapacity>,
       add_parts_kernel<T, kCapacity>);
}

}  // namespace

void load_sum_squares_kernels() {
  load_kernels<float, kSmallParameters>();
  load_kernels<float, kLargestParameters>();
  load_kernels<double, kSmallParameters>();
  load_kernels<double, kLargestParameters>();
}

template void sum_squares(const SumSquaresCall<float>&, const Workspace&, cudaStream_t);
template void sum_squares(const SumSquaresCall<double>&, const Workspace&, cudaStream_t);

}  // namespace nadam_xla::cuda
