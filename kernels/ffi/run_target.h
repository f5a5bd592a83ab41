// What the handlers of every platform have in common.
#pragma once

#include <exception>
#include <sstream>
#include <stdexcept>
#include <string>

#include "xla/ffi/api/ffi.h"

namespace nadam_xla::ffi {

// Runs the body for the element type; what it throws becomes an error that names the target.
template <typename Body>
xla::ffi::Error run_typed(const char* target, const char* typed_by, const xla::ffi::DataType type,
                          const Body& body) try {
  switch (type) {
    case xla::ffi::DataType::F32:
      body(float());
      return xla::ffi::Error::Success();
    case xla::ffi::DataType::F64:
      body(double());
      return xla::ffi::Error::Success();
    default:
      std::ostringstream message;
      message << target << ": " << typed_by << " has the element type " << type
              << "; it must be F32 or F64";
      return xla::ffi::Error::InvalidArgument(message.str());
  }
} catch (const std::invalid_argument& error) {
  return xla::ffi::Error::InvalidArgument(std::string(target) + ": " + error.what());
} catch (const std::exception& error) {
  return xla::ffi::Error::Internal(std::string(target) + ": " + error.what());
}

}  // namespace nadam_xla::ffi
