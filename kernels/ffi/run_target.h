// What the handlers of every platform have in common.
#pragma once

#include <exception>
#include <stdexcept>
#include <string>

#include "kernels/ffi/buffers.h"
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

}  // namespace nadam_xla::ffi
