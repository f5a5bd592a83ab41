// Calls that were once taken wrongly, each with the words that refuse it now; and right ones.
#pragma once

namespace nadam_xla::native_boundary {

// Prints what is not refused as it should be; returns how many that are.
int run_fixed_calls();

}  // namespace nadam_xla::native_boundary
