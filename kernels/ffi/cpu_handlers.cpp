#include "kernels/ffi/cpu_handlers.h"

#include <functional>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/sum_squares.h"
#include "kernels/cpu/update.h"
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
Error update(const RowLayout layout, xla::ffi::ThreadPool threads, const RemainingArgs& operands,
             const RemainingRets& results, const Attributes& attributes) {
  return run_target(update_target(layout), [&] {
    const Operands all(operands);
    const auto first = leading<1>(all, "operands", "coefficients");
    run_typed("coefficients", first[0], [&](auto element) {
      using T = decltype(element);
      cpu::update(decode_update<T>(attributes(), first[0], all.behind(1), results),
                  XlaPool(threads));
    });
  });
}

Error update_v1(xla::ffi::ThreadPool threads, const RemainingArgs operands,
                const RemainingRets results, const xla::ffi::Dictionary attributes) {
  return update(RowLayout::kV1, threads, operands, results,
                [&] { return decode_attributes_v1(attributes); });
}

Error update_v2(xla::ffi::ThreadPool threads, const RemainingArgs operands,
                const RemainingRets results, const xla::ffi::Dictionary attributes) {
  return update(RowLayout::kV2, threads, operands, results,
                [&] { return decode_attributes_v2(attributes); });
}

Error update_entry(xla::ffi::ThreadPool threads, const RemainingArgs operands,
                   const RemainingRets results, const xla::ffi::Dictionary attributes) {
  return run_target(kUpdateEntryTarget, [&] {
    const Operands all(operands);
    const auto first = leading<2>(all, "operands", "index and coefficients");
    run_typed("coefficients", first[1], [&](auto element) {
      using T = decltype(element);
      cpu::update(decode_update_entry<T>(decode_attributes_entry(attributes), first[0], first[1],
                                         all.behind(2), results),
                  XlaPool(threads));
    });
  });
}

Error update_rows(xla::ffi::ThreadPool threads, const RemainingArgs operands,
                  const RemainingRets results, const xla::ffi::Dictionary attributes) {
  return run_target(kUpdateRowsTarget, [&] {
    const Operands all(operands);
    const auto first = leading<2>(all, "operands", "coefficients and indices");
    run_typed("coefficients", first[0], [&](auto element) {
      using T = decltype(element);
      const auto call = decode_rows<T>(decode_attributes_rows(attributes), SortedBy::kCall,
                                       first[0], first[1], all.behind(2), results);
      cpu::update_rows(call, XlaPool(threads));
    });
  });
}

// The workspace that a GPU needs for the same call stays as it is.
Error sum_squares(xla::ffi::ThreadPool threads, const RemainingArgs leaves,
                  const RemainingRets results, const xla::ffi::Dictionary attributes) {
  return run_target(kSumSquaresTarget, [&] {
    const Results all(results);
    const auto first = leading<1>(all, "results", "the sums");
    const RemainingRets workspace = all.behind(1);
    run_typed("the result", first[0], [&](auto element) {
      using T = decltype(element);
      if (workspace.size() != 0) decode_workspace(workspace);
      cpu::sum_squares(decode_sum_squares<T>(attributes, leaves, first[0]), XlaPool(threads));
    });
  });
}

// All counts are checked by the handlers: what XLA says of a wrong one does not name the target.
auto bind() {
  return xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>().RemainingArgs().RemainingRets().Attrs();
}

}  // namespace
}  // namespace nadam_xla::ffi

XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_v1_cpu, nadam_xla::ffi::update_v1,
                              nadam_xla::ffi::bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_v2_cpu, nadam_xla::ffi::update_v2,
                              nadam_xla::ffi::bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_entry_v1_cpu, nadam_xla::ffi::update_entry,
                              nadam_xla::ffi::bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_rows_v1_cpu, nadam_xla::ffi::update_rows,
                              nadam_xla::ffi::bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_sum_squares_v1_cpu, nadam_xla::ffi::sum_squares,
                              nadam_xla::ffi::bind());
