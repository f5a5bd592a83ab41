// Calls as programs make them, and what may be wrong with one.
#pragma once

#include <cstdint>

#include "tests/native_boundary/call_frame.h"
#include "tests/native_boundary/random.h"

namespace nadam_xla::native_boundary {

enum class Target { kUpdateV1, kUpdateV2, kUpdateEntry, kUpdateRows, kSumSquares };
inline constexpr int kTargets = 5;
inline constexpr const char* kNames[kTargets] = {
    "nadam_xla_update_v1",      "nadam_xla_update_v2",      "nadam_xla_update_entry_v1",
    "nadam_xla_update_rows_v1", "nadam_xla_sum_squares_v1",
};

enum class Platform { kCpu, kCuda };

enum class Expected { kSuccess, kError, kEither };

// One that the handler must execute.
Call valid_call(Target target, Platform platform, Random& random);

// Makes one thing wrong: a count, an element type, a shape, an address or an attribute. kError
// where no handler may take it.
Expected make_wrong(Call& call, Random& random);

// What an element takes; of what there is not, 4.
std::int64_t size_of_type(int type);

}  // namespace nadam_xla::native_boundary
