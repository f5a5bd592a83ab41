#include "kernels/ffi/buffers.h"
#include "kernels/ffi/decode.h"

namespace nadam_xla::ffi {
namespace {

struct OperandNumber {
  std::size_t number;
};

std::ostream& operator<<(std::ostream& out, const OperandNumber operand) {
  return out << "operand " << operand.number;
}

// How a leaf of the sums of squares is stored, whose result is of T.
template <typename T>
Storage storage_of_squared(const std::size_t leaf, const AnyBuffer& buffer) {
  const DataType type = buffer.element_type();
  if (type == data_type<T>()) return kStorageOf<T>;
  if (data_type<T>() == DataType::F32 && type == DataType::BF16) return Storage::kBF16;
  if (data_type<T>() == DataType::F32 && type == DataType::F16) return Storage::kF16;
  refuse("operand ", leaf, " is ", type, to_string(buffer.dimensions()), "; the result is ",
         data_type<T>(), ", so it must be ",
         data_type<T>() == DataType::F32 ? "F32, BF16 or F16" : "F64");
}

OfSquares decode_what(const xla::ffi::Dictionary& attributes) {
  const xla::ffi::ErrorOr<bool> norms = attributes.get<bool>("norms");
  if (attributes.size() > 1 || (attributes.size() == 1 && !norms.has_value())) {
    refuse("got ", attributes.size(), " attributes; there may be norms alone, a bool");
  }
  return norms.has_value() && *norms ? OfSquares::kNorm : OfSquares::kSum;
}

}  // namespace

template <typename T>
SumSquaresCall<T> decode_sum_squares(const xla::ffi::Dictionary& attributes,
                                     const xla::ffi::RemainingArgs& leaves, AnyBuffer results) {
  const OfSquares what = decode_what(attributes);
  const std::size_t n = leaves.size();
  const Dimensions shape = results.dimensions();
  const bool is_batched = shape.size() == 2;
  if (shape.size() < 1 || shape.size() > 2 || shape.back() != static_cast<std::int64_t>(n)) {
    refuse("the result is ", results.element_type(), to_string(shape), "; it must be [", n,
           "], a sum for each leaf, or [batch, ", n, "]");
  }
  check_elements("the result", results, sizeof(T));
  SumSquaresCall<T> call{
      is_batched ? shape[0] : 1, {}, static_cast<T*>(results.untyped_data()), what};
  call.leaves.reserve(n);
  const Operands operands(leaves);
  for (std::size_t i = 0; i < n; ++i) {
    const AnyBuffer leaf = operands[i];
    const Dimensions dimensions = leaf.dimensions();
    if (is_batched && !has_batch_axis(dimensions, call.batch)) {
      refuse("operand ", i, " is ", leaf.element_type(), to_string(dimensions), "; the result is ",
             results.element_type(), to_string(shape), ", so its first axis must be that batch");
    }
    const Storage stored = storage_of_squared<T>(i, leaf);
    const std::int64_t elements = check_elements(OperandNumber{i}, leaf, size_of(stored));
    call.leaves.push_back({leaf.untyped_data(), stored, elements_of_entry(elements, call.batch)});
  }
  return call;
}

Bytes decode_workspace(const xla::ffi::RemainingRets& results) {
  if (results.size() != 1) {
    refuse("got ", 1 + results.size(),
           " results; it must have the sums alone (not on a GPU), or sums and workspace");
  }
  const AnyBuffer workspace = Results(results)[0];
  if (workspace.element_type() != DataType::U8) {
    refuse("the workspace is ", workspace.element_type(), to_string(workspace.dimensions()),
           "; it must be ", DataType::U8);
  }
  // A GPU keeps doubles in it.
  const Bytes bytes{workspace.untyped_data(), elements_of("the workspace", workspace)};
  if (!is_memory_of(bytes.size, sizeof(double), bytes.data)) {
    refuse_memory("the workspace", workspace, sizeof(double));
  }
  return bytes;
}

template SumSquaresCall<float> decode_sum_squares(const xla::ffi::Dictionary&,
                                                  const xla::ffi::RemainingArgs&, AnyBuffer);
template SumSquaresCall<double> decode_sum_squares(const xla::ffi::Dictionary&,
                                                   const xla::ffi::RemainingArgs&, AnyBuffer);

}  // namespace nadam_xla::ffi
