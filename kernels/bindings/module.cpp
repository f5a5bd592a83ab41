// The Python module nadam_xla._native: handlers as capsules, and facts about this build.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cpu/instruction_set.h"
#include "kernels/ffi/cpu_handlers.h"
#include "kernels/update_rule.h"
#include "xla/ffi/api/ffi.h"

namespace nb = nanobind;

namespace nadam_xla {
namespace {

struct Registration {
  const char* target;
  const char* platform;  // as the C API names it
  XLA_FFI_Handler* handler;
};

constexpr Registration kRegistrations[] = {
    {"nadam_xla_update_v1", "Host", &nadam_xla_update_v1_cpu},
    {"nadam_xla_sum_squares_v1", "Host", &nadam_xla_sum_squares_v1_cpu},
};

nb::dict registrations() {
  nb::dict capsules;
  for (const Registration& r : kRegistrations) {
    capsules[r.target] = nb::capsule(reinterpret_cast<void*>(r.handler));
  }
  return capsules;
}

std::string take_message(const XLA_FFI_Api* api, XLA_FFI_Error* error) {
  XLA_FFI_Error_GetMessage_Args get{XLA_FFI_Error_GetMessage_Args_STRUCT_SIZE, nullptr, error,
                                    nullptr};
  api->XLA_FFI_Error_GetMessage(&get);
  std::string message = get.message == nullptr ? "no message" : get.message;
  XLA_FFI_Error_Destroy_Args destroy{XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
  api->XLA_FFI_Error_Destroy(&destroy);
  return message;
}

void register_with_runtime(const std::uintptr_t api_address) {
  const auto* const api = reinterpret_cast<const XLA_FFI_Api*>(api_address);
  if (api == nullptr) throw std::invalid_argument("the address of the XLA FFI API is null");
  for (const Registration& r : kRegistrations) {
    XLA_FFI_Error* const error =
        xla::ffi::Ffi::RegisterStaticHandler(api, r.target, r.platform, r.handler);
    if (error != nullptr) {
      throw std::runtime_error(std::string("could not register ") + r.target + ": " +
                               take_message(api, error));
    }
  }
}

}  // namespace
}  // namespace nadam_xla

NB_MODULE(_native, m) {
  using namespace nadam_xla;
  m.def("registrations", &registrations,
        "The CPU handlers by custom-call target, as capsules for jax.ffi.register_ffi_target.");
  m.def(
      "register_with_runtime", &register_with_runtime, nb::arg("api_address"),
      "Registers the CPU handlers with the XLA runtime whose XLA_FFI_Api stands at this address.");
  m.def(
      "row_fields",
      [] { return std::vector<std::string>(std::begin(kRowFields), std::end(kRowFields)); },
      "The coefficients of a row, in order.");
  m.def(
      "instruction_set", [] { return std::string(cpu::instruction_set().name); },
      "The instruction set that the loops use in this process.");
  m.def("available_instruction_sets", &cpu::available_instruction_sets,
        "The instruction sets that this machine can run, narrowest first.");
  m.attr("FFI_API_VERSION") = nb::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
}
