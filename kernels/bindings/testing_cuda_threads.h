// What the threads of the CUDA kernels do, one after the other on the host. It knows no Python.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "kernels/cuda/launch_plan.h"
#include "kernels/cuda/rows_launch.h"
#include "kernels/cuda/rows_thread.h"
#include "kernels/cuda/sum_squares_launch.h"
#include "kernels/cuda/update_blockwise.h"
#include "kernels/cuda/update_launch.h"
#include "kernels/cuda/update_thread.h"

namespace nadam_xla::cuda_on_host {

// All lanes of a warp, one after the other.
class WarpOnHost {
 public:
  static constexpr int kLanes = cuda::kWarp;

  template <typename Phase>
  void each(const Phase& phase) const {
    for (int lane = 0; lane < kLanes; ++lane) phase(lane, lane);
  }
  std::uint32_t largest(const std::uint32_t (&numbers)[kLanes]) const {
    return *std::max_element(numbers, numbers + kLanes);
  }
  std::uint32_t of_lane(const std::int32_t lane, const std::uint32_t (&numbers)[kLanes]) const {
    return numbers[lane];
  }
  void wait() const {}
};

template <Returns kReturns, typename T, typename OneLeaf, std::size_t kCapacity>
void run_warp(const cuda::UpdateLaunch<T, OneLeaf, kCapacity>& launch, const std::int32_t block,
              const std::int32_t warp) {
  for (std::int32_t lane = 0; lane < cuda::kWarp; ++lane) {
    cuda::run_update_thread<kReturns>(launch, block, warp * cuda::kWarp + lane);
  }
}

template <Returns kReturns, Averaging kAveraging, std::size_t kCapacity>
void run_warp(const cuda::UpdateLaunch<float, cuda::BlockwiseLeaf<kAveraging>, kCapacity>& launch,
              const std::int32_t block, const std::int32_t warp) {
  cuda::with_tile(launch, block, warp,
                  [&](const cuda::BlockwiseLeaf<kAveraging>& leaf, const std::int32_t tile) {
                    cuda::update_blocks<kReturns>(launch, leaf, tile, WarpOnHost());
                  });
}

template <Returns kReturns, typename OneLeaf, typename T>
std::size_t run_launches(const UpdateCall<T>& call) {
  constexpr std::size_t kCapacity = cuda::kUpdateCapacity<T, OneLeaf, cuda::kSmallParameters>;
  const cuda::LaunchPlan plan = cuda::plan_of<OneLeaf>(call, kCapacity);
  for (const cuda::PlannedLaunch& planned : plan.launches()) {
    const auto launch = cuda::launch_of<OneLeaf, kCapacity>(call, planned);
    for (std::int32_t block = 0; block < planned.blocks(); ++block) {
      for (std::int32_t warp = 0; warp < cuda::kTilesOfBlock; ++warp) {
        run_warp<kReturns>(launch, block, warp);
      }
    }
  }
  return plan.launches().size();
}

template <typename OneLeaf, typename T>
std::size_t run_returning(const UpdateCall<T>& call) {
  return call.returns == Returns::kChange ? run_launches<Returns::kChange, OneLeaf>(call)
                                          : run_launches<Returns::kParams, OneLeaf>(call);
}

inline std::size_t run_blockwise(const UpdateCall<float>& call) {
  return call.streams.has(Stream::kAverage)
             ? run_returning<cuda::BlockwiseLeaf<Averaging::kOn>>(call)
             : run_returning<cuda::BlockwiseLeaf<Averaging::kOff>>(call);
}

// Returns the number of launches.
template <typename T>
std::size_t update(const UpdateCall<T>& call) {
  if constexpr (kStorageOf<T> == Storage::kF32) {
    if (call.streams.has_scales()) return run_blockwise(call);
  }
  if (cuda::is_stored_as_computed(call)) return run_returning<cuda::ComputedLeaf<T>>(call);
  return call.streams.has(Stream::kAverage)
             ? run_returning<cuda::StoredLeaf<Averaging::kOn>>(call)
             : run_returning<cuda::StoredLeaf<Averaging::kOff>>(call);
}

// The sums of squares, or their roots, but for the order in which a warp adds its lanes'. The parts
// must be zero.
template <typename T>
void sum_squares(const SumSquaresCall<T>& call, double* const workspace, const std::int64_t parts) {
  constexpr std::size_t kCapacity = cuda::kSumSquaresCapacity<T, cuda::kSmallParameters>;
  double* at = workspace;
  const std::int64_t tile_length = cuda::sum_squares_tile(call, parts);
  const cuda::LaunchPlan plan = cuda::plan_of(call, tile_length, kCapacity);
  for (const cuda::PlannedLaunch& planned : plan.launches()) {
    const auto launch = cuda::launch_of<kCapacity>(call, planned, tile_length, at);
    for (std::int32_t tile = 0; tile < planned.tiles; ++tile, ++at) {
      if (at == workspace + parts) throw std::out_of_range("more tiles than parts");
      for (std::int32_t lane = 0; lane < cuda::kWarp; ++lane) {
        *at += cuda::sum_of_lane(launch, tile, lane);
      }
    }
    for (std::int64_t sum = 0; sum < launch.leaves * call.batch; ++sum) {
      const cuda::PartsOfSum of_sum = cuda::parts_of_sum(launch, sum);
      if (of_sum.count == 0) continue;
      double total = 0;
      for (std::int64_t i = 0; i < of_sum.count; ++i) total += of_sum.begin[i];
      call.results[of_sum.index] = result_of<T>(call.what, total);
    }
  }
}

template <int kCount, typename T>
std::int64_t run_launches(const RowsCall<T>& call, const std::int64_t most_blocks) {
  std::int64_t launches = 0;
  cuda::each_launch(call, most_blocks,
                    [&](const cuda::RowsLaunch<T>& launch, const std::int64_t blocks) {
                      ++launches;
                      const std::int64_t end = launch.begin + blocks * cuda::kThreads;
                      for (std::int64_t item = launch.begin; item < end; ++item) {
                        cuda::update_item<kCount>(launch, item);
                      }
                    });
  return launches;
}

// Returns the number of launches.
template <typename T>
std::int64_t update_rows(const RowsCall<T>& call, const std::int64_t most_blocks) {
  return cuda::elements_of_item(call) == cuda::kGroup
             ? run_launches<cuda::kGroup>(call, most_blocks)
             : run_launches<1>(call, most_blocks);
}

}  // namespace nadam_xla::cuda_on_host
