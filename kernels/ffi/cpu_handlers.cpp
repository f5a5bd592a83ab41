#include "kernels/ffi/cpu_handlers.h"

#include <exception>
#include <functional>
#include <sstream>
#include <stdexcept>

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

Error update(xla::ffi::ThreadPool threads, const AnyBuffer coefficients, const RemainingArgs leaves,
             const RemainingRets results, const bool returns_change) try {
  const XlaPool pool(threads);
  switch (coefficients.element_type()) {
    case DataType::F32:
      cpu::update(decode_update<float>(coefficients, leaves, results, returns_change), pool);
      return Error::Success();
    case DataType::F64:
      cpu::update(decode_update<double>(coefficients, leaves, results, returns_change), pool);
      return Error::Success();
    default:
      std::ostringstream message;
      message << "nadam_xla_update_v1: coefficients has the element type "
              << coefficients.element_type() << "; it must be F32 or F64";
      return Error::InvalidArgument(message.str());
  }
} catch (const std::invalid_argument& error) {
  return Error::InvalidArgument(error.what());
} catch (const std::exception& error) {
  return Error::Internal(std::string("nadam_xla_update_v1: ") + error.what());
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
