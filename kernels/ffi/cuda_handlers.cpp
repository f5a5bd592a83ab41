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
#include "kernels/ffi/buffers.h"
#include "kernels/ffi/decode.h"
#include "kernels/ffi/run_target.h"
#include "kernels/ffi/targets.h"
#include "xla/ffi/api/ffi.h"

namespace nadam_xla::ffi {
namespace {

using xla::ffi::Error;
using xla::ffi::RemainingArgs;
using xla::ffi::RemainingRets;

// `attributes` returns the call's; what it throws becomes an error, too.
template <typename Attributes>
Error update(const RowLayout layout, cudaStream_t stream, const RemainingArgs& operands,
             const RemainingRets& results, const Attributes& attributes) {
  return run_target(update_target(layout), [&] {
    const Operands all(operands);
    const auto first = leading<1>(all, "operands", "coefficients");
    run_typed("coefficients", first[0], [&](auto element) {
      using T = decltype(element);
      cuda::update(decode_update<T>(attributes(), first[0], all.behind(1), results), stream);
    });
  });
}

Error update_v1(cudaStream_t stream, const RemainingArgs operands, const RemainingRets results,
                const xla::ffi::Dictionary attributes) {
  return update(RowLayout::kV1, stream, operands, results,
                [&] { return decode_attributes_v1(attributes); });
}

Error update_v2(cudaStream_t stream, const RemainingArgs operands, const RemainingRets results,
                const xla::ffi::Dictionary attributes) {
  return update(RowLayout::kV2, stream, operands, results,
                [&] { return decode_attributes_v2(attributes); });
}

Error update_entry(cudaStream_t stream, const RemainingArgs operands, const RemainingRets results,
                   const xla::ffi::Dictionary attributes) {
  return run_target(kUpdateEntryTarget, [&] {
    const Operands all(operands);
    const auto first = leading<2>(all, "operands", "index and coefficients");
    run_typed("coefficients", first[1], [&](auto element) {
      using T = decltype(element);
      cuda::update(decode_update_entry<T>(decode_attributes_entry(attributes), first[0], first[1],
                                          all.behind(2), results),
                   stream);
    });
  });
}

Error update_rows(cudaStream_t stream, const RemainingArgs operands, const RemainingRets results,
                  const xla::ffi::Dictionary attributes) {
  return run_target(kUpdateRowsTarget, [&] {
    const Operands all(operands);
    const auto first = leading<2>(all, "operands", "coefficients and indices");
    run_typed("coefficients", first[0], [&](auto element) {
      using T = decltype(element);
      const auto call = decode_rows<T>(decode_attributes_rows(attributes), SortedBy::kOperands,
                                       first[0], first[1], all.behind(2), results);
      cuda::update_rows(call, stream);
    });
  });
}

Error sum_squares(cudaStream_t stream, const RemainingArgs leaves, const RemainingRets results,
                  const xla::ffi::Dictionary attributes) {
  return run_target(kSumSquaresTarget, [&] {
    const Results all(results);
    const auto first = leading<1>(all, "results", "the sums");
    run_typed("the result", first[0], [&](auto element) {
      using T = decltype(element);
      const Bytes bytes = decode_workspace(all.behind(1));
      cuda::sum_squares(decode_sum_squares<T>(attributes, leaves, first[0]),
                        {static_cast<double*>(bytes.data),
                         bytes.size / static_cast<std::int64_t>(sizeof(double))},
                        stream);
    });
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
