// One fused Nadam step over the leaves of a call.
#pragma once

#include "kernels/cpu/parallel.h"
#include "kernels/update_call.h"

namespace nadam_xla::cpu {

template <typename T>
void update(const UpdateCall<T>& call, const Pool& pool);

extern template void update<float>(const UpdateCall<float>&, const Pool&);
extern template void update<double>(const UpdateCall<double>&, const Pool&);

}  // namespace nadam_xla::cpu
