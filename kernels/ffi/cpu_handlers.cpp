#include "kernels/ffi/cpu_handlers.h"

#include <functional>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/sum_squares.h"
#include "kernels/cpu/update.h"
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

class XlaPool final : public cpu::Pool {
 public:
  explicit XlaPool(xla::ffi::ThreadPool& pool) : pool_(pool) {}
  std::int64_t threads() const override { return pool_.num_threads(); }
  void schedule(std::function<void()> task) const override { pool_.Schedule(std::move(task)); }

 private:
  xla::ffi::ThreadPool& pool_;
};

// `attributes` returns the call's; what it throws becomes an error, too.
template <typename Attributes>
Error update(const RowLayout layout, xla::ffi::ThreadPool threads, const AnyBuffer& coefficients,
             const RemainingArgs& leaves, const RemainingRets& results,
             const Attributes& attributes) {
  const char* const target = update_target(layout);
  return run_typed(target, "coefficients", coefficients.element_type(), [&](auto element) {
    using T = decltype(element);
    cpu::update(decode_update<T>(attributes(), coefficients, leaves, results), XlaPool(threads));
  });
}

Error update_v1(xla::ffi::ThreadPool threads, const AnyBuffer coefficients,
                const RemainingArgs leaves, const RemainingRets results,
                const bool returns_change) {
  return update(RowLayout::kV1, threads, coefficients, leaves, results,
                [&] { return attributes_v1(returns_change); });
}

Error update_v2(xla::ffi::ThreadPool threads, const AnyBuffer coefficients,
                const RemainingArgs leaves, const RemainingRets results,
                const xla::ffi::Dictionary attributes) {
  return update(RowLayout::kV2, threads, coefficients, leaves, results,
                [&] { return decode_attributes_v2(attributes); });
}

Error update_entry(xla::ffi::ThreadPool threads, const AnyBuffer index,
                   const AnyBuffer coefficients, const RemainingArgs leaves,
                   const RemainingRets results, const std::int64_t first_row) {
  return run_typed(
      kUpdateEntryTarget, "coefficients", coefficients.element_type(), [&](auto element) {
        using T = decltype(element);
        cpu::update(decode_update_entry<T>(first_row, index, coefficients, leaves, results),
                    XlaPool(threads));
      });
}

Error update_rows(xla::ffi::ThreadPool threads, const AnyBuffer coefficients,
                  const AnyBuffer indices, const RemainingArgs operands,
                  const RemainingRets results, const xla::ffi::Dictionary attributes) {
  return run_typed(
      kUpdateRowsTarget, "coefficients", coefficients.element_type(), [&](auto element) {
        using T = decltype(element);
        const auto call = decode_rows<T>(decode_attributes_rows(attributes), SortedBy::kCall,
                                         coefficients, indices, operands, results);
        cpu::update_rows(call, XlaPool(threads));
      });
}

auto bind_update() {
  return xla::ffi::Ffi::Bind()
      .Ctx<xla::ffi::ThreadPool>()
      .Arg<AnyBuffer>()  // coefficients
      .RemainingArgs()
      .RemainingRets();
}

// The workspace that a GPU needs for the same call stays as it is.
Error sum_squares(xla::ffi::ThreadPool threads, const RemainingArgs leaves,
                  xla::ffi::Result<AnyBuffer> results, const RemainingRets workspace,
                  const xla::ffi::Dictionary attributes) {
  return run_typed(kSumSquaresTarget, "the result", results->element_type(), [&](auto element) {
    using T = decltype(element);
    if (workspace.size() != 0) decode_workspace(workspace);
    cpu::sum_squares(decode_sum_squares<T>(attributes, leaves, *results), XlaPool(threads));
  });
}

}  // namespace
}  // namespace nadam_xla::ffi

XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_v1_cpu, nadam_xla::ffi::update_v1,
                              nadam_xla::ffi::bind_update().Attr<bool>("returns_change"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_v2_cpu, nadam_xla::ffi::update_v2,
                              nadam_xla::ffi::bind_update().Attrs());

XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_entry_v1_cpu, nadam_xla::ffi::update_entry,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()  // index
                                  .Arg<xla::ffi::AnyBuffer>()  // coefficients
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<std::int64_t>("first_row"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_rows_v1_cpu, nadam_xla::ffi::update_rows,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()  // coefficients
                                  .Arg<xla::ffi::AnyBuffer>()  // indices
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attrs());

XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_sum_squares_v1_cpu, nadam_xla::ffi::sum_squares,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .RemainingRets()
                                  .Attrs());
