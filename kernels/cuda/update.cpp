#include "kernels/cuda/update.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/update_kernels.h"

namespace nadam_xla::cuda {
namespace {

template <typename OneLeaf, std::size_t kBytes, typename T>
void start(const UpdateCall<T>& call, const PlannedLaunch& planned, const cudaStream_t stream) {
  const UpdateKernels kernels = update_kernels<T, OneLeaf, kBytes>();
  const auto parameters = launch_of<OneLeaf, kUpdateCapacity<T, OneLeaf, kBytes>>(call, planned);
  launch(call.returns == Returns::kParams ? kernels.returning_params : kernels.returning_change,
         planned.blocks(), &parameters, stream, "the launch of the update");
}

template <typename OneLeaf, typename T>
void update_all(const UpdateCall<T>& call, const cudaStream_t stream) {
  constexpr std::size_t kFew = kUpdateCapacity<T, OneLeaf, kSmallParameters>;
  constexpr std::size_t kMany = kUpdateCapacity<T, OneLeaf, OneLeaf::kParameters>;
  const LaunchPlan plan = plan_of<OneLeaf>(call, kMany);
  for (const PlannedLaunch& planned : plan.launches()) {
    // A launch costs the host the more the larger its parameters are.
    if (planned.leaves.size() <= kFew) {
      start<OneLeaf, kSmallParameters>(call, planned, stream);
    } else {
      start<OneLeaf, OneLeaf::kParameters>(call, planned, stream);
    }
  }
}

template <typename T, typename OneLeaf, std::size_t kBytes>
void load_kernels() {
  const UpdateKernels kernels = update_kernels<T, OneLeaf, kBytes>();
  load("loading the kernels of the update", {kernels.returning_params, kernels.returning_change});
}

template <typename T>
void load_kernels_of_type() {
  load_kernels<T, ComputedLeaf<T>, kSmallParameters>();
  load_kernels<T, ComputedLeaf<T>, kLargestParameters>();
  load_kernels<T, StoredLeaf<Averaging::kOff>, kSmallParameters>();
  load_kernels<T, StoredLeaf<Averaging::kOn>, kSmallParameters>();
}

}  // namespace

template <typename T>
void update(const UpdateCall<T>& call, const cudaStream_t stream) {
  const bool has_average = call.streams.has(Stream::kAverage);
  if constexpr (kStorageOf<T> == Storage::kF32) {
    if (call.streams.has_scales()) {
      return has_average ? update_all<BlockwiseLeaf<Averaging::kOn>>(call, stream)
                         : update_all<BlockwiseLeaf<Averaging::kOff>>(call, stream);
    }
  }
  // One leaf that is not takes all with it: a second launch would cost more than it gives.
  if (is_stored_as_computed(call)) {
    update_all<ComputedLeaf<T>>(call, stream);
  } else if (has_average) {
    update_all<StoredLeaf<Averaging::kOn>>(call, stream);
  } else {
    update_all<StoredLeaf<Averaging::kOff>>(call, stream);
  }
}

void load_update_kernels() {
  load_kernels_of_type<float>();
  load_kernels_of_type<double>();
  load_kernels<float, BlockwiseLeaf<Averaging::kOff>, kSmallParameters>();
  load_kernels<float, BlockwiseLeaf<Averaging::kOn>, kSmallParameters>();
}

template void update(const UpdateCall<float>&, cudaStream_t);
template void update(const UpdateCall<double>&, cudaStream_t);

}  // namespace nadam_xla::cuda
