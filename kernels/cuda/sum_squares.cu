#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sum_squares.h"

namespace nadam_xla::cuda {
namespace {

constexpr int kWarp = 32;

// The same bits in every run: the lanes are added up in one order. Lane 0 has the sum.
__device__ double sum_over_warp(double value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_down_sync(0xffffffff, value, distance);
  }
  return value;
}

template <typename T, std::size_t kCapacity>
__global__ void __launch_bounds__(kSumThreads)
    sum_parts_kernel(const __grid_constant__ SumSquaresLaunch<T, kCapacity> launch) {
  constexpr int kWarps = kSumThreads / kWarp;
  __shared__ double of_warps[kWarps];
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const double of_warp = sum_over_warp(sum_of_thread(launch, static_cast<std::int32_t>(blockIdx.x),
                                                     static_cast<std::int32_t>(threadIdx.x)));
  if (lane == 0) of_warps[warp] = of_warp;
  __syncthreads();
  if (warp != 0) return;
  const double of_block = sum_over_warp(lane < kWarps ? of_warps[lane] : 0.0);
  if (lane == 0) launch.parts[blockIdx.x] = of_block;
}

// One warp for each sum.
template <typename T, std::size_t kCapacity>
__global__ void __launch_bounds__(kWarp)
    add_parts_kernel(const __grid_constant__ SumSquaresLaunch<T, kCapacity> launch) {
  const PartsOfSum parts = parts_of_sum(launch, blockIdx.x);
  double total = 0;
  for (std::int64_t i = threadIdx.x; i < parts.count; i += kWarp) total += parts.begin[i];
  total = sum_over_warp(total);
  if (threadIdx.x == 0) launch.sums[parts.index] = static_cast<T>(total);
}

template <std::size_t kCapacity, typename T>
void start(const SumSquaresCall<T>& call, const PlannedLaunch& planned,
           const std::int64_t chunk_length, double* const parts, const cudaStream_t stream) {
  const auto parameters = launch_of<kCapacity>(call, planned, chunk_length, parts);
  if (planned.blocks != 0) {
    launch(sum_parts_kernel<T, kCapacity>, planned.blocks, kSumThreads, parameters, stream,
           "the launch of the sums of squares");
  }
  launch(add_parts_kernel<T, kCapacity>, parameters.leaves * call.batch, kWarp, parameters, stream,
         "the launch that adds up the sums of squares");
}

}  // namespace

template <typename T>
void sum_squares(const SumSquaresCall<T>& call, const Workspace& workspace,
                 const cudaStream_t stream) {
  constexpr std::size_t kFew = kSumSquaresCapacity<T, kSmallParameters>;
  constexpr std::size_t kMany = kSumSquaresCapacity<T, kLargestParameters>;
  if (call.batch == 0) return;
  const std::int64_t chunk_length = sum_squares_chunk(call, workspace.count);
  const LaunchPlan plan = plan_of(call, chunk_length, kMany);
  double* parts = workspace.parts;
  for (const PlannedLaunch& planned : plan.launches()) {
    if (planned.leaves.size() <= kFew) {
      start<kFew>(call, planned, chunk_length, parts, stream);
    } else {
      start<kMany>(call, planned, chunk_length, parts, stream);
    }
    parts += planned.blocks;
  }
}

template void sum_squares(const SumSquaresCall<float>&, const Workspace&, cudaStream_t);
template void sum_squares(const SumSquaresCall<double>&, const Workspace&, cudaStream_t);

}  // namespace nadam_xla::cuda
