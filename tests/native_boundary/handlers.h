// The handler of each target.
#pragma once

#include "kernels/ffi/cpu_handlers.h"
#include "tests/native_boundary/calls.h"
#include "xla/ffi/api/c_api.h"

namespace nadam_xla::native_boundary {

inline constexpr XLA_FFI_Handler* kCpuHandlers[kTargets] = {
    nadam_xla_update_v1_cpu,      nadam_xla_update_v2_cpu,      nadam_xla_update_entry_v1_cpu,
    nadam_xla_update_rows_v1_cpu, nadam_xla_sum_squares_v1_cpu,
};

}  // namespace nadam_xla::native_boundary
