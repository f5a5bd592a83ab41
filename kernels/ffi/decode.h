// From the buffers that XLA hands over to the calls that the layers below execute.
#pragma once

#include <cstdint>

#include "kernels/rows_call.h"
#include "kernels/streams.h"
#include "kernels/sum_squares_call.h"
#include "kernels/update_call.h"
#include "xla/ffi/api/ffi.h"

namespace nadam_xla::ffi {

// What a call of the update is told beside its buffers. A call of nadam_xla_update_v1 has all
// streams and its whole table to itself, and so no first row.
struct UpdateAttributes {
  RowLayout layout;
  StreamSet streams;
  bool returns_change;
  std::int64_t first_row;
  Rounding rounding;
};

// That of nadam_xla_update_v1, which must be there: returns_change.
UpdateAttributes decode_attributes_v1(const xla::ffi::Dictionary& attributes);

// That of nadam_xla_update_entry_v1, which must be there: first_row.
UpdateAttributes decode_attributes_entry(const xla::ffi::Dictionary& attributes);

// returns_change, streams and first_row; and rounding, 0 to the nearest or 1 stochastic, which is
// not there in programs that were exported before it was. Throws std::invalid_argument for any that
// is missing, unknown or of another type.
UpdateAttributes decode_attributes_v2(const xla::ffi::Dictionary& attributes);

// Those of nadam_xla_update_rows_v1: streams, first_row and rounding, all of which must be there.
UpdateAttributes decode_attributes_rows(const xla::ffi::Dictionary& attributes);

// Checks every count, type and shape of a call of nadam_xla_update_v1 or _v2:
//   operands  coefficients [batch, rows, a row's length], and of each stream n buffers, in the
//             order of kStreamNames; in v2 one more where the call has to wait for it, unread
//   results   params * n (or their change), mu * n, nu * n, and master * n, mu_scales * n and
//             nu_scales * n where they are operands
// T is the element type of the coefficients, and in v1 of all others. In v2 each is stored in a
// way of its own: F32, F64, BF16 or F16; the master of BF16 or F16 is F32, and of BF16 it may also
// be U16 or U8. With mu_scales mu is S8, and with nu_scales nu is U8; scales are F32 and have the
// leaf's shape, but for its last axis, which counts blocks. Parameters of F64 need coefficients of
// F64, beside which there are no scales. A state's result is stored as the
// state, new parameters as the old ones, and their change in any way.
// Throws std::invalid_argument, which names the operand.
template <typename T>
UpdateCall<T> decode_update(const UpdateAttributes& attributes,
                            const xla::ffi::AnyBuffer& coefficients,
                            const xla::ffi::RemainingArgs& leaves,
                            const xla::ffi::RemainingRets& results);

// The same of a call of nadam_xla_update_entry_v1:
//   operands  index, an S32 scalar; coefficients [1, rows, a row's length]; and n buffers of each
//             stream, of which the gradients are those of one entry, and all others stacks of as
//             many; one more where the call has to wait for it, unread
//   results   params * n, mu * n, nu * n, each in the memory of its stack
template <typename T>
UpdateCall<T> decode_update_entry(const UpdateAttributes& attributes,
                                  const xla::ffi::AnyBuffer& index,
                                  const xla::ffi::AnyBuffer& coefficients,
                                  const xla::ffi::RemainingArgs& leaves,
                                  const xla::ffi::RemainingRets& results);

// By what the rows of a call of nadam_xla_update_rows_v1 are sorted.
enum class SortedBy {
  kCall,      // the call itself, in a workspace
  kOperands,  // an operand that says how
};

// The same of a call of nadam_xla_update_rows_v1:
//   operands  coefficients; indices [touched] or [batch, touched], S32 or S64; params, grads, mu,
//   nu
//             and, where there is one, master of one table; with kOperands the order, S32 of the
//             shape of indices
//   results   params, mu, nu and master, each in the memory of its operand; with kCall a workspace,
//             U8 [RowNumbers::workspace_bytes(touched)]
// grads are [touched, columns...], the others [height, columns...], behind the batch where
// coefficients has one. There are no averages and no scales.
template <typename T>
RowsCall<T> decode_rows(const UpdateAttributes& attributes, SortedBy sorted_by,
                        const xla::ffi::AnyBuffer& coefficients, const xla::ffi::AnyBuffer& indices,
                        const xla::ffi::RemainingArgs& operands,
                        const xla::ffi::RemainingRets& results);

// Checks every count, type and shape of a call of nadam_xla_sum_squares_v1:
//   operands  leaves * n
//   result    [n], or [batch, n] where every leaf leads with an axis of that size
// There may be an attribute `norms`, and where it is true the results are the roots of the sums, as
// OfSquares has them; it is not there in programs that were exported before it was.
// T is the element type of the result, and of the leaves; where it is float, those may be BF16 or
// F16 too. Throws std::invalid_argument, which names the operand.
template <typename T>
SumSquaresCall<T> decode_sum_squares(const xla::ffi::Dictionary& attributes,
                                     const xla::ffi::RemainingArgs& leaves,
                                     xla::ffi::AnyBuffer results);

struct Bytes {
  void* data;
  std::int64_t size;
};

// The memory that a call of nadam_xla_sum_squares_v1 on a GPU has as its second result, [size]
// bytes. Throws std::invalid_argument where it is not there.
Bytes decode_workspace(const xla::ffi::RemainingRets& results);

extern template UpdateCall<float> decode_update(const UpdateAttributes&, const xla::ffi::AnyBuffer&,
                                                const xla::ffi::RemainingArgs&,
                                                const xla::ffi::RemainingRets&);
extern template UpdateCall<double> decode_update(const UpdateAttributes&,
                                                 const xla::ffi::AnyBuffer&,
                                                 const xla::ffi::RemainingArgs&,
                                                 const xla::ffi::RemainingRets&);
extern template UpdateCall<float> decode_update_entry(const UpdateAttributes&,
                                                      const xla::ffi::AnyBuffer&,
                                                      const xla::ffi::AnyBuffer&,
                                                      const xla::ffi::RemainingArgs&,
                                                      const xla::ffi::RemainingRets&);
extern template UpdateCall<double> decode_update_entry(const UpdateAttributes&,
                                                       const xla::ffi::AnyBuffer&,
                                                       const xla::ffi::AnyBuffer&,
                                                       const xla::ffi::RemainingArgs&,
                                                       const xla::ffi::RemainingRets&);
extern template RowsCall<float> decode_rows(const UpdateAttributes&, SortedBy,
                                            const xla::ffi::AnyBuffer&, const xla::ffi::AnyBuffer&,
                                            const xla::ffi::RemainingArgs&,
                                            const xla::ffi::RemainingRets&);
extern template RowsCall<double> decode_rows(const UpdateAttributes&, SortedBy,
                                             const xla::ffi::AnyBuffer&, const xla::ffi::AnyBuffer&,
                                             const xla::ffi::RemainingArgs&,
                                             const xla::ffi::RemainingRets&);
extern template SumSquaresCall<float> decode_sum_squares(const xla::ffi::Dictionary&,
                                                         const xla::ffi::RemainingArgs&,
                                                         xla::ffi::AnyBuffer);
extern template SumSquaresCall<double> decode_sum_squares(const xla::ffi::Dictionary&,
                                                          const xla::ffi::RemainingArgs&,
                                                          xla::ffi::AnyBuffer);

}  // namespace nadam_xla::ffi
