#include "kernels/cuda/update.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/update_kernels.h"

namespace nadam_xla::cuda {
namespace {

template <std::size_t kBytes, typename T>
void start(const UpdateCall<T>& call, const PlannedLaunch& planned, const cudaStream_t stream) {
  const UpdateKernels kernels = update_kernels<T, kBytes>();
  const auto parameters = launch_of<kUpdateCapacity<T, kBytes>>(call, planned);
  launch(call.returns == Returns::kParams ? kernels.returning_params : kernels.returning_change,
         planned.blocks(), &parameters, stream, "the launch of the update");
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
      start<kSmallParameters>(call, planned, stream);
    } else {
      start<kLargestParameters>(call, planned, stream);
    }
  }
}

namespace {

template <typename T, std::size_t kBytes>
void load_kernels() {
  const UpdateKernels kernels = update_kernels<T, kBytes>();
  load("loading the kernels of the update", {kernels.returning_params, kernels.returning_change});
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
