// What a GPU's threads do of an update of rows, run on the host for tests.
#pragma once

#include <nanobind/nanobind.h>

namespace nadam_xla {

void define_cuda_rows_on_host(nanobind::module_& m);

}  // namespace nadam_xla
