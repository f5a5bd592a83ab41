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
  const char* first_stream;
  Dimensions dimensions;
};

[[noreturn]] void refuse_shape(const LeafShape& expected, const Group group,
                               const AnyBuffer& buffer) {
  refuse(BufferName{group, expected.leaf}, " is ", buffer.element_type(),
         to_string(buffer.dimensions()), "; its shape must be ", to_string(expected.dimensions),
         " like that of ", BufferName{{expected.first_stream}, expected.leaf});
}

// `before`: how many dimensions precede those of the shape.
inline bool has_shape(const Dimensions& expected, const Dimensions& dimensions,
                      const std::size_t before = 0) {
  bool same = dimensions.size() == expected.size() + before;
  // By hand: a call of memcmp costs more than the one or two comparisons that there are.
  for (std::size_t i = 0; same && i < expected.size(); ++i) {
    same = dimensions[before + i] == expected[i];
  }
  return same;
}

inline void check_same_shape(const LeafShape& expected, const Group group,
                             const AnyBuffer& buffer) {
  if (!has_shape(expected.dimensions, buffer.dimensions())) refuse_shape(expected, group, buffer);
}

// How the elements of an array of the rule are stored.
Storage storage_of(const Group group, const std::size_t leaf, const AnyBuffer& buffer) {
  switch (buffer.element_type()) {
    case DataType::F32:
      return Storage::kF32;
    case DataType::F64:
      return Storage::kF64;
    case DataType::BF16:
      return Storage::kBF16;
    case DataType::F16:
      return Storage::kF16;
    default:
      refuse(BufferName{group, leaf}, " is ", buffer.element_type(), to_string(buffer.dimensions()),
             "; it must be F32, F64, BF16 or F16");
  }
}

Storage storage_of_master(const std::size_t leaf, const AnyBuffer& master, const Storage params) {
  const DataType type = master.element_type();
  const bool is_bfloat16 = params == Storage::kBF16;
  if (type == DataType::F32 && (is_bfloat16 || params == Storage::kF16)) return Storage::kF32;
  if (type == DataType::U16 && is_bfloat16) return Storage::kRemainder16;
  if (type == DataType::U8 && is_bfloat16) return Storage::kRemainder8;
  refuse(BufferName{{name_of(Stream::kMaster)}, leaf}, " is ", type,
         "; of parameters that are BF16 it must be F32, U16 or U8, of F16 it must be F32, and"
         " others have none");
}

std::string names_of(const StreamSet streams) {
  std::string names;
  for (int i = 0; i < kStreams; ++i) {
    const auto stream = static_cast<Stream>(i);
    if (streams.has(stream)) names += (names.empty() ? "" : ", ") + std::string(name_of(stream));
  }
  return names;
}

std::string names_of_results(const StreamSet streams) {
  std::string names;
  for (int i = 0; i < streams.results(); ++i) {
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
  const bool is_stochastic = attributes.rounding == Rounding::kStochastic;
  const bool has_key = has_columns && shape[2] >= RowFormat::shortest_with_key();
  if (is_stochastic && has_columns && (!has_key || (shape[1] == 1 && n > 1))) {
    refuse("coefficients is ", coefficients.element_type(), to_string(shape),
           "; where rounding is stochastic it must be [batch, ", n, " or more, ", longest,
           "], so that each leaf has random numbers of its own");
  }
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
  if (leaves.size() % streams.count() > most_left_over || results.size() != streams.results() * n) {
    refuse("got ", leaves.size(), " buffers after coefficients and ", results.size(),
           " results; n leaves need ", streams.count(), " n (", names_of(streams), ") and ",
           streams.results(), " n (", names_of_results(streams), ")");
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

// How each operand of a leaf is stored.
template <typename T>
void check_storage(const UpdateAttributes& attributes, const std::size_t leaf,
                   const Leaf& of_leaf) {
  const bool is_v1 = attributes.layout == RowLayout::kV1;
  for (int i = 0; i < kRuleStreams; ++i) {
    const auto stream = static_cast<Stream>(i);
    if (is_v1 && of_leaf.stored[i] != kStorageOf<T>) {
      refuse(BufferName{{name_of(stream)}, leaf}, " is not stored as coefficients are; it must be ",
             data_type<T>());
    }
  }
  if (attributes.streams.has(Stream::kParams) && kStorageOf<T> != Storage::kF64 &&
      of_leaf.storage(Stream::kParams) == Storage::kF64) {
    refuse(BufferName{{name_of(Stream::kParams)}, leaf}, " is F64; coefficients must be F64 too");
  }
}

// A new state, or parameter, is stored as the one before.
void check_stored_alike(const Stream stream, const std::size_t leaf, const AnyBuffer& before,
                        const AnyBuffer& after) {
  if (before.element_type() != after.element_type()) {
    refuse(BufferName{{name_of(stream), true}, leaf}, " is ", after.element_type(), "; it must be ",
           before.element_type(), " like ", BufferName{{name_of(stream)}, leaf});
  }
}

// The operands and results of the leaves of a call, by their names.
class Buffers {
 public:
  Buffers(const UpdateAttributes& attributes, const xla::ffi::RemainingArgs& leaves,
          const xla::ffi::RemainingRets& results)
      : streams_(attributes.streams),
        n_(leaves.size() / streams_.count()),
        operands_(leaves),
        results_(results) {}

  std::size_t leaves() const { return n_; }
  AnyBuffer operand(const Stream stream, const std::size_t leaf) const {
    return operands_[streams_.place(stream) * n_ + leaf];
  }
  AnyBuffer result(const int which, const std::size_t leaf) const {
    return results_[which * n_ + leaf];
  }

 private:
  StreamSet streams_;
  std::size_t n_;
  Operands operands_;
  Results results_;
};

// The memory of a leaf and how it is stored. Whether the shapes fit is left to be checked.
template <typename T>
Leaf decode_leaf(const UpdateAttributes& attributes, const Buffers& buffers,
                 const std::size_t leaf) {
  const StreamSet streams = attributes.streams;
  Leaf decoded;
  for (int i = 0; i < kStreams; ++i) {
    const auto stream = static_cast<Stream>(i);
    const Stream present = streams.has(stream) ? stream : Stream::kGrads;
    const AnyBuffer buffer = buffers.operand(present, leaf);
    decoded.in[i] = buffer.untyped_data();
    decoded.stored[i] = present == Stream::kMaster
                            ? storage_of_master(leaf, buffer, decoded.storage(Stream::kParams))
                            : storage_of({name_of(present)}, leaf, buffer);
  }
  for (int i = 0; i < kResults; ++i) {
    decoded.out[i] = buffers.result(i < streams.results() ? i : 0, leaf).untyped_data();
  }
  decoded.stored_first =
      storage_of({name_of(Stream::kParams), true}, leaf, buffers.result(0, leaf));
  check_storage<T>(attributes, leaf, decoded);
  for (int i = 0; i < streams.results(); ++i) {
    if (i == 0 && attributes.returns_change) continue;
    check_stored_alike(stream_of_result(i), leaf, buffers.operand(stream_of_result(i), leaf),
                       buffers.result(i, leaf));
  }
  return decoded;
}

template <typename T>
T attribute(const xla::ffi::Dictionary& attributes, const char* const name,
            const char* const type) {
  const xla::ffi::ErrorOr<T> value = attributes.get<T>(name);
  if (!value.has_value()) refuse("the attribute ", name, " must be given, as ", type);
  return *value;
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
    for (int i = 0; i < streams.results(); ++i) {
      check_same_shape(shape, {name_of(stream_of_result(i)), true}, buffers.result(i, leaf));
    }
    call.leaves.push_back(decode_leaf<T>(attributes, buffers, leaf));
    call.leaves.back().length = entry_length(shape, call.batch);
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
    for (int i = 0; i < attributes.streams.results(); ++i) {
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
    if (is_batched && !has_batch_axis(dimensions, call.batch)) {
      refuse("operand ", i, " is ", leaf.element_type(), to_string(dimensions), "; the result is ",
             sums.element_type(), to_string(shape), ", so its first axis must be that batch");
    }
    call.leaves.push_back({leaf.untyped_data(), storage_of_squared<T>(i, leaf),
                           elements_of_entry(dimensions, call.batch)});
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
