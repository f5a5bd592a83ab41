// The decoders and encoders of the CUDA kernels, run on the host for tests.
#pragma once

#include <nanobind/nanobind.h>

namespace nadam_xla {

void define_cuda_codec(nanobind::module_& m);

}  // namespace nadam_xla
