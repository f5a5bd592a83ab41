#include "kernels/ffi/cuda_handlers.h"

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <exception>
#include <mutex>
#include <string>

#include "kernels/cuda/check.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/sum_squares.h"
#include "kernels/cuda/update.h"
#include "kernels/ffi/decode.h"
#include "kernels/ffi/run_target.h"
#include "kernels/ffi/targets.h"
#include "xla/ffi/api/ffi.h"

namespace nadam_xla::ffi {
namespace {

using xla::ffi::Dictionary;
using xla::ffi::Error;
using xla::ffi::RemainingArgs;
using xla::ffi::RemainingRets;

Error update_v1(cudaStream_t stream, const RemainingArgs operands, const RemainingRets results,
                const Dictionary attributes) {
  return run_update<RowLayout::kV1>(operands, results, attributes,
                                    [&](const auto& call) { cuda::update(call, stream); });
}

Error update_v2(cudaStream_t stream, const RemainingArgs operands, const RemainingRets results,
                const Dictionary attributes) {
  return run_update<RowLayout::kV2>(operands, results, attributes,
                                    [&](const auto& call) { cuda::update(call, stream); });
}

Error update_entry(cudaStream_t stream, const RemainingArgs operands, const RemainingRets results,
                   const Dictionary attributes) {
  return run_update_entry(operands, results, attributes,
                          [&](const auto& call) { cuda::update(call, stream); });
}

Error update_rows(cudaStream_t stream, const RemainingArgs operands, const RemainingRets results,
                  const Dictionary attributes) {
  return run_update_rows<SortedBy::kOperands>(
      operands, results, attributes, [&](const auto& call) { cuda::update_rows(call, stream); });
}

Error sum_squares(cudaStream_t stream, const RemainingArgs leaves, const RemainingRets results,
                  const Dictionary attributes) {
  return run_sum_squares(
      leaves, results, attributes, [&](const auto& call, const RemainingRets& workspace) {
        const Bytes bytes = decode_workspace(workspace);
        const std::int64_t parts = bytes.size / static_cast<std::int64_t>(sizeof(double));
        cuda::sum_squares(call, {static_cast<double*>(bytes.data), parts}, stream);
      });
}

// XLA calls this before each run of a program, outside of any capture.
Error load_kernels(const RemainingArgs /*arguments*/, const RemainingRets /*results*/) try {
  static std::array<std::once_flag, 64> loaded;  // on each device
  int device = 0;
  cuda::check(cudaGetDevice(&device), "asking for the current device");
  std::call_once(loaded.at(device), [] {
    cuda::load_rows_kernels();
    cuda::load_update_kernels();
    cuda::load_sum_squares_kernels();
  });
  return Error::Success();
} catch (const std::exception& error) {
  return Error::Internal(std::string("nadam_xla: ") + error.what());
}

// All counts are checked by the handlers: what XLA says of a wrong one does not name the target.
auto bind() {
  return xla::ffi::Ffi::Bind()
      .Ctx<xla::ffi::PlatformStream<cudaStream_t>>()
      .RemainingArgs()
      .RemainingRets()
      .Attrs();
}

}  // namespace
}  // namespace nadam_xla::ffi

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    nadam_xla_load_kernels_cuda, nadam_xla::ffi::load_kernels,
    xla::ffi::Ffi::Bind<xla::ffi::ExecutionStage::kInitialize>().RemainingArgs().RemainingRets());

// They only enqueue work on the stream, so XLA may record them in a command buffer (a CUDA graph).
XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_v1_cuda, nadam_xla::ffi::update_v1,
                              nadam_xla::ffi::bind(), {xla::ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_v2_cuda, nadam_xla::ffi::update_v2,
                              nadam_xla::ffi::bind(), {xla::ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_entry_v1_cuda, nadam_xla::ffi::update_entry,
                              nadam_xla::ffi::bind(), {xla::ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_rows_v1_cuda, nadam_xla::ffi::update_rows,
                              nadam_xla::ffi::bind(), {xla::ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_sum_squares_v1_cuda, nadam_xla::ffi::sum_squares,
                              nadam_xla::ffi::bind(), {xla::ffi::Traits::kCmdBufferCompatible});
