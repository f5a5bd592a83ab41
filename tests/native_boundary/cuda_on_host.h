// Handlers that take the calls of a GPU and run its threads on the host, one after the other.
#pragma once

#include "xla/ffi/api/c_api.h"

extern "C" XLA_FFI_Error* nadam_xla_update_v1_cuda_on_host(XLA_FFI_CallFrame* call_frame);
extern "C" XLA_FFI_Error* nadam_xla_update_v2_cuda_on_host(XLA_FFI_CallFrame* call_frame);
extern "C" XLA_FFI_Error* nadam_xla_update_entry_v1_cuda_on_host(XLA_FFI_CallFrame* call_frame);
extern "C" XLA_FFI_Error* nadam_xla_update_rows_v1_cuda_on_host(XLA_FFI_CallFrame* call_frame);
extern "C" XLA_FFI_Error* nadam_xla_sum_squares_v1_cuda_on_host(XLA_FFI_CallFrame* call_frame);
