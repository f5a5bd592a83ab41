// The library with the CUDA handlers, as Python loads it, and the driver that it needs.
#pragma once

#include <nanobind/nanobind.h>

namespace nadam_xla {

// Defines `CudaLibrary` and `cuda_driver_version` in the module.
void define_cuda_library(nanobind::module_& m);

}  // namespace nadam_xla
