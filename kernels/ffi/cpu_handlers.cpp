#include "kernels/ffi/cpu_handlers.h"

#include <exception>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "kernels/cpu/sum_squares.h"
#include "kernels/cpu/update.h"
#include "kernels/ffi/decode.h"
#include "xla/ffi/api/ffi.h"

namespace nadam_xla::ffi {
namespace {

using xla::ffi::AnyBuffer;
using xla::ffi::DataType;
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

// Runs the body for the element type; what it throws becomes an error that names the target.
template <typename Body>
Error run_typed(const char* target, const char* typed_by, const DataType type,
                const Body& body) try {
  switch (type) {
    case DataType::F32:
      body(float());
      return Error::Success();
    case DataType::F64:
      body(double());
      return Error::Success();
    default:
      std::ostringstream message;
      message << target << ": " << typed_by << " has the element type " << type
              << "; it must be F32 or F64";
      return Error::InvalidArgument(message.str());
  }
} catch (const std::invalid_argument& error) {
  return Error::InvalidArgument(std::string(target) + ": " + error.what());
} catch (const std::exception& error) {
  return Error::Internal(std::string(target) + ": " + error.what());
}

Error update(xla::ffi::ThreadPool threads, const AnyBuffer coefficients, const RemainingArgs leaves,
             const RemainingRets results, const bool returns_change) {
  return run_typed("nadam_xla_update_v1", "coefficients", coefficients.element_type(),
                   [&](auto element) {
                     using T = decltype(element);
                     cpu::update(decode_update<T>(coefficients, leaves, results, returns_change),
                                 XlaPool(threads));
                   });
}

Error sum_squares(xla::ffi::ThreadPool threads, const RemainingArgs leaves,
                  xla::ffi::Result<AnyBuffer> sums) {
  return run_typed("nadam_xla_sum_squares_v1", "the result", sums->element_type(),
                   [&](auto element) {
                     using T = decltype(element);
                     cpu::sum_squares(decode_sum_squares<T>(leaves, *sums), XlaPool(threads));
                   });
}

}  // namespace
}  // namespace nadam_xla::ffi

XLA_FFI_DEFINE_HANDLER_SYMBOL(nadam_xla_update_v1_cpu, nadam_xla::ffi::update,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()  // coefficients
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<bool>("returns_change"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    nadam_xla_sum_squares_v1_cpu, nadam_xla::ffi::sum_squares,
    xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>().RemainingArgs().Ret<xla::ffi::AnyBuffer>());
