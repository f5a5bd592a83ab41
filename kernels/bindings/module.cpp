// The Python module nadam_xla._native: the CPU handlers, the way to the CUDA handlers, and
// facts about this build.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/bindings/cuda_library.h"
#include "kernels/bindings/registration.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/ffi/cpu_handlers.h"
#include "kernels/ffi/targets.h"
#include "kernels/streams.h"
#include "kernels/update_rule.h"
#include "xla/ffi/api/c_api.h"

namespace nb = nanobind;

namespace nadam_xla {
namespace {

std::string compiler() {
#if defined(__clang__)
  const int version[] = {__clang_major__, __clang_minor__, __clang_patchlevel__};
  std::string name = "Clang ";
#else
  const int version[] = {__GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__};
  std::string name = "GCC ";
#endif
  for (const int number : version) name += std::to_string(number) + ".";
  name.pop_back();
  return name;
}

std::vector<Registration> registrations() {
  return {{ffi::update_target(RowLayout::kV1), "Host", &nadam_xla_update_v1_cpu},
          {ffi::update_target(RowLayout::kV2), "Host", &nadam_xla_update_v2_cpu},
          {ffi::kUpdateEntryTarget, "Host", &nadam_xla_update_entry_v1_cpu},
          {ffi::kUpdateRowsTarget, "Host", &nadam_xla_update_rows_v1_cpu},
          {ffi::kSumSquaresTarget, "Host", &nadam_xla_sum_squares_v1_cpu}};
}

}  // namespace
}  // namespace nadam_xla

NB_MODULE(_native, m) {
  using namespace nadam_xla;
  m.def("registrations", [] { return capsules(registrations()); }, kRegistrationsDoc);
  m.def(
      "register_with_runtime",
      [](const std::uintptr_t api_address) { register_with_runtime(registrations(), api_address); },
      nb::arg("api_address"), kRegisterWithRuntimeDoc);
  m.def(
      "row_fields",
      [] { return std::vector<std::string>(std::begin(kRowFields), std::end(kRowFields)); },
      "The coefficients of a row, in order.");
  m.def(
      "stream_bits",
      [] {
        std::vector<std::pair<std::string, int>> bits;
        for (int i = 0; i < kAllStreams; ++i) {
          bits.emplace_back(kStreamNames[i], bit_of(static_cast<Stream>(i)));
        }
        return bits;
      },
      "The arrays that a leaf may have, in the order in which they travel, each with its bit.");
  m.def(
      "instruction_set", [] { return std::string(cpu::instruction_set().name); },
      "The instruction set that the loops use in this process.");
  m.def("available_instruction_sets", &cpu::available_instruction_sets,
        "The instruction sets that this machine can run, narrowest first.");
  define_cuda_library(m);
  m.attr("VERSION") = NADAM_XLA_VERSION;
  m.attr("COMPILER") = compiler();
  m.attr("FFI_API_VERSION") = nb::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
}
