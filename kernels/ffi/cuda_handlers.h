// The handlers that XLA's CUDA runtimes call: one before a program is run, the others in it.
#pragma once

#include "xla/ffi/api/c_api.h"

extern "C" XLA_FFI_Error* nadam_xla_load_kernels_cuda(XLA_FFI_CallFrame* call_frame);
extern "C" XLA_FFI_Error* nadam_xla_update_v1_cuda(XLA_FFI_CallFrame* call_frame);
extern "C" XLA_FFI_Error* nadam_xla_update_v2_cuda(XLA_FFI_CallFrame* call_frame);
extern "C" XLA_FFI_Error* nadam_xla_update_entry_v1_cuda(XLA_FFI_CallFrame* call_frame);
extern "C" XLA_FFI_Error* nadam_xla_update_rows_v1_cuda(XLA_FFI_CallFrame* call_frame);

extern "C" XLA_FFI_Error* nadam_xla_sum_squares_v1_cuda(XLA_FFI_CallFrame* call_frame);
