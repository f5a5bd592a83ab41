// The buffers that XLA hands over, and how one that does not fit is refused.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

#include "xla/ffi/api/ffi.h"

namespace nadam_xla::ffi {

using Dimensions = xla::ffi::Span<const std::int64_t>;
using xla::ffi::AnyBuffer;
using xla::ffi::DataType;

template <typename Part>
void print(std::ostream& out, const Part& part) {
  out << part;
}

// A newer XLA may have element types of which the headers do not know the names.
inline void print(std::ostream& out, const DataType type) {
  const auto number = static_cast<int>(type);
  const bool is_named = (number >= 0 && type <= DataType::F64) ||
                        (type >= DataType::C64 && type <= DataType::F8E8M0FNU);
  is_named ? out << type : out << "(element type " << number << ')';
}

template <typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream message;
  (print(message, parts), ...);
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
  RemainingArgs behind(const std::size_t first) const { return {args(), offset() + first}; }
};

class Results : public xla::ffi::RemainingRets {
 public:
  explicit Results(const RemainingRets& results) : RemainingRets(results) {}
  AnyBuffer operator[](std::size_t i) const {
    if (rets()->types[offset() + i] != XLA_FFI_RetType_BUFFER)
      refuse("result ", offset() + i, " is no buffer");
    return AnyBuffer(static_cast<const XLA_FFI_Buffer*>(rets()->rets[offset() + i]));
  }
  RemainingRets behind(const std::size_t first) const { return {rets(), offset() + first}; }
};

// Of operands or results, as many as have names of their own.
template <std::size_t kNamed, typename Buffers>
std::array<AnyBuffer, kNamed> leading(const Buffers& buffers, const char* const kind,
                                      const char* const names) {
  static_assert(kNamed == 1 || kNamed == 2);
  if (buffers.size() < kNamed) {
    refuse("got ", buffers.size(), " ", kind, "; there must be ", names, " first");
  }
  if constexpr (kNamed == 1) {
    return {buffers[0]};
  } else {
    return {buffers[0], buffers[1]};
  }
}

// More than any memory holds: what is computed from such counts does not overflow.
inline constexpr std::int64_t kMostElements = std::int64_t{1} << 48;

// -1 where there can be none: a dimension is negative, or the product of some of them too large.
inline std::int64_t elements_or_none(const Dimensions& dimensions) {
  std::int64_t product = 1;
  bool is_empty = false;
  for (const std::int64_t dimension : dimensions) {
    if (dimension == 0) {
      is_empty = true;
    } else if (dimension < 0 || __builtin_mul_overflow(product, dimension, &product) ||
               product > kMostElements) {
      return -1;
    }
  }
  return is_empty ? 0 : product;
}

template <typename Name>
std::int64_t elements_of(const Name& name, const AnyBuffer& buffer) {
  const std::int64_t elements = elements_or_none(buffer.dimensions());
  if (elements < 0) {
    refuse(name, " is ", buffer.element_type(), to_string(buffer.dimensions()),
           "; no dimension may be negative, nor may there be more than ", kMostElements,
           " elements");
  }
  return elements;
}

// Whether elements can stand there. Their size is a power of two.
inline bool is_memory_of(const std::int64_t elements, const std::int64_t size,
                         const void* const data) {
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  return (address != 0 || elements == 0) && (address & static_cast<std::uintptr_t>(size - 1)) == 0;
}

template <typename Name>
[[noreturn]] void refuse_memory(const Name& name, const AnyBuffer& buffer,
                                const std::int64_t size) {
  refuse(name, " is ", buffer.element_type(), to_string(buffer.dimensions()), " at the address ",
         reinterpret_cast<std::uintptr_t>(buffer.untyped_data()), "; it must be a multiple of ",
         size, ", and not null where there are elements");
}

// Checks the shape and the memory of a buffer; returns how many elements it has.
template <typename Name>
std::int64_t check_elements(const Name& name, const AnyBuffer& buffer, const std::int64_t size) {
  const std::int64_t elements = elements_of(name, buffer);
  if (!is_memory_of(elements, size, buffer.untyped_data())) refuse_memory(name, buffer, size);
  return elements;
}

inline bool has_batch_axis(const Dimensions& dimensions, std::int64_t batch) {
  return dimensions.size() != 0 && dimensions[0] == batch;
}

inline std::int64_t elements_of_entry(const std::int64_t elements, const std::int64_t batch) {
  return batch == 0 ? 0 : elements / batch;
}

}  // namespace nadam_xla::ffi
