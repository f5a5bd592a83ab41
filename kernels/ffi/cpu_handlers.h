// The handlers that XLA's CPU runtimes call.
#pragma once

#include "xla/ffi/api/c_api.h"

extern "C" XLA_FFI_Error* nadam_xla_update_v1_cpu(XLA_FFI_CallFrame* call_frame);
extern "C" XLA_FFI_Error* nadam_xla_update_v2_cpu(XLA_FFI_CallFrame* call_frame);
extern "C" XLA_FFI_Error* nadam_xla_update_entry_v1_cpu(XLA_FFI_CallFrame* call_frame);
extern "C" XLA_FFI_Error* nadam_xla_update_rows_v1_cpu(XLA_FFI_CallFrame* call_frame);

extern "C" XLA_FFI_Error* nadam_xla_sum_squares_v1_cpu(XLA_FFI_CallFrame* call_frame);
