#include "kernels/bindings/registration.h"

#include <stdexcept>
#include <string>

#include "xla/ffi/api/ffi.h"

namespace nb = nanobind;

namespace nadam_xla {
namespace {

std::string take_message(const XLA_FFI_Api* api, XLA_FFI_Error* error) {
  XLA_FFI_Error_GetMessage_Args get{XLA_FFI_Error_GetMessage_Args_STRUCT_SIZE, nullptr, error,
                                    nullptr};
  api->XLA_FFI_Error_GetMessage(&get);
  std::string message = get.message == nullptr ? "no message" : get.message;
  XLA_FFI_Error_Destroy_Args destroy{XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
  api->XLA_FFI_Error_Destroy(&destroy);
  return message;
}

}  // namespace

nb::dict capsules(const std::vector<Registration>& registrations) {
  nb::dict capsules;
  for (const Registration& r : registrations) {
    nb::dict stages;
    stages["execute"] = nb::capsule(reinterpret_cast<void*>(r.execute));
    if (r.initialize != nullptr) {
      stages["initialize"] = nb::capsule(reinterpret_cast<void*>(r.initialize));
    }
    capsules[r.target] = stages;
  }
  return capsules;
}

void register_with_runtime(const std::vector<Registration>& registrations,
                           const std::uintptr_t api_address) {
  const auto* const api = reinterpret_cast<const XLA_FFI_Api*>(api_address);
  if (api == nullptr) throw std::invalid_argument("the address of the XLA FFI API is null");
  for (const Registration& r : registrations) {
    XLA_FFI_Error* const error = xla::ffi::Ffi::RegisterStaticHandler(
        api, r.target, r.platform, {nullptr, nullptr, r.initialize, r.execute});
    if (error != nullptr) {
      throw std::runtime_error(std::string("could not register ") + r.target + " for " +
                               r.platform + ": " + take_message(api, error));
    }
  }
}

}  // namespace nadam_xla
