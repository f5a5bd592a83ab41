// The buffers that XLA hands over, and how one that does not fit is refused.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

#include "xla/ffi/api/ffi.h"

namespace nadam_xla::ffi {

using Dimensions = xla::ffi::Span<const std::int64_t>;
using xla::ffi::AnyBuffer;
using xla::ffi::DataType;

template <typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

inline std::string to_string(const Dimensions& dimensions) {
  std::ostringstream text;
  text << '[';
  for (std::size_t i = 0; i < dimensions.size(); ++i) text << (i ? "," : "") << dimensions[i];
  text << ']';
  return text.str();
}

template <typename T>
constexpr DataType data_type() {
  return sizeof(T) == sizeof(float) ? DataType::F32 : DataType::F64;
}

// The standard accessors build an error, with a string in it, for every buffer that is in order;
// hundreds of leaves a call make that the larger part of a small update.
class Operands : public xla::ffi::RemainingArgs {
 public:
  explicit Operands(const RemainingArgs& operands) : RemainingArgs(operands) {}
  AnyBuffer operator[](std::size_t i) const {
    if (args()->types[offset() + i] != XLA_FFI_ArgType_BUFFER)
      refuse("operand ", offset() + i, " is no buffer");
    return AnyBuffer(static_cast<const XLA_FFI_Buffer*>(args()->args[offset() + i]));
  }
};

class Results : public xla::ffi::RemainingRets {
 public:
  explicit Results(const RemainingRets& results) : RemainingRets(results) {}
  AnyBuffer operator[](std::size_t i) const {
    if (rets()->types[offset() + i] != XLA_FFI_RetType_BUFFER)
      refuse("result ", i, " is no buffer");
    return AnyBuffer(static_cast<const XLA_FFI_Buffer*>(rets()->rets[offset() + i]));
  }
};

inline std::int64_t elements_of(const Dimensions& dimensions) {
  std::int64_t elements = 1;
  for (const std::int64_t dimension : dimensions) elements *= dimension;
  return elements;
}

inline bool has_batch_axis(const Dimensions& dimensions, std::int64_t batch) {
  return dimensions.size() != 0 && dimensions[0] == batch;
}

inline std::int64_t elements_of_entry(const Dimensions& dimensions, std::int64_t batch) {
  return batch == 0 ? 0 : elements_of(dimensions) / batch;
}

}  // namespace nadam_xla::ffi
