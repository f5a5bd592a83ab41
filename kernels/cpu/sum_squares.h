// The sum of squares of each leaf of a call, or its root.
#pragma once

#include "kernels/cpu/parallel.h"
#include "kernels/sum_squares_call.h"

namespace nadam_xla::cpu {

// Runs the whole call, sharing it with the pool's threads. The results do not depend on how many
// there are: where a sum has parts in several chunks, they are kept, and added up in their order.
template <typename T>
void sum_squares(const SumSquaresCall<T>& call, const Pool& pool);

extern template void sum_squares(const SumSquaresCall<float>&, const Pool&);
extern template void sum_squares(const SumSquaresCall<double>&, const Pool&);

}  // namespace nadam_xla::cpu
