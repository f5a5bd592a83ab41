// The names of the custom calls, the same on every platform. The number is a promise: an exported
// program keeps meaning what it meant.
#pragma once

namespace nadam_xla::ffi {

inline constexpr const char* kUpdateTarget = "nadam_xla_update_v1";
inline constexpr const char* kSumSquaresTarget = "nadam_xla_sum_squares_v1";

}  // namespace nadam_xla::ffi
