// How much memory this process has ever asked for.
#pragma once

#include <cstdint>

namespace nadam_xla::native_boundary {

std::int64_t bytes_allocated();  // with operator new, by all threads

}  // namespace nadam_xla::native_boundary
