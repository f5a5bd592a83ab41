#include "tests/native_boundary/cuda_on_host.h"

#include <algorithm>
#include <cstdint>

#include "kernels/bindings/testing_cuda_threads.h"
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

constexpr std::int64_t kMostBlocks = 3;  // so that there are several launches

Error update_v1(const RemainingArgs operands, const RemainingRets results,
                const Dictionary attributes) {
  return run_update<RowLayout::kV1>(operands, results, attributes,
                                    [](const auto& call) { cuda_on_host::update(call); });
}

Error update_v2(const RemainingArgs operands, const RemainingRets results,
                const Dictionary attributes) {
  return run_update<RowLayout::kV2>(operands, results, attributes,
                                    [](const auto& call) { cuda_on_host::update(call); });
}

Error update_entry(const RemainingArgs operands, const RemainingRets results,
                   const Dictionary attributes) {
  return run_update_entry(operands, results, attributes,
                          [](const auto& call) { cuda_on_host::update(call); });
}

Error update_rows(const RemainingArgs operands, const RemainingRets results,
                  const Dictionary attributes) {
  return run_update_rows<SortedBy::kOperands>(operands, results, attributes, [](const auto& call) {
    cuda_on_host::update_rows(call, kMostBlocks);
  });
}

Error sum_squares(const RemainingArgs leaves, const RemainingRets results,
                  const Dictionary attributes) {
  return run_sum_squares(
      leaves, results, attributes, [](const auto& call, const RemainingRets& workspace) {
        const Bytes bytes = decode_workspace(workspace);
        auto* const parts = static_cast<double*>(bytes.data);
        const auto count = bytes.size / static_cast<std::int64_t>(sizeof(double));
        std::fill(parts, parts + count, 0);
        cuda_on_host::sum_squares(call, parts, count);
      });
}

auto bind() { return xla::ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs(); }

}  // namespace
}  // namespace nadam_xla::ffi

XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_v1_cuda_on_host, nadam_xla::ffi::update_v1,
                              nadam_xla::ffi::bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_v2_cuda_on_host, nadam_xla::ffi::update_v2,
                              nadam_xla::ffi::bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_entry_v1_cuda_on_host, nadam_xla::ffi::update_entry,
                              nadam_xla::ffi::bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_rows_v1_cuda_on_host, nadam_xla::ffi::update_rows,
                              nadam_xla::ffi::bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_sum_squares_v1_cuda_on_host, nadam_xla::ffi::sum_squares,
                              nadam_xla::ffi::bind());
