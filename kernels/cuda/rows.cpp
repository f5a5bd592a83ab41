#include "kernels/cuda/rows.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows_kernels.h"

namespace nadam_xla::cuda {

template <typename T>
void update_rows(const RowsCall<T>& call, const cudaStream_t stream) {
  const RowsKernels kernels = rows_kernels<T>();
  const bool in_groups = elements_of_item(call) == kGroup;
  const void* const kernel = in_groups ? kernels.of_groups : kernels.of_single_elements;
  each_launch(call, kMostBlocks, [&](const RowsLaunch<T>& parameters, const std::int64_t blocks) {
    launch(kernel, blocks, &parameters, stream, "the launch of the update of rows");
  });
}

namespace {

template <typename T>
void load_kernels() {
  const RowsKernels kernels = rows_kernels<T>();
  load("loading the kernels of the update of rows",
       {kernels.of_groups, kernels.of_single_elements});
}

}  // namespace

void load_rows_kernels() {
  load_kernels<float>();
  load_kernels<double>();
}

template void update_rows(const RowsCall<float>&, cudaStream_t);
template void update_rows(const RowsCall<double>&, cudaStream_t);

}  // namespace nadam_xla::cuda
