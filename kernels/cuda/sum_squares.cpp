#include "kernels/cuda/sum_squares.h"

#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/sum_squares_kernels.h"

namespace nadam_xla::cuda {
namespace {

template <std::size_t kBytes, typename T>
void start(const SumSquaresCall<T>& call, const PlannedLaunch& planned,
           const std::int64_t tile_length, double* const parts, const cudaStream_t stream) {
  const SumSquaresKernels kernels = sum_squares_kernels<T, kBytes>();
  const auto parameters =
      launch_of<kSumSquaresCapacity<T, kBytes>>(call, planned, tile_length, parts);
  launch(kernels.sum_parts, planned.blocks(), &parameters, stream,
         "the launch of the sums of squares");
  const bool all_short = std::all_of(
      planned.leaves.begin(), planned.leaves.end(),
      [&](const PlannedLeaf& leaf) { return is_short(call.leaves[leaf.index].length); });
  if (all_short) return;
  launch(kernels.add_parts, divided_up(parameters.leaves * call.batch, kTilesOfBlock), &parameters,
         stream, "the launch that adds up the sums of squares");
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
      start<kSmallParameters>(call, planned, tile_length, parts, stream);
    } else {
      start<kLargestParameters>(call, planned, tile_length, parts, stream);
    }
    parts += planned.tiles;
  }
}

namespace {

template <typename T, std::size_t kBytes>
void load_kernels() {
  const SumSquaresKernels kernels = sum_squares_kernels<T, kBytes>();
  load("loading the kernels of the sums of squares", {kernels.sum_parts, kernels.add_parts});
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
