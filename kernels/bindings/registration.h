// How handlers are offered to Python: as capsules for JAX, and for registration with a runtime.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <vector>

#include "xla/ffi/api/c_api.h"

namespace nadam_xla {

struct Registration {
  const char* target;
  const char* platform;  // as the C API names it
  XLA_FFI_Handler* execute;
  XLA_FFI_Handler* initialize = nullptr;  // run before a program is, where there is one
};

inline constexpr const char* kRegistrationsDoc =
    "By custom-call target the handlers of its stages, as jax.ffi.register_ffi_target takes them.";
nanobind::dict capsules(const std::vector<Registration>& registrations);

inline constexpr const char* kRegisterWithRuntimeDoc =
    "Registers the handlers with the XLA runtime whose XLA_FFI_Api stands at this address.";
void register_with_runtime(const std::vector<Registration>& registrations,
                           std::uintptr_t api_address);

}  // namespace nadam_xla
