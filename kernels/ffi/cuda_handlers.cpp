#include "kernels/ffi/cuda_handlers.h"

#include <cuda_runtime_api.h>

#include <array>
#include <exception>
#include <mutex>
#include <string>

#include "kernels/cuda/check.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/sum_squares.h"
#include "kernels/cuda/update.h"
#include "kernels/ffi/decode.h"
#include "kernels/ffi/run_typed.h"
#include "kernels/ffi/targets.h"
#include "xla/ffi/api/ffi.h"

namespace nadam_xla::ffi {
namespace {

using xla::ffi::AnyBuffer;
using xla::ffi::Error;
using xla::ffi::RemainingArgs;
using xla::ffi::RemainingRets;

// `attributes` returns the call's; what it throws becomes an error, too.
template <typename Attributes>
Error update(const RowLayout layout, cudaStream_t stream, const AnyBuffer& coefficients,
             const RemainingArgs& leaves, const RemainingRets& results,
             const Attributes& attributes) {
  const char* const target = update_target(layout);
  return run_typed(target, "coefficients", coefficients.element_type(), [&](auto element) {
    using T = decltype(element);
    cuda::update(decode_update<T>(attributes(), coefficients, leaves, results), stream);
  });
}

Error update_v1(cudaStream_t stream, const AnyBuffer coefficients, const RemainingArgs leaves,
                const RemainingRets results, const bool returns_change) {
  return update(RowLayout::kV1, stream, coefficients, leaves, results,
                [&] { return attributes_v1(returns_change); });
}

Error update_v2(cudaStream_t stream, const AnyBuffer coefficients, const RemainingArgs leaves,
                const RemainingRets results, const xla::ffi::Dictionary attributes) {
  return update(RowLayout::kV2, stream, coefficients, leaves, results,
                [&] { return decode_attributes_v2(attributes); });
}

Error update_entry(cudaStream_t stream, const AnyBuffer index, const AnyBuffer coefficients,
                   const RemainingArgs leaves, const RemainingRets results,
                   const std::int64_t first_row) {
  return run_typed(
      kUpdateEntryTarget, "coefficients", coefficients.element_type(), [&](auto element) {
        using T = decltype(element);
        cuda::update(decode_update_entry<T>(first_row, index, coefficients, leaves, results),
                     stream);
      });
}

Error update_rows(cudaStream_t stream, const AnyBuffer coefficients, const AnyBuffer indices,
                  const RemainingArgs operands, const RemainingRets results,
                  const xla::ffi::Dictionary attributes) {
  return run_typed(
      kUpdateRowsTarget, "coefficients", coefficients.element_type(), [&](auto element) {
        using T = decltype(element);
        const auto call = decode_rows<T>(decode_attributes_rows(attributes), SortedBy::kOperands,
                                         coefficients, indices, operands, results);
        cuda::update_rows(call, stream);
      });
}

auto bind_update() {
  return xla::ffi::Ffi::Bind()
      .Ctx<xla::ffi::PlatformStream<cudaStream_t>>()
      .Arg<AnyBuffer>()  // coefficients
      .RemainingArgs()
      .RemainingRets();
}

Error sum_squares(cudaStream_t stream, const RemainingArgs leaves,
                  xla::ffi::Result<AnyBuffer> results, const RemainingRets workspace,
                  const xla::ffi::Dictionary attributes) {
  return run_typed(kSumSquaresTarget, "the result", results->element_type(), [&](auto element) {
    using T = decltype(element);
    const Bytes bytes = decode_workspace(workspace);
    cuda::sum_squares(
        decode_sum_squares<T>(attributes, leaves, *results),
        {static_cast<double*>(bytes.data), bytes.size / static_cast<std::int64_t>(sizeof(double))},
        stream);
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

}  // namespace
}  // namespace nadam_xla::ffi

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    nadam_xla_load_kernels_cuda, nadam_xla::ffi::load_kernels,
    xla::ffi::Ffi::Bind<xla::ffi::ExecutionStage::kInitialize>().RemainingArgs().RemainingRets());

// They only enqueue work on the stream, so XLA may record them in a command buffer (a CUDA graph).
XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_v1_cuda, nadam_xla::ffi::update_v1,
                              nadam_xla::ffi::bind_update().Attr<bool>("returns_change"),
                              {xla::ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_v2_cuda, nadam_xla::ffi::update_v2,
                              nadam_xla::ffi::bind_update().Attrs(),
                              {xla::ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_entry_v1_cuda, nadam_xla::ffi::update_entry,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::PlatformStream<cudaStream_t>>()
                                  .Arg<xla::ffi::AnyBuffer>()  // index
                                  .Arg<xla::ffi::AnyBuffer>()  // coefficients
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<std::int64_t>("first_row"),
                              {xla::ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_rows_v1_cuda, nadam_xla::ffi::update_rows,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::PlatformStream<cudaStream_t>>()
                                  .Arg<xla::ffi::AnyBuffer>()  // coefficients
                                  .Arg<xla::ffi::AnyBuffer>()  // indices
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attrs(),
                              {xla::ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_sum_squares_v1_cuda, nadam_xla::ffi::sum_squares,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::PlatformStream<cudaStream_t>>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .RemainingRets()
                                  .Attrs(),
                              {xla::ffi::Traits::kCmdBufferCompatible});
