// The Python module nadam_xla._native_cuda: the CUDA handlers, and facts about this build.
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <nanobind/nanobind.h>

#include "kernels/bindings/registration.h"
#include "kernels/ffi/cuda_handlers.h"
#include "kernels/ffi/targets.h"

namespace nb = nanobind;

namespace nadam_xla {
namespace {

nb::tuple version(const int number) { return nb::make_tuple(number / 1000, number % 1000 / 10); }

// The newest CUDA that the driver can run; (0, 0) where there is no driver. The driver itself is
// asked: the runtime's function starts it, and after that CUDA_VISIBLE_DEVICES has no effect, and
// processes that are forked cannot use the GPU.
nb::tuple driver_version() {
  using GetVersion = int (*)(int*);
  constexpr int kSuccess = 0;
  // Never closed: whatever uses a GPU in this process needs it too.
  void* const driver = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  void* const symbol = driver == nullptr ? nullptr : ::dlsym(driver, "cuDriverGetVersion");
  int number = 0;
  const bool is_known =
      symbol != nullptr && reinterpret_cast<GetVersion>(symbol)(&number) == kSuccess;
  return version(is_known ? number : 0);
}

}  // namespace
}  // namespace nadam_xla

NB_MODULE(_native_cuda, m) {
  using namespace nadam_xla;
  XLA_FFI_Handler* const load = &nadam_xla_load_kernels_cuda;
  define_registrations(
      m, {{ffi::update_target(RowLayout::kV1), "CUDA", &nadam_xla_update_v1_cuda, load},
          {ffi::update_target(RowLayout::kV2), "CUDA", &nadam_xla_update_v2_cuda, load},
          {ffi::kUpdateEntryTarget, "CUDA", &nadam_xla_update_entry_v1_cuda, load},
          {ffi::kSumSquaresTarget, "CUDA", &nadam_xla_sum_squares_v1_cuda, load}});
  m.def(
      "driver_version", &driver_version,
      "The newest CUDA that the driver can run, (major, minor); (0, 0) where there is no driver.");
  m.attr("TOOLKIT_VERSION") = version(CUDART_VERSION);
  m.attr("ARCHITECTURES") = nb::make_tuple(NADAM_XLA_CUDA_ARCHITECTURES);
}
