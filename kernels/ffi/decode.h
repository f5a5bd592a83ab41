// From the buffers that XLA hands over to an UpdateCall.
#pragma once

#include "kernels/update_call.h"
#include "xla/ffi/api/ffi.h"

namespace nadam_xla::ffi {

// Checks every count, type and shape of a call of nadam_xla_update_v1:
//   operands  coefficients [batch, rows, kRowLength], params * n, grads * n, mu * n, nu * n
//   results   params * n (or their change), mu * n, nu * n
// T is the element type of all of them. Throws std::invalid_argument, which names the operand.
template <typename T>
UpdateCall<T> decode_update(const xla::ffi::AnyBuffer& coefficients,
                            const xla::ffi::RemainingArgs& leaves,
                            const xla::ffi::RemainingRets& results, bool returns_change);

extern template UpdateCall<float> decode_update(const xla::ffi::AnyBuffer&,
                                                const xla::ffi::RemainingArgs&,
                                                const xla::ffi::RemainingRets&, bool);
extern template UpdateCall<double> decode_update(const xla::ffi::AnyBuffer&,
                                                 const xla::ffi::RemainingArgs&,
                                                 const xla::ffi::RemainingRets&, bool);

}  // namespace nadam_xla::ffi
