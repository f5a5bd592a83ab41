// The Python module nadam_xla._native_cuda_testing, built for tests alone: launches of the CUDA
// layer as a machine without a GPU sees them, and what a handler says of itself.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>

#include "kernels/cuda/rows.h"
#include "kernels/cuda/sum_squares.h"
#include "kernels/cuda/update.h"
#include "xla/ffi/api/c_api.h"

namespace nb = nanobind;

namespace nadam_xla {
namespace {

// Where there is a GPU, these would write to address zero.
UpdateCall<float> call_of_one_element() {
  constexpr Storage kF32 = Storage::kF32;
  const Leaf leaf{{}, {}, {kF32, kF32, kF32, kF32, kF32}, kF32, 1};
  return {nullptr, {RowLayout::kV2, kRowLength}, 1, 1, 0, Returns::kParams, {leaf}};
}

void update() { cuda::update(call_of_one_element(), nullptr); }

void update_rows() {
  cuda::update_rows<float>({call_of_one_element(), 1, {nullptr, false, 1}}, nullptr);
}

void sum_squares() {
  const SumSquaresCall<float> call{1, {{nullptr, Storage::kF32, 1}}, nullptr};
  cuda::sum_squares(call, {nullptr, 100}, nullptr);
}

// The version of the FFI that a handler was compiled for, and its traits.
std::tuple<std::int64_t, std::int64_t, std::uint32_t> metadata(const nb::capsule& capsule) {
  XLA_FFI_Metadata metadata{};
  metadata.struct_size = XLA_FFI_Metadata_STRUCT_SIZE;
  metadata.api_version.struct_size = XLA_FFI_Api_Version_STRUCT_SIZE;
  XLA_FFI_Metadata_Extension extension{};
  extension.extension_base.struct_size = XLA_FFI_Metadata_Extension_STRUCT_SIZE;
  extension.extension_base.type = XLA_FFI_Extension_Metadata;
  extension.metadata = &metadata;
  XLA_FFI_CallFrame frame{};
  frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame.extension_start = &extension.extension_base;
  auto* const handler = reinterpret_cast<XLA_FFI_Handler*>(capsule.data());
  if (handler(&frame) != nullptr) throw std::runtime_error("the handler does not know itself");
  return {metadata.api_version.major_version, metadata.api_version.minor_version, metadata.traits};
}

}  // namespace
}  // namespace nadam_xla

struct XLA_FFI_Error {
  std::string message;
};

namespace nadam_xla {
namespace {

XLA_FFI_Error* create_error(XLA_FFI_Error_Create_Args* const args) {
  return std::make_unique<XLA_FFI_Error>(XLA_FFI_Error{args->message}).release();
}

// What a handler of the stage before a program runs says, called as XLA would.
std::string initialize(const nb::capsule& capsule) {
  XLA_FFI_Api api{};
  api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  api.api_version.major_version = XLA_FFI_API_MAJOR;
  api.api_version.minor_version = XLA_FFI_API_MINOR;
  api.XLA_FFI_Error_Create = &create_error;
  XLA_FFI_CallFrame frame{};
  frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame.api = &api;
  frame.stage = XLA_FFI_ExecutionStage_INITIALIZE;
  auto* const handler = reinterpret_cast<XLA_FFI_Handler*>(capsule.data());
  const std::unique_ptr<XLA_FFI_Error> error(handler(&frame));
  return error == nullptr ? "" : error->message;
}

}  // namespace
}  // namespace nadam_xla

NB_MODULE(_native_cuda_testing, m) {
  m.def("update", &nadam_xla::update);
  m.def("update_rows", &nadam_xla::update_rows);
  m.def("sum_squares", &nadam_xla::sum_squares);
  m.def("initialize", &nadam_xla::initialize, nb::arg("capsule"));
  m.def("metadata", &nadam_xla::metadata, nb::arg("capsule"));
  m.attr("COMMAND_BUFFER_COMPATIBLE") =
      static_cast<int>(XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE);
}
