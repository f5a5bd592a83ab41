#include "kernels/ffi/cpu_handlers.h"

#include <functional>
#include <utility>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/sum_squares.h"
#include "kernels/cpu/update.h"
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

class XlaPool final : public cpu::Pool {
 public:
  explicit XlaPool(xla::ffi::ThreadPool& pool) : pool_(pool) {}
  std::int64_t threads() const override { return pool_.num_threads(); }
  void schedule(std::function<void()> task) const override { pool_.Schedule(std::move(task)); }

 private:
  xla::ffi::ThreadPool& pool_;
};

Error update_v1(xla::ffi::ThreadPool threads, const RemainingArgs operands,
                const RemainingRets results, const Dictionary attributes) {
  return run_update<RowLayout::kV1>(operands, results, attributes, [&](auto call) {
    cpu::update(std::move(call), XlaPool(threads));
  });
}

Error update_v2(xla::ffi::ThreadPool threads, const RemainingArgs operands,
                const RemainingRets results, const Dictionary attributes) {
  return run_update<RowLayout::kV2>(operands, results, attributes, [&](auto call) {
    cpu::update(std::move(call), XlaPool(threads));
  });
}

Error update_entry(xla::ffi::ThreadPool threads, const RemainingArgs operands,
                   const RemainingRets results, const Dictionary attributes) {
  return run_update_entry(operands, results, attributes,
                          [&](auto call) { cpu::update(std::move(call), XlaPool(threads)); });
}

Error update_rows(xla::ffi::ThreadPool threads, const RemainingArgs operands,
                  const RemainingRets results, const Dictionary attributes) {
  return run_update_rows<SortedBy::kCall>(operands, results, attributes, [&](const auto& call) {
    cpu::update_rows(call, XlaPool(threads));
  });
}

// The workspace that a GPU needs for the same call stays as it is.
Error sum_squares(xla::ffi::ThreadPool threads, const RemainingArgs leaves,
                  const RemainingRets results, const Dictionary attributes) {
  return run_sum_squares(leaves, results, attributes,
                         [&](const auto& call, const RemainingRets& workspace) {
                           if (workspace.size() != 0) decode_workspace(workspace);
                           cpu::sum_squares(call, XlaPool(threads));
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
