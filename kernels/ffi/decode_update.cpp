#include "kernels/ffi/buffers.h"
#include "kernels/ffi/decode.h"
#include "kernels/ffi/leaf_buffers.h"
#include "kernels/update_rule.h"

namespace nadam_xla::ffi {
namespace {

std::string names_of(const StreamSet streams) {
  std::string names;
  for (int i = 0; i < kAllStreams; ++i) {
    const auto stream = static_cast<Stream>(i);
    if (streams.has(stream)) names += (names.empty() ? "" : ", ") + std::string(name_of(stream));
  }
  return names;
}

std::string names_of_results(const StreamSet streams) {
  std::string names;
  for (int i = 0; i < kAllResults; ++i) {
    if (!streams.has_result(i)) continue;
    names += (i == 0 ? "" : ", ") + std::string(name_of(stream_of_result(i)));
  }
  return names;
}

void check_streams(const UpdateAttributes& attributes) {
  if (!attributes.streams.is_known()) {
    refuse("the attribute streams has unknown bits, or lacks some: there are ",
           names_of(StreamSet::known()), ", of which ", names_of(StreamSet::required()),
           " must be there");
  }
  if (attributes.streams.has(Stream::kParams)) return;
  if (!attributes.returns_change) {
    refuse("returns_change is false; it must be true where streams lacks params");
  }
  if (attributes.streams.has(Stream::kMaster)) {
    refuse("streams has master and lacks params, which it is the master of");
  }
  if (attributes.streams.has(Stream::kAverage)) {
    refuse("streams has average and lacks params, which it is the average of");
  }
}

struct Table {
  std::int64_t batch;
  std::int64_t rows;
  RowFormat format;
};

Table check_table(const AnyBuffer& coefficients, const UpdateAttributes& attributes,
                  const std::size_t leaves) {
  const Dimensions shape = coefficients.dimensions();
  const auto n = static_cast<std::int64_t>(leaves);
  const auto has_rows = [&](const std::int64_t rows) {
    const bool has_one_each = attributes.layout == RowLayout::kV1
                                  ? rows == n
                                  : rows - n >= attributes.first_row && attributes.first_row >= 0;
    return rows == 1 || has_one_each;
  };
  const int shortest = RowFormat::shortest(attributes.layout);
  const int longest = RowFormat::longest(attributes.layout);
  const bool has_columns = shape.size() == 3 && shortest <= shape[2] && shape[2] <= longest;
  const bool has_key = has_columns && shape[2] >= RowFormat::shortest_with_key();
  if (draws(attributes.rounding, attributes.streams) && has_columns &&
      (!has_key || (shape[1] == 1 && n > 1))) {
    const bool is_stochastic = attributes.rounding == Rounding::kStochastic;
    refuse("coefficients is ", coefficients.element_type(), to_string(shape), "; where ",
           is_stochastic ? "rounding is stochastic" : "moments have scales", " it must be [batch, ",
           n, " or more, ", longest, "], so that each leaf has random numbers of its own");
  }
  const bool has_average = attributes.streams.has(Stream::kAverage);
  if (has_average && has_columns && shape[2] < RowFormat::shortest_with_average()) {
    refuse("coefficients is ", coefficients.element_type(), to_string(shape),
           "; where there is an average it must be [batch, rows, ", longest,
           "], for its last columns are the weights of the average");
  }
  if (!has_columns || !has_rows(shape[1])) {
    refuse("coefficients is ", coefficients.element_type(), to_string(shape),
           "; it must be [batch, rows, ", longest, "] with 1 row or ", n,
           ", one for each leaf, from row ", attributes.first_row, " on");
  }
  return {shape[0], shape[1], {attributes.layout, static_cast<int>(shape[2])}};
}

// The elements of one batch entry of a leaf of the update.
std::int64_t entry_length(const LeafShape& shape, std::int64_t batch) {
  if (batch != 1 && !has_batch_axis(shape.dimensions, batch)) {
    refuse(BufferName{{shape.first_stream}, shape.leaf}, " has the shape ",
           to_string(shape.dimensions), "; its first axis must be the batch of ", batch,
           " that coefficients has");
  }
  return elements_of_entry(shape.dimensions, batch);
}

// The call without its leaves.
template <typename T>
UpdateCall<T> decode_table(const UpdateAttributes& attributes, const AnyBuffer& coefficients,
                           const xla::ffi::RemainingArgs& leaves,
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
  if (streams.has_scales() && kStorageOf<T> == Storage::kF64) {
    refuse("coefficients is F64; where moments have scales it must be F32");
  }
  const Table table = check_table(coefficients, attributes, n);
  UpdateCall<T> call;
  call.coefficients = static_cast<const T*>(coefficients.untyped_data());
  call.format = table.format;
  call.batch = table.batch;
  call.rows = table.rows;
  call.first_row = attributes.first_row;
  call.returns = attributes.returns_change ? Returns::kChange : Returns::kParams;
  call.streams = streams;
  call.rounding = attributes.rounding;
  call.leaves.reserve(n);
  return call;
}

Entry check_entry(const AnyBuffer& index, const Dimensions& stack) {
  if (index.element_type() != DataType::S32 || index.dimensions().size() != 0) {
    refuse("index is ", index.element_type(), to_string(index.dimensions()), "; it must be ",
           DataType::S32, "[]");
  }
  if (stack.size() == 0 || stack[0] == 0) {
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

template <typename T>
T attribute(const xla::ffi::Dictionary& attributes, const char* const name,
            const char* const type) {
  const xla::ffi::ErrorOr<T> value = attributes.get<T>(name);
  if (!value.has_value()) refuse("the attribute ", name, " must be given, as ", type);
  return *value;
}

}  // namespace

UpdateAttributes attributes_v1(const bool returns_change) {
  return {RowLayout::kV1, StreamSet::with_params(), returns_change, 0, Rounding::kNearest};
}

UpdateAttributes decode_attributes_v2(const xla::ffi::Dictionary& attributes) {
  const bool has_rounding = attributes.contains("rounding");
  if (attributes.size() != (has_rounding ? 4 : 3)) {
    refuse(
        "got ", attributes.size(),
        " attributes; there are returns_change, streams and first_row, and there may be rounding");
  }
  const auto rounding =
      has_rounding ? attribute<std::int64_t>(attributes, "rounding", "an int64") : 0;
  if (rounding != 0 && rounding != 1) {
    refuse("the attribute rounding is ", rounding, "; it must be 0 (nearest) or 1 (stochastic)");
  }
  return {RowLayout::kV2, StreamSet(attribute<std::int64_t>(attributes, "streams", "an int64")),
          attribute<bool>(attributes, "returns_change", "a bool"),
          attribute<std::int64_t>(attributes, "first_row", "an int64"),
          rounding == 0 ? Rounding::kNearest : Rounding::kStochastic};
}

template <typename T>
UpdateCall<T> decode_update(const UpdateAttributes& attributes, const AnyBuffer& coefficients,
                            const xla::ffi::RemainingArgs& leaves,
                            const xla::ffi::RemainingRets& results) {
  UpdateCall<T> call = decode_table<T>(attributes, coefficients, leaves, results);
  const StreamSet streams = attributes.streams;
  const Buffers buffers(attributes, leaves, results);
  const Stream first = streams.has(Stream::kParams) ? Stream::kParams : Stream::kGrads;
  for (std::size_t leaf = 0; leaf < buffers.leaves(); ++leaf) {
    const LeafShape shape{leaf, name_of(first), buffers.operand(first, leaf).dimensions()};
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
    call.leaves.push_back(decode_leaf<T>(attributes, buffers, leaf));
    call.leaves.back().length = entry_length(shape, call.batch);
    if (streams.has_scales()) {
      call.scales.push_back(decode_scales(streams, buffers, shape, call.batch));
    }
  }
  return call;
}

template <typename T>
UpdateCall<T> decode_update_entry(const std::int64_t first_row, const AnyBuffer& index,
                                  const AnyBuffer& coefficients,
                                  const xla::ffi::RemainingArgs& leaves,
                                  const xla::ffi::RemainingRets& results) {
  const UpdateAttributes attributes{RowLayout::kV2, StreamSet::with_params(), false, first_row,
                                    Rounding::kNearest};
  UpdateCall<T> call = decode_table<T>(attributes, coefficients, leaves, results);
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
    call.leaves.push_back(decode_leaf<T>(attributes, buffers, leaf));
    call.leaves.back().length = elements_of(shape.dimensions);
  }
  return call;
}

template UpdateCall<float> decode_update(const UpdateAttributes&, const AnyBuffer&,
                                         const xla::ffi::RemainingArgs&,
                                         const xla::ffi::RemainingRets&);
template UpdateCall<double> decode_update(const UpdateAttributes&, const AnyBuffer&,
                                          const xla::ffi::RemainingArgs&,
                                          const xla::ffi::RemainingRets&);

template UpdateCall<float> decode_update_entry(std::int64_t, const AnyBuffer&, const AnyBuffer&,
                                               const xla::ffi::RemainingArgs&,
                                               const xla::ffi::RemainingRets&);
template UpdateCall<double> decode_update_entry(std::int64_t, const AnyBuffer&, const AnyBuffer&,
                                                const xla::ffi::RemainingArgs&,
                                                const xla::ffi::RemainingRets&);

}  // namespace nadam_xla::ffi
