// How a module offers its handlers to Python.
#pragma once

#include <nanobind/nanobind.h>

#include <vector>

#include "xla/ffi/api/c_api.h"

namespace nadam_xla {

struct Registration {
  const char* target;
  const char* platform;  // as the C API names it
  XLA_FFI_Handler* execute;
  XLA_FFI_Handler* initialize = nullptr;  // run before a program is, where there is one
};

// Defines `registrations` and `register_with_runtime` in the module.
void define_registrations(nanobind::module_& m, std::vector<Registration> registrations);

}  // namespace nadam_xla
