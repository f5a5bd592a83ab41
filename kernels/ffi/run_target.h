// The body of every target's handler, for any platform: it checks the counts, decodes the call, and
// hands it to `execute`, which is all that a platform adds.
#pragma once

#include <exception>
#include <stdexcept>
#include <string>

#include "kernels/ffi/buffers.h"
#include "kernels/ffi/decode.h"
#include "kernels/ffi/targets.h"
#include "xla/ffi/api/ffi.h"

namespace nadam_xla::ffi {

// Runs the body of a handler; what it throws becomes an error that names the target.
template <typename Body>
xla::ffi::Error run_target(const char* const target, const Body& body) try {
  body();
  return xla::ffi::Error::Success();
} catch (const std::invalid_argument& error) {
  return xla::ffi::Error::InvalidArgument(std::string(target) + ": " + error.what());
} catch (const std::exception& error) {
  return xla::ffi::Error::Internal(std::string(target) + ": " + error.what());
}

// Runs the body for the element type of a buffer; `name` is what that is called.
template <typename Body>
void run_typed(const char* const name, const AnyBuffer& buffer, const Body& body) {
  switch (buffer.element_type()) {
    case DataType::F32:
      return body(float());
    case DataType::F64:
      return body(double());
    default:
      refuse(name, " has the element type ", buffer.element_type(), "; it must be F32 or F64");
  }
}

// nadam_xla_update_v1 and _v2, by their layout. `execute` takes the UpdateCall.
template <RowLayout kLayout, typename Execute>
xla::ffi::Error run_update(const xla::ffi::RemainingArgs& operands,
                           const xla::ffi::RemainingRets& results,
                           const xla::ffi::Dictionary& attributes, const Execute& execute) {
  return run_target(update_target(kLayout), [&] {
    const Operands all(operands);
    const auto first = leading<1>(all, "operands", "coefficients");
    run_typed("coefficients", first[0], [&](auto element) {
      using T = decltype(element);
      const UpdateAttributes told = kLayout == RowLayout::kV1 ? decode_attributes_v1(attributes)
                                                              : decode_attributes_v2(attributes);
      execute(decode_update<T>(told, first[0], all.behind(1), results));
    });
  });
}

// nadam_xla_update_entry_v1. `execute` takes the UpdateCall.
template <typename Execute>
xla::ffi::Error run_update_entry(const xla::ffi::RemainingArgs& operands,
                                 const xla::ffi::RemainingRets& results,
                                 const xla::ffi::Dictionary& attributes, const Execute& execute) {
  return run_target(kUpdateEntryTarget, [&] {
    const Operands all(operands);
    const auto first = leading<2>(all, "operands", "index and coefficients");
    run_typed("coefficients", first[1], [&](auto element) {
      using T = decltype(element);
      execute(decode_update_entry<T>(decode_attributes_entry(attributes), first[0], first[1],
                                     all.behind(2), results));
    });
  });
}

// nadam_xla_update_rows_v1. `execute` takes the RowsCall.
template <SortedBy kSortedBy, typename Execute>
xla::ffi::Error run_update_rows(const xla::ffi::RemainingArgs& operands,
                                const xla::ffi::RemainingRets& results,
                                const xla::ffi::Dictionary& attributes, const Execute& execute) {
  return run_target(kUpdateRowsTarget, [&] {
    const Operands all(operands);
    const auto first = leading<2>(all, "operands", "coefficients and indices");
    run_typed("coefficients", first[0], [&](auto element) {
      using T = decltype(element);
      execute(decode_rows<T>(decode_attributes_rows(attributes), kSortedBy, first[0], first[1],
                             all.behind(2), results));
    });
  });
}

// nadam_xla_sum_squares_v1. `execute` takes the SumSquaresCall, and the results behind the sums:
// the workspace that a GPU needs, and that a CPU may be given.
template <typename Execute>
xla::ffi::Error run_sum_squares(const xla::ffi::RemainingArgs& leaves,
                                const xla::ffi::RemainingRets& results,
                                const xla::ffi::Dictionary& attributes, const Execute& execute) {
  return run_target(kSumSquaresTarget, [&] {
    const Results all(results);
    const auto first = leading<1>(all, "results", "the sums");
    run_typed("the result", first[0], [&](auto element) {
      using T = decltype(element);
      execute(decode_sum_squares<T>(attributes, leaves, first[0]), all.behind(1));
    });
  });
}

}  // namespace nadam_xla::ffi
