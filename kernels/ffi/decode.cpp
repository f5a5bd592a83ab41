#include "kernels/ffi/decode.h"

#include <sstream>
#include <stdexcept>

#include "kernels/update_rule.h"

namespace nadam_xla::ffi {
namespace {

using Dimensions = xla::ffi::Span<const std::int64_t>;
using xla::ffi::AnyBuffer;
using xla::ffi::DataType;

template <typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

std::string to_string(const Dimensions& dimensions) {
  std::ostringstream text;
  text << '[';
  for (std::size_t i = 0; i < dimensions.size(); ++i) text << (i ? "," : "") << dimensions[i];
  text << ']';
  return text.str();
}

template <typename T>
constexpr DataType data_type() {
  return sizeof(T) == sizeof(float) ? DataType::F32 : DataType::F64;
}

// The standard accessors build an error, with a string in it, for every buffer that is in order;
// hundreds of leaves a call make that the larger part of a small update.
class Operands : public xla::ffi::RemainingArgs {
 public:
  explicit Operands(const RemainingArgs& operands) : RemainingArgs(operands) {}
  AnyBuffer operator[](std::size_t i) const {
    if (args()->types[offset() + i] != XLA_FFI_ArgType_BUFFER)
      refuse("operand ", offset() + i, " is no buffer");
    return AnyBuffer(static_cast<const XLA_FFI_Buffer*>(args()->args[offset() + i]));
  }
};

class Results : public xla::ffi::RemainingRets {
 public:
  explicit Results(const RemainingRets& results) : RemainingRets(results) {}
  AnyBuffer operator[](std::size_t i) const {
    if (rets()->types[offset() + i] != XLA_FFI_RetType_BUFFER)
      refuse("result ", i, " is no buffer");
    return AnyBuffer(static_cast<const XLA_FFI_Buffer*>(rets()->rets[offset() + i]));
  }
};

// Of an operand, the stream's name; of a result too, with a word before it.
struct Group {
  const char* name;
  bool is_result = false;
};

struct BufferName {
  Group group;
  std::size_t leaf;
};

std::ostream& operator<<(std::ostream& out, const BufferName& name) {
  return out << (name.group.is_result ? "result " : "") << name.group.name << '[' << name.leaf
             << ']';
}

// The shape that all buffers of one leaf share, which is that of its first one.
struct LeafShape {
  std::size_t leaf;
  DataType type;
  const char* first_stream;
  Dimensions dimensions;
};

[[noreturn]] void refuse_shape(const LeafShape& expected, const Group group,
                               const AnyBuffer& buffer) {
  refuse(BufferName{group, expected.leaf}, " is ", buffer.element_type(),
         to_string(buffer.dimensions()), "; it must be ", expected.type,
         to_string(expected.dimensions), " like ",
         BufferName{{expected.first_stream}, expected.leaf});
}

inline void check_same_shape(const LeafShape& expected, const Group group,
                             const AnyBuffer& buffer) {
  const Dimensions dimensions = buffer.dimensions();
  bool same =
      buffer.element_type() == expected.type && dimensions.size() == expected.dimensions.size();
  // By hand: a call of memcmp costs more than the one or two comparisons that there are.
  for (std::size_t i = 0; same && i < dimensions.size(); ++i) {
    same = dimensions[i] == expected.dimensions[i];
  }
  if (!same) refuse_shape(expected, group, buffer);
}

std::string names_of(const StreamSet streams) {
  std::string names;
  for (int i = 0; i < kStreams; ++i) {
    const auto stream = static_cast<Stream>(i);
    if (streams.has(stream)) names += (names.empty() ? "" : ", ") + std::string(name_of(stream));
  }
  return names;
}

void check_streams(const UpdateAttributes& attributes) {
  if (!attributes.streams.is_known()) {
    refuse("the attribute streams has unknown bits, or lacks some: there are ",
           names_of(StreamSet::known()), ", of which ", names_of(StreamSet::required()),
           " must be there");
  }
  if (!attributes.streams.has(Stream::kParams) && !attributes.returns_change) {
    refuse("returns_change is false; it must be true where streams lacks params");
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
  if (!has_columns || !has_rows(shape[1])) {
    refuse("coefficients is ", coefficients.element_type(), to_string(shape),
           "; it must be [batch, rows, ", longest, "] with 1 row or ", n,
           ", one for each leaf, from row ", attributes.first_row, " on");
  }
  return {shape[0], shape[1], {attributes.layout, static_cast<int>(shape[2])}};
}

std::int64_t elements_of(const Dimensions& dimensions) {
  std::int64_t elements = 1;
  for (const std::int64_t dimension : dimensions) elements *= dimension;
  return elements;
}

bool has_batch_axis(const Dimensions& dimensions, std::int64_t batch) {
  return dimensions.size() != 0 && dimensions[0] == batch;
}

std::int64_t elements_of_entry(const Dimensions& dimensions, std::int64_t batch) {
  return batch == 0 ? 0 : elements_of(dimensions) / batch;
}

// The elements of one batch entry of a leaf of the update.
std::int64_t entry_length(const LeafShape& shape, std::int64_t batch) {
  if (batch != 1 && !has_batch_axis(shape.dimensions, batch)) {
    refuse(BufferName{{shape.first_stream}, shape.leaf}, " is ", shape.type,
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
  if (leaves.size() % streams.count() > most_left_over || results.size() != kResults * n) {
    refuse("got ", leaves.size(), " buffers after coefficients and ", results.size(),
           " results; n leaves need ", streams.count(), " n (", names_of(streams),
           ") and 3 n (params, mu, nu)");
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
  bool fits = buffer.element_type() == grads.type &&
              dimensions.size() == grads.dimensions.size() + 1 && dimensions[0] == entries;
  for (std::size_t i = 0; fits && i < grads.dimensions.size(); ++i) {
    fits = dimensions[i + 1] == grads.dimensions[i];
  }
  if (!fits) {
    refuse(BufferName{group, grads.leaf}, " is ", buffer.element_type(), to_string(dimensions),
           "; it must be a stack of ", entries, " entries, each ", grads.type,
           to_string(grads.dimensions), " like ",
           BufferName{{name_of(Stream::kGrads)}, grads.leaf});
  }
}

}  // namespace

template <typename T>
UpdateCall<T> decode_update(const UpdateAttributes& attributes, const AnyBuffer& coefficients,
                            const xla::ffi::RemainingArgs& leaves,
                            const xla::ffi::RemainingRets& results) {
  UpdateCall<T> call = decode_table<T>(attributes, coefficients, leaves, results);
  const StreamSet streams = attributes.streams;
  const std::size_t n = leaves.size() / streams.count();
  const Operands operands(leaves);
  const Results outputs(results);
  const char* const first_stream =
      name_of(streams.has(Stream::kParams) ? Stream::kParams : Stream::kGrads);
  for (std::size_t leaf = 0; leaf < n; ++leaf) {
    const LeafShape shape{leaf, data_type<T>(), first_stream, operands[leaf].dimensions()};
    const auto input = [&](const Stream stream) {
      const AnyBuffer buffer = operands[streams.place(stream) * n + leaf];
      check_same_shape(shape, {name_of(stream)}, buffer);
      return static_cast<const T*>(buffer.untyped_data());
    };
    Streams<T> of_leaf;
    of_leaf.length = entry_length(shape, call.batch);
    for (int i = 0; i < kStreams; ++i) {
      const auto stream = static_cast<Stream>(i);
      of_leaf.in[i] = input(streams.has(stream) ? stream : Stream::kGrads);
    }
    for (int i = 0; i < kResults; ++i) {
      const AnyBuffer buffer = outputs[i * n + leaf];
      check_same_shape(shape, {name_of(stream_of_result(i)), true}, buffer);
      of_leaf.out[i] = static_cast<T*>(buffer.untyped_data());
    }
    call.leaves.push_back(of_leaf);
  }
  return call;
}

template <typename T>
UpdateCall<T> decode_update_entry(const std::int64_t first_row, const AnyBuffer& index,
                                  const AnyBuffer& coefficients,
                                  const xla::ffi::RemainingArgs& leaves,
                                  const xla::ffi::RemainingRets& results) {
  constexpr StreamSet streams = StreamSet::with_params();
  const UpdateAttributes attributes{RowLayout::kV2, streams, false, first_row};
  UpdateCall<T> call = decode_table<T>(attributes, coefficients, leaves, results);
  const std::size_t n = leaves.size() / streams.count();
  if (call.batch != 1) refuse("coefficients has a batch of ", call.batch, "; it must be 1");
  if (n == 0) return call;
  const Operands operands(leaves);
  const Results outputs(results);
  call.entry = check_entry(index, operands[0].dimensions());
  for (std::size_t leaf = 0; leaf < n; ++leaf) {
    const AnyBuffer grads = operands[streams.place(Stream::kGrads) * n + leaf];
    const LeafShape shape{leaf, data_type<T>(), name_of(Stream::kGrads), grads.dimensions()};
    check_same_shape(shape, {name_of(Stream::kGrads)}, grads);
    Streams<T> of_leaf;
    of_leaf.length = elements_of(shape.dimensions);
    for (const T*& stream : of_leaf.in) stream = static_cast<const T*>(grads.untyped_data());
    for (int i = 0; i < kResults; ++i) {
      const Stream stream = stream_of_result(i);
      const AnyBuffer stack = operands[streams.place(stream) * n + leaf];
      const AnyBuffer result = outputs[i * n + leaf];
      check_stack(shape, call.entry.entries, {name_of(stream)}, stack);
      check_stack(shape, call.entry.entries, {name_of(stream), true}, result);
      // Else the other entries would have to be copied.
      if (result.untyped_data() != stack.untyped_data()) {
        refuse("the result of ", BufferName{{name_of(stream)}, leaf}, " is not in its memory");
      }
      of_leaf.out[i] = static_cast<T*>(result.untyped_data());
      of_leaf.in[static_cast<int>(stream)] = of_leaf.out[i];
    }
    call.leaves.push_back(of_leaf);
  }
  return call;
}

template <typename T>
SumSquaresCall<T> decode_sum_squares(const xla::ffi::RemainingArgs& leaves, AnyBuffer sums) {
  const std::size_t n = leaves.size();
  const Dimensions shape = sums.dimensions();
  const bool is_batched = shape.size() == 2;
  if (shape.size() < 1 || shape.size() > 2 || shape.back() != static_cast<std::int64_t>(n)) {
    refuse("the result is ", sums.element_type(), to_string(shape), "; it must be [", n,
           "], a sum for each leaf, or [batch, ", n, "]");
  }
  SumSquaresCall<T> call{is_batched ? shape[0] : 1, {}, static_cast<T*>(sums.untyped_data())};
  call.leaves.reserve(n);
  const Operands operands(leaves);
  for (std::size_t i = 0; i < n; ++i) {
    const AnyBuffer leaf = operands[i];
    const Dimensions dimensions = leaf.dimensions();
    if (leaf.element_type() != data_type<T>() ||
        (is_batched && !has_batch_axis(dimensions, call.batch))) {
      refuse("operand ", i, " is ", leaf.element_type(), to_string(dimensions), "; the result is ",
             sums.element_type(), to_string(shape),
             ", so it must be of that type, and lead with that batch if there is one");
    }
    call.leaves.push_back(
        {static_cast<const T*>(leaf.untyped_data()), elements_of_entry(dimensions, call.batch)});
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
  return {workspace.untyped_data(), static_cast<std::int64_t>(workspace.size_bytes())};
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

template SumSquaresCall<float> decode_sum_squares(const xla::ffi::RemainingArgs&, AnyBuffer);
template SumSquaresCall<double> decode_sum_squares(const xla::ffi::RemainingArgs&, AnyBuffer);

}  // namespace nadam_xla::ffi
