#include "tests/native_boundary/cuda_on_host.h"

#include <algorithm>
#include <cstdint>

#include "kernels/bindings/testing_cuda_threads.h"
#include "kernels/ffi/buffers.h"
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

template <typename Attributes>
Error update(const RowLayout layout, const RemainingArgs& operands, const RemainingRets& results,
             const Attributes& attributes) {
  return run_target(update_target(layout), [&] {
    const Operands all(operands);
    const auto first = leading<1>(all, "operands", "coefficients");
    run_typed("coefficients", first[0], [&](auto element) {
      using T = decltype(element);
      cuda_on_host::update(decode_update<T>(attributes(), first[0], all.behind(1), results));
    });
  });
}

Error update_v1(const RemainingArgs operands, const RemainingRets results,
                const Dictionary attributes) {
  return update(RowLayout::kV1, operands, results,
                [&] { return decode_attributes_v1(attributes); });
}

Error update_v2(const RemainingArgs operands, const RemainingRets results,
                const Dictionary attributes) {
  return update(RowLayout::kV2, operands, results,
                [&] { return decode_attributes_v2(attributes); });
}

Error update_entry(const RemainingArgs operands, const RemainingRets results,
                   const Dictionary attributes) {
  return run_target(kUpdateEntryTarget, [&] {
    const Operands all(operands);
    const auto first = leading<2>(all, "operands", "index and coefficients");
    run_typed("coefficients", first[1], [&](auto element) {
      using T = decltype(element);
      cuda_on_host::update(decode_update_entry<T>(decode_attributes_entry(attributes), first[0],
                                                  first[1], all.behind(2), results));
    });
  });
}

Error update_rows(const RemainingArgs operands, const RemainingRets results,
                  const Dictionary attributes) {
  return run_target(kUpdateRowsTarget, [&] {
    const Operands all(operands);
    const auto first = leading<2>(all, "operands", "coefficients and indices");
    run_typed("coefficients", first[0], [&](auto element) {
      using T = decltype(element);
      cuda_on_host::update_rows(
          decode_rows<T>(decode_attributes_rows(attributes), SortedBy::kOperands, first[0],
                         first[1], all.behind(2), results),
          kMostBlocks);
    });
  });
}

Error sum_squares(const RemainingArgs leaves, const RemainingRets results,
                  const Dictionary attributes) {
  return run_target(kSumSquaresTarget, [&] {
    const Results all(results);
    const auto first = leading<1>(all, "results", "the sums");
    run_typed("the result", first[0], [&](auto element) {
      using T = decltype(element);
      const Bytes bytes = decode_workspace(all.behind(1));
      const auto call = decode_sum_squares<T>(attributes, leaves, first[0]);
      auto* const parts = static_cast<double*>(bytes.data);
      const std::int64_t count = bytes.size / static_cast<std::int64_t>(sizeof(double));
      std::fill(parts, parts + count, 0);
      cuda_on_host::sum_squares(call, parts, count);
    });
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
