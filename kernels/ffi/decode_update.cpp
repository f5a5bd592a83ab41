#include "kernels/ffi/buffers.h"
#include "kernels/ffi/decode.h"
#include "kernels/ffi/leaf_buffers.h"
#include "kernels/ffi/update_table.h"

namespace nadam_xla::ffi {
namespace {

// The elements of one batch entry of a leaf of the update.
std::int64_t entry_length(const LeafShape& shape, const std::int64_t elements,
                          const std::int64_t batch) {
  if (batch != 1 && !has_batch_axis(shape.dimensions, batch)) {
    refuse(BufferName{{shape.first_stream}, shape.leaf}, " has the shape ",
           to_string(shape.dimensions), "; its first axis must be the batch of ", batch,
           " that coefficients has");
  }
  return elements_of_entry(elements, batch);
}

// Checks the counts of all but the table; returns how many leaves there are.
std::size_t count_leaves(const UpdateAttributes& attributes, const xla::ffi::RemainingArgs& leaves,
                         const xla::ffi::RemainingRets& results) {
  const StreamSet streams = attributes.streams;
  check_streams(attributes);
  const std::size_t n = leaves.size() / streams.count();
  const std::size_t most_left_over = attributes.layout == RowLayout::kV1 ? 0 : 1;
  if (leaves.size() % streams.count() > most_left_over ||
      results.size() != streams.count_results() * n) {
    refuse("got ", leaves.size(), " buffers after coefficients and ", results.size(),
           " results; n leaves need ", streams.count(), " n (", names_of(streams), ") and ",
           streams.count_results(), " n (", names_of_results(streams), ")");
  }
  return n;
}

Entry check_entry(const AnyBuffer& index, const Dimensions& stack) {
  if (index.element_type() != DataType::S32 || index.dimensions().size() != 0) {
    refuse("index is ", index.element_type(), to_string(index.dimensions()), "; it must be ",
           DataType::S32, "[]");
  }
  check_elements("index", index, sizeof(std::int32_t));
  if (stack.size() == 0 || stack[0] <= 0) {
    refuse("params[0] has the shape ", to_string(stack), "; it must be a stack of entries");
  }
  return {static_cast<const std::int32_t*>(index.untyped_data()), stack[0]};
}

// Checks that a stack has so many entries, each of the shape of its gradients.
void check_stack(const LeafShape& grads, const std::int64_t entries, const Group group,
                 const AnyBuffer& buffer) {
  const Dimensions dimensions = buffer.dimensions();
  if (!has_shape(grads.dimensions, dimensions, 1) || dimensions[0] != entries) {
    refuse(BufferName{group, grads.leaf}, " is ", buffer.element_type(), to_string(dimensions),
           "; it must be a stack of ", entries, " entries, each of the shape ",
           to_string(grads.dimensions), " like ",
           BufferName{{name_of(Stream::kGrads)}, grads.leaf});
  }
}

}  // namespace

template <typename T>
UpdateCall<T> decode_update(const UpdateAttributes& attributes, const AnyBuffer& coefficients,
                            const xla::ffi::RemainingArgs& leaves,
                            const xla::ffi::RemainingRets& results) {
  UpdateCall<T> call =
      decode_table<T>(attributes, coefficients, count_leaves(attributes, leaves, results));
  const StreamSet streams = attributes.streams;
  const Buffers buffers(attributes, leaves, results);
  const Stream first = streams.has(Stream::kParams) ? Stream::kParams : Stream::kGrads;
  for (std::size_t leaf = 0; leaf < buffers.leaves(); ++leaf) {
    const AnyBuffer of_shape = buffers.operand(first, leaf);
    const LeafShape shape{leaf, name_of(first), of_shape.dimensions()};
    for (int i = 0; i < kStreams; ++i) {
      const auto stream = static_cast<Stream>(i);
      if (streams.has(stream)) {
        check_same_shape(shape, {name_of(stream)}, buffers.operand(stream, leaf));
      }
    }
    for (int i = 0; i < kResults; ++i) {
      if (streams.has_result(i)) {
        check_same_shape(shape, {name_of(stream_of_result(i)), true}, buffers.result(i, leaf));
      }
    }
    Leaf decoded = decode_leaf<T>(attributes, buffers, leaf);
    const std::int64_t elements = elements_of(BufferName{{name_of(first)}, leaf}, of_shape);
    check_memory(streams, buffers, leaf, decoded, elements, elements);
    decoded.length = entry_length(shape, elements, call.batch);
    call.leaves.push_back(decoded);
    if (streams.has_scales()) {
      call.scales.push_back(decode_scales(streams, buffers, shape, call.batch));
    }
  }
  return call;
}

template <typename T>
UpdateCall<T> decode_update_entry(const UpdateAttributes& attributes, const AnyBuffer& index,
                                  const AnyBuffer& coefficients,
                                  const xla::ffi::RemainingArgs& leaves,
                                  const xla::ffi::RemainingRets& results) {
  UpdateCall<T> call =
      decode_table<T>(attributes, coefficients, count_leaves(attributes, leaves, results));
  const Buffers buffers(attributes, leaves, results);
  if (call.batch != 1) refuse("coefficients has a batch of ", call.batch, "; it must be 1");
  if (buffers.leaves() == 0) return call;
  call.entry = check_entry(index, buffers.operand(Stream::kParams, 0).dimensions());
  for (std::size_t leaf = 0; leaf < buffers.leaves(); ++leaf) {
    const LeafShape shape{leaf, name_of(Stream::kGrads),
                          buffers.operand(Stream::kGrads, leaf).dimensions()};
    for (int i = 0; i < kResults; ++i) {
      if (!attributes.streams.has_result(i)) continue;
      const Stream stream = stream_of_result(i);
      const AnyBuffer stack = buffers.operand(stream, leaf);
      const AnyBuffer result = buffers.result(i, leaf);
      check_stack(shape, call.entry.entries, {name_of(stream)}, stack);
      check_stack(shape, call.entry.entries, {name_of(stream), true}, result);
      // Else the other entries would have to be copied.
      if (result.untyped_data() != stack.untyped_data()) {
        refuse("the result of ", BufferName{{name_of(stream)}, leaf}, " is not in its memory");
      }
    }
    Leaf decoded = decode_leaf<T>(attributes, buffers, leaf);
    const auto elements = [&](const Stream stream) {
      return elements_of(BufferName{{name_of(stream)}, leaf}, buffers.operand(stream, leaf));
    };
    decoded.length = elements(Stream::kGrads);
    check_memory(attributes.streams, buffers, leaf, decoded, decoded.length,
                 elements(Stream::kParams));
    call.leaves.push_back(decoded);
  }
  return call;
}

template UpdateCall<float> decode_update(const UpdateAttributes&, const AnyBuffer&,
                                         const xla::ffi::RemainingArgs&,
                                         const xla::ffi::RemainingRets&);
template UpdateCall<double> decode_update(const UpdateAttributes&, const AnyBuffer&,
                                          const xla::ffi::RemainingArgs&,
                                          const xla::ffi::RemainingRets&);

template UpdateCall<float> decode_update_entry(const UpdateAttributes&, const AnyBuffer&,
                                               const AnyBuffer&, const xla::ffi::RemainingArgs&,
                                               const xla::ffi::RemainingRets&);
template UpdateCall<double> decode_update_entry(const UpdateAttributes&, const AnyBuffer&,
                                                const AnyBuffer&, const xla::ffi::RemainingArgs&,
                                                const xla::ffi::RemainingRets&);

}  // namespace nadam_xla::ffi
