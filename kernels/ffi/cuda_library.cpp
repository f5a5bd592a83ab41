#include "kernels/ffi/cuda_library.h"

#include <cuda_runtime_api.h>

#include <iterator>

#include "kernels/ffi/cuda_handlers.h"
#include "kernels/ffi/targets.h"

namespace nadam_xla::ffi {
namespace {

constexpr XLA_FFI_Handler* kLoad = &nadam_xla_load_kernels_cuda;

constexpr CudaTarget kTargets[] = {
    {update_target(RowLayout::kV1), kLoad, &nadam_xla_update_v1_cuda},
    {update_target(RowLayout::kV2), kLoad, &nadam_xla_update_v2_cuda},
    {kUpdateEntryTarget, kLoad, &nadam_xla_update_entry_v1_cuda},
    {kUpdateRowsTarget, kLoad, &nadam_xla_update_rows_v1_cuda},
    {kSumSquaresTarget, kLoad, &nadam_xla_sum_squares_v1_cuda}};

constexpr std::int32_t kArchitectures[] = {NADAM_XLA_CUDA_ARCHITECTURES};

constexpr CudaLibrary kLibrary{
    kCudaInterface,      CUDART_VERSION, NADAM_XLA_VERSION,        kTargets,
    std::size(kTargets), kArchitectures, std::size(kArchitectures)};

}  // namespace
}  // namespace nadam_xla::ffi

extern "C" __attribute__((visibility("default"))) const nadam_xla::ffi::CudaLibrary*
nadam_xla_cuda_library() {
  return &nadam_xla::ffi::kLibrary;
}
