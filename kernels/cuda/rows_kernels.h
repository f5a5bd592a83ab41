// The kernels of the update of some rows by their addresses on the host, as those of the update.
#pragma once

#include "kernels/cuda/rows_launch.h"

namespace nadam_xla::cuda {

// Each has one parameter, a RowsLaunch<T>, and a thread for each item.
struct RowsKernels {
  const void* of_groups;  // of kGroup elements
  const void* of_single_elements;
};

template <typename T>
RowsKernels rows_kernels();

}  // namespace nadam_xla::cuda
