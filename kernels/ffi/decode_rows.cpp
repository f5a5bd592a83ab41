#include "kernels/ffi/buffers.h"
#include "kernels/ffi/decode.h"
#include "kernels/ffi/leaf_buffers.h"
#include "kernels/ffi/update_table.h"
#include "kernels/rows_call.h"

namespace nadam_xla::ffi {
namespace {

// What there is beside the buffers of the table.
struct Beside {
  std::size_t operands, results;
};

Beside beside(const SortedBy sorted_by) {
  return sorted_by == SortedBy::kOperands ? Beside{1, 0} : Beside{0, 1};
}

void check_counts(const UpdateAttributes& attributes, const SortedBy sorted_by,
                  const xla::ffi::RemainingArgs& operands, const xla::ffi::RemainingRets& results) {
  const StreamSet streams = attributes.streams;
  check_streams(attributes);
  if (!streams.has(Stream::kParams) || streams.has(Stream::kAverage) || streams.has_scales()) {
    refuse("the attribute streams has ", names_of(streams),
           "; there must be params, grads, mu and nu, and there may be master");
  }
  const auto [order, workspace] = beside(sorted_by);
  if (operands.size() != streams.count() + order ||
      results.size() != streams.count_results() + workspace) {
    refuse("got ", operands.size(), " buffers after indices and ", results.size(),
           " results; there must be ", names_of(streams), order ? ", order" : "", " and ",
           names_of_results(streams), workspace ? ", workspace" : "");
  }
}

// The axes before those of a row's elements: that of the rows, and the batch.
std::size_t axes_before_columns(const std::int64_t batch) { return batch == 1 ? 1 : 2; }

RowNumbers check_indices(const AnyBuffer& indices, const std::int64_t batch) {
  const Dimensions shape = indices.dimensions();
  const DataType type = indices.element_type();
  const bool has_type = type == DataType::S32 || type == DataType::S64;
  const bool has_batch = batch == 1 || has_batch_axis(shape, batch);
  if (!has_type || shape.size() != axes_before_columns(batch) || !has_batch) {
    refuse("indices is ", type, to_string(shape), "; it must be S32 or S64, [touched]",
           batch == 1 ? "" : " behind the batch that coefficients has");
  }
  const std::int64_t touched = shape.back();
  if (touched > RowNumbers::kMostTouched) {
    refuse("indices has ", touched, " numbers; there may be ", RowNumbers::kMostTouched);
  }
  const bool are_wide = type == DataType::S64;
  check_elements("indices", indices, are_wide ? sizeof(std::int64_t) : sizeof(std::int32_t));
  return {indices.untyped_data(), are_wide, touched};
}

void check_table_shape(const LeafShape& table, const std::int64_t batch) {
  const Dimensions shape = table.dimensions;
  const std::size_t before = axes_before_columns(batch);
  if (shape.size() < before || (batch != 1 && shape[0] != batch)) {
    refuse(BufferName{{table.first_stream}, 0}, " has the shape ", to_string(shape),
           "; it must be [height, columns...]",
           batch == 1 ? "" : " behind the batch that coefficients has");
  }
  if (shape[before - 1] > RowNumbers::kMostRows) {
    refuse(BufferName{{table.first_stream}, 0}, " has ", shape[before - 1], " rows; there may be ",
           RowNumbers::kMostRows);
  }
}

void check_grads(const LeafShape& table, const AnyBuffer& grads, const AnyBuffer& indices) {
  const Dimensions of_table = table.dimensions, shape = grads.dimensions();
  const Dimensions numbers = indices.dimensions();
  bool fits = shape.size() == of_table.size();
  for (std::size_t i = 0; fits && i < shape.size(); ++i) {
    fits = shape[i] == (i < numbers.size() ? numbers[i] : of_table[i]);
  }
  if (fits) return;
  refuse(BufferName{{name_of(Stream::kGrads)}, 0}, " is ", grads.element_type(), to_string(shape),
         "; with indices of the shape ", to_string(numbers), " and a table of the shape ",
         to_string(of_table),
         " its first axes must be those of indices, and the others the table's");
}

// Else the rows that are not touched would have to be copied.
void check_in_place(const Stream stream, const AnyBuffer& operand, const AnyBuffer& result) {
  if (result.untyped_data() == operand.untyped_data()) return;
  refuse("the result of ", BufferName{{name_of(stream)}, 0}, " is not in its memory");
}

const std::int32_t* check_order(const AnyBuffer& order, const AnyBuffer& indices) {
  if (order.element_type() != DataType::S32 ||
      !has_shape(indices.dimensions(), order.dimensions())) {
    refuse("order is ", order.element_type(), to_string(order.dimensions()),
           "; it must be S32 and have the shape ", to_string(indices.dimensions()), " of indices");
  }
  check_elements("order", order, sizeof(std::int32_t));
  return static_cast<const std::int32_t*>(order.untyped_data());
}

// Else an update would overwrite the numbers of the rows that are still to be updated.
void check_apart(const AnyBuffer& workspace, const Group group, const AnyBuffer& result,
                 const std::int64_t bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(workspace.untyped_data());
  const auto of_result = reinterpret_cast<std::uintptr_t>(result.untyped_data());
  const auto size = static_cast<std::uintptr_t>(elements_of("the workspace", workspace));
  const auto end_of_result = of_result + static_cast<std::uintptr_t>(bytes);
  const bool are_empty = size == 0 || bytes == 0;
  if (are_empty || of_result >= begin + size || begin >= end_of_result) return;
  refuse("the workspace overlaps ", BufferName{group, 0});
}

void* check_workspace(const AnyBuffer& workspace, const std::int64_t touched) {
  const std::int64_t bytes = elements_of("the workspace", workspace);
  if (workspace.element_type() != DataType::U8 || bytes < RowNumbers::workspace_bytes(touched) ||
      !is_memory_of(bytes, alignof(std::uint64_t), workspace.untyped_data())) {
    refuse("the workspace is ", workspace.element_type(), to_string(workspace.dimensions()),
           "; it must be U8[", RowNumbers::workspace_bytes(touched), "], for ", touched,
           " indices, at an address that is a multiple of ", alignof(std::uint64_t),
           ", and not null");
  }
  return workspace.untyped_data();
}

// Of a row, in a table whose shape has been checked.
std::int64_t columns_of(const Dimensions& table, const std::int64_t batch) {
  std::int64_t columns = 1;
  for (std::size_t i = axes_before_columns(batch); i < table.size(); ++i) columns *= table[i];
  return columns;
}

}  // namespace

template <typename T>
RowsCall<T> decode_rows(const UpdateAttributes& attributes, const SortedBy sorted_by,
                        const AnyBuffer& coefficients, const AnyBuffer& indices,
                        const xla::ffi::RemainingArgs& operands,
                        const xla::ffi::RemainingRets& results) {
  check_counts(attributes, sorted_by, operands, results);
  const StreamSet streams = attributes.streams;
  RowsCall<T> call{decode_table<T>(attributes, coefficients, 1), 0, {}};
  const std::int64_t batch = call.of.batch;
  const Buffers buffers(attributes, operands, results);
  const LeafShape table{0, name_of(Stream::kParams),
                        buffers.operand(Stream::kParams, 0).dimensions()};
  call.numbers = check_indices(indices, batch);
  check_table_shape(table, batch);
  check_grads(table, buffers.operand(Stream::kGrads, 0), indices);
  Leaf leaf = decode_leaf<T>(attributes, buffers, 0);
  const auto elements = [&](const Stream stream) {
    return elements_of(BufferName{{name_of(stream)}, 0}, buffers.operand(stream, 0));
  };
  leaf.length = elements_of_entry(elements(Stream::kParams), batch);
  check_memory(streams, buffers, 0, leaf, elements(Stream::kGrads), elements(Stream::kParams));
  call.of.leaves.push_back(leaf);
  for (int i = 0; i < kResults; ++i) {
    if (!streams.has_result(i)) continue;
    const Stream stream = stream_of_result(i);
    check_same_shape(table, {name_of(stream)}, buffers.operand(stream, 0));
    check_same_shape(table, {name_of(stream), true}, buffers.result(i, 0));
    check_in_place(stream, buffers.operand(stream, 0), buffers.result(i, 0));
  }
  call.columns = columns_of(table.dimensions, batch);
  if (sorted_by == SortedBy::kOperands) {
    call.numbers.order = check_order(Operands(operands)[streams.count()], indices);
  } else {
    const AnyBuffer workspace = Results(results)[streams.count_results()];
    call.numbers.workspace = check_workspace(workspace, call.numbers.count);
    for (int i = 0; i < kResults; ++i) {
      if (!streams.has_result(i)) continue;
      check_apart(workspace, {name_of(stream_of_result(i)), true}, buffers.result(i, 0),
                  elements(Stream::kParams) * size_of(leaf.storage_of_result(i)));
    }
  }
  return call;
}

template RowsCall<float> decode_rows(const UpdateAttributes&, SortedBy, const AnyBuffer&,
                                     const AnyBuffer&, const xla::ffi::RemainingArgs&,
                                     const xla::ffi::RemainingRets&);
template RowsCall<double> decode_rows(const UpdateAttributes&, SortedBy, const AnyBuffer&,
                                      const AnyBuffer&, const xla::ffi::RemainingArgs&,
                                      const xla::ffi::RemainingRets&);

}  // namespace nadam_xla::ffi
