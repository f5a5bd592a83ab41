#include "kernels/cuda/check.h"

#include <stdexcept>
#include <string>

namespace nadam_xla::cuda {

void check(const cudaError_t error, const char* const what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + " failed with " + cudaGetErrorName(error) + ": " +
                           cudaGetErrorString(error));
}

}  // namespace nadam_xla::cuda
