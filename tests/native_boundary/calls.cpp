#include "tests/native_boundary/calls.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>

#include "kernels/blockwise.h"
#include "kernels/rows_call.h"
#include "kernels/streams.h"
#include "kernels/update_rule.h"

namespace nadam_xla::native_boundary {
namespace {

using Dimensions = std::vector<std::int64_t>;

constexpr int kF16 = XLA_FFI_DataType_F16, kBF16 = XLA_FFI_DataType_BF16;
constexpr int kF32 = XLA_FFI_DataType_F32, kF64 = XLA_FFI_DataType_F64;
constexpr int kS8 = XLA_FFI_DataType_S8, kU8 = XLA_FFI_DataType_U8, kU16 = XLA_FFI_DataType_U16;
constexpr int kS32 = XLA_FFI_DataType_S32, kS64 = XLA_FFI_DataType_S64;
constexpr int kBool = XLA_FFI_DataType_PRED;

std::int64_t elements_of(const Dimensions& dimensions) {
  return std::accumulate(dimensions.begin(), dimensions.end(), std::int64_t{1},
                         std::multiplies<>());
}

// Any bits: NaN, infinities and subnormals among them.
Buffer buffer_of(Call& call, const int type, Dimensions dimensions, Random& random) {
  const auto bytes = static_cast<std::size_t>(elements_of(dimensions) * size_of_type(type));
  call.memory.push_back(std::make_shared<Memory>(bytes));
  unsigned char* const data = call.memory.back()->data();
  for (std::size_t i = 0; i < bytes; i += sizeof(std::uint64_t)) {
    const std::uint64_t bits = random.bits();
    std::memcpy(data + i, &bits, std::min(sizeof(bits), bytes - i));
  }
  return {type, std::move(dimensions), data};
}

void set_number(const Buffer& buffer, const std::int64_t at, const double number) {
  if (buffer.type == kF32) {
    static_cast<float*>(buffer.data)[at] = static_cast<float>(number);
  } else {
    static_cast<double*>(buffer.data)[at] = number;
  }
}

std::int64_t length_of_axis(Random& random) {
  if (random.once_in(60)) return random.below(20000);
  return random.once_in(6) ? random.below(700) : random.below(9);
}

Dimensions shape_behind(Dimensions shape, const std::int64_t least, Random& random) {
  const std::int64_t further = least + random.below(3);
  for (std::int64_t i = 0; i < further; ++i) {
    shape.push_back(i + 1 == further ? length_of_axis(random) : random.below(5));
  }
  return shape;
}

// What the calls of the update have in common.
class UpdateMaker {
 public:
  UpdateMaker(const RowLayout layout, const StreamSet streams, Random& random)
      : random_(random), layout_(layout), streams_(streams) {
    type = streams.has_scales() ? kF32 : random.one_of({kF32, kF64});
  }

  int any_float() { return random_.one_of({kF32, kF64, kBF16, kF16}); }

  int type_of(const Stream stream, const int params) {
    if (layout_ == RowLayout::kV1) return type;
    if (stream == Stream::kMuScales || stream == Stream::kNuScales) return kF32;
    if (stream == Stream::kMu && streams_.has(Stream::kMuScales)) return kS8;
    if (stream == Stream::kNu && streams_.has(Stream::kNuScales)) return kU8;
    if (stream == Stream::kParams) {
      if (streams_.has(Stream::kMaster)) return random_.one_of({kBF16, kF16});
      return type == kF64 ? any_float() : random_.one_of({kF32, kBF16, kF16});
    }
    if (stream == Stream::kMaster) {
      return params == kF16 ? kF32 : random_.one_of({kF32, kU16, kU8});
    }
    return random_.once_in(2) ? type : any_float();
  }

  // Plausible numbers, or any bits.
  Buffer coefficients(const std::int64_t batch, const std::int64_t rows, const bool has_key) {
    std::int64_t shortest = RowFormat::shortest(layout_);
    const std::int64_t longest = RowFormat::longest(layout_);
    if (has_key) shortest = std::max<std::int64_t>(shortest, RowFormat::shortest_with_key());
    if (streams_.has(Stream::kAverage)) shortest = RowFormat::shortest_with_average();
    const std::int64_t width = shortest + random_.below(longest - shortest + 1);
    Buffer table = buffer_of(call, type, {batch, rows, width}, random_);
    if (random_.once_in(3)) return table;
    for (std::int64_t row = 0; row < batch * rows; ++row) {
      for (std::int64_t i = 0; i < width; ++i) {
        const double any = random_.between(0, 1);
        const bool is_skip = i == (layout_ == RowLayout::kV1 ? 11 : 14);
        const bool is_key = i >= 15 && i < 21;
        const double number = is_skip                        ? double(random_.once_in(8))
                              : is_key                       ? double(random_.below(1 << 16))
                              : random_.once_in(5) && i >= 9 ? 0
                                                             : any;
        set_number(table, row * width + i, number);
      }
    }
    return table;
  }

  Call call;
  int type;

 private:
  Random& random_;
  const RowLayout layout_;
  const StreamSet streams_;
};

StreamSet any_streams(Random& random) {
  std::int64_t bits = StreamSet::required().has(Stream::kGrads) ? 0b1110 : 0;
  const bool has_params = !random.once_in(4);
  if (has_params) bits |= 1;
  if (has_params && random.once_in(4)) bits |= std::int64_t{1} << bit_of(Stream::kAverage);
  if (has_params && random.once_in(4)) bits |= std::int64_t{1} << bit_of(Stream::kMaster);
  if (random.once_in(4)) bits |= std::int64_t{1} << bit_of(Stream::kMuScales);
  if (random.once_in(4)) bits |= std::int64_t{1} << bit_of(Stream::kNuScales);
  return StreamSet(bits);
}

std::int64_t bits_of(const StreamSet streams) {
  std::int64_t bits = 0;
  for (int i = 0; i < kAllStreams; ++i) {
    const auto stream = static_cast<Stream>(i);
    if (streams.has(stream)) bits |= std::int64_t{1} << bit_of(stream);
  }
  return bits;
}

std::int64_t any_batch(Random& random) {
  if (!random.once_in(3)) return 1;
  return random.once_in(8) ? 0 : 2 + random.below(3);
}

// The leaves of a call, stream by stream.
using Groups = std::vector<std::vector<Buffer>>;

void append(std::vector<Buffer>& to, const Groups& groups) {
  for (const auto& group : groups) to.insert(to.end(), group.begin(), group.end());
}

// A result in memory of its own, or in that of its operand.
Buffer result_of(UpdateMaker& maker, const Buffer& operand, const int type, Random& random) {
  if (type == operand.type && random.once_in(2)) return operand;
  return buffer_of(maker.call, type, operand.dimensions, random);
}

Call update_call(const RowLayout layout, Random& random) {
  const bool is_v1 = layout == RowLayout::kV1;
  const StreamSet streams = is_v1 ? StreamSet::with_params() : any_streams(random);
  UpdateMaker maker(layout, streams, random);
  const bool returns_change = !streams.has(Stream::kParams) || random.once_in(3);
  const bool is_stochastic = !is_v1 && random.once_in(4);
  const bool has_key = is_stochastic || streams.has_scales();
  const std::int64_t batch = any_batch(random);
  const std::int64_t n = random.once_in(30) ? random.below(60) : random.below(5);
  const std::int64_t first_row = is_v1 ? 0 : random.below(3);
  const bool has_one_row = random.once_in(2) && !(has_key && n > 1);
  const std::int64_t behind = is_v1 ? 0 : random.below(2);
  Call& call = maker.call;
  call.operands = {maker.coefficients(batch, has_one_row ? 1 : first_row + n + behind, has_key)};
  Groups operands(streams.count()), results(streams.count_results());
  const Stream first = streams.has(Stream::kParams) ? Stream::kParams : Stream::kGrads;
  for (std::int64_t leaf = 0; leaf < n; ++leaf) {
    const Dimensions entry = batch == 1 ? Dimensions{} : Dimensions{batch};
    const Dimensions shape = shape_behind(entry, streams.has_scales() ? 1 : 0, random);
    Dimensions of_scales = shape;
    if (!shape.empty()) of_scales.back() = blockwise::blocks_of(shape.back());
    int params = maker.type;
    for (int i = 0; i < kAllStreams; ++i) {
      const auto stream = static_cast<Stream>(i);
      if (!streams.has(stream)) continue;
      const bool is_scales = stream == Stream::kMuScales || stream == Stream::kNuScales;
      const int type = maker.type_of(stream, params);
      if (stream == Stream::kParams) params = type;
      operands[streams.place(stream)].push_back(
          buffer_of(call, type, is_scales ? of_scales : shape, random));
    }
    for (int i = 0; i < kAllResults; ++i) {
      if (!streams.has_result(i)) continue;
      const Stream stream =
          i == 0 ? (returns_change ? Stream::kGrads : first) : stream_of_result(i);
      const Buffer& operand = operands[streams.place(stream)][static_cast<std::size_t>(leaf)];
      const bool is_change = i == 0 && returns_change;
      const int type = is_change && !is_v1 && random.once_in(2) ? maker.any_float() : operand.type;
      results[streams.place_of_result(i)].push_back(result_of(maker, operand, type, random));
    }
  }
  append(call.operands, operands);
  append(call.results, results);
  // Something that the call waits for, which nobody reads.
  if (!is_v1 && streams.count() > 1 && random.once_in(6)) {
    call.operands.push_back(buffer_of(call, kS32, {3}, random));
    call.operands.back().is_read = false;
  }
  call.attributes["returns_change"] = {kBool, returns_change};
  if (is_v1) return std::move(call);
  call.attributes["streams"] = {kS64, bits_of(streams)};
  call.attributes["first_row"] = {kS64, first_row};
  if (is_stochastic || random.once_in(2)) call.attributes["rounding"] = {kS64, is_stochastic};
  return std::move(call);
}

Call entry_call(Random& random) {
  const StreamSet streams = StreamSet::with_params();
  UpdateMaker maker(RowLayout::kV2, streams, random);
  Call& call = maker.call;
  const std::int64_t n = random.below(4), entries = 1 + random.below(4);
  const std::int64_t first_row = random.below(3);
  const std::int64_t rows = random.once_in(2) ? 1 : first_row + n;
  Buffer index = buffer_of(call, kS32, {}, random);
  index.is_read = n != 0;
  if (!random.once_in(4)) {
    *static_cast<std::int32_t*>(index.data) = static_cast<std::int32_t>(random.below(entries + 2));
  }
  call.operands = {index, maker.coefficients(1, rows, false)};
  Groups operands(streams.count()), results;
  for (std::int64_t leaf = 0; leaf < n; ++leaf) {
    const Dimensions shape = shape_behind({}, 0, random);
    Dimensions stack = shape;
    stack.insert(stack.begin(), entries);
    for (int i = 0; i < 4; ++i) {
      const auto stream = static_cast<Stream>(i);
      operands[static_cast<std::size_t>(i)].push_back(
          buffer_of(call, maker.type_of(stream, 0), i == 1 ? shape : stack, random));
    }
  }
  append(call.operands, operands);
  append(call.results, {operands[0], operands[2], operands[3]});
  call.attributes["first_row"] = {kS64, first_row};
  return std::move(call);
}

Call rows_call(const Platform platform, Random& random) {
  const bool has_master = random.once_in(3);
  const StreamSet streams(0b1111 | (has_master ? std::int64_t{1} << bit_of(Stream::kMaster) : 0));
  UpdateMaker maker(RowLayout::kV2, streams, random);
  Call& call = maker.call;
  const bool is_stochastic = random.once_in(3);
  const std::int64_t batch = any_batch(random), first_row = random.below(2);
  const std::int64_t rows = random.once_in(2) ? 1 : first_row + 1 + random.below(2);
  const std::int64_t touched = random.once_in(20) ? random.below(3000) : random.below(30);
  const std::int64_t height = random.once_in(8) ? random.below(100000) : random.below(40);
  Dimensions before = batch == 1 ? Dimensions{} : Dimensions{batch};
  const auto with = [&](const std::int64_t length) {
    Dimensions shape = before;
    shape.push_back(length);
    return shape;
  };
  const Dimensions of_numbers = with(touched);
  // A tall table has short rows.
  Dimensions columns = height > 40 ? Dimensions{random.below(4)} : shape_behind({}, 0, random);
  if (touched > 30) columns = {random.below(20)};
  const auto of_rows = [&](const std::int64_t count) {
    Dimensions shape = with(count);
    shape.insert(shape.end(), columns.begin(), columns.end());
    return shape;
  };
  const Buffer indices = buffer_of(call, random.one_of({kS32, kS64}), of_numbers, random);
  for (std::int64_t i = 0; i < batch * touched && !random.once_in(30); ++i) {
    const std::int64_t number = random.below(height + 4) - 2;
    if (indices.type == kS64) {
      static_cast<std::int64_t*>(indices.data)[i] = number;
    } else {
      static_cast<std::int32_t*>(indices.data)[i] = static_cast<std::int32_t>(number);
    }
  }
  call.operands = {maker.coefficients(batch, rows, is_stochastic), indices};
  int params = 0;
  for (int i = 0; i < kAllStreams; ++i) {
    const auto stream = static_cast<Stream>(i);
    if (!streams.has(stream)) continue;
    const int type = maker.type_of(stream, params);
    if (stream == Stream::kParams) params = type;
    const Buffer buffer =
        buffer_of(call, type, of_rows(stream == Stream::kGrads ? touched : height), random);
    call.operands.push_back(buffer);
    if (stream != Stream::kGrads) call.results.push_back(buffer);
  }
  if (platform == Platform::kCuda) {
    const Buffer order = buffer_of(call, kS32, of_numbers, random);
    auto* const places = static_cast<std::int32_t*>(order.data);
    for (std::int64_t i = 0; i < batch * touched && !random.once_in(100); ++i) {
      places[i] = static_cast<std::int32_t>(random.below(touched));
    }
    call.operands.push_back(order);
  } else {
    const std::int64_t size = RowNumbers::workspace_bytes(touched) + random.below(2) * 5;
    call.results.push_back(buffer_of(call, kU8, {size}, random));
  }
  call.attributes["streams"] = {kS64, bits_of(streams)};
  call.attributes["first_row"] = {kS64, first_row};
  call.attributes["rounding"] = {kS64, is_stochastic};
  return std::move(call);
}

Call sums_call(const Platform platform, Random& random) {
  Call call;
  const int type = random.one_of({kF32, kF64});
  const std::int64_t n = random.once_in(30) ? random.below(60) : random.below(5);
  const bool is_batched = random.once_in(2);
  const std::int64_t batch = is_batched ? random.below(5) : 1;
  for (std::int64_t leaf = 0; leaf < n; ++leaf) {
    const int stored = type == kF64 ? kF64 : random.one_of({kF32, kBF16, kF16});
    const Dimensions before = is_batched ? Dimensions{batch} : Dimensions{};
    call.operands.push_back(buffer_of(call, stored, shape_behind(before, 0, random), random));
  }
  const Dimensions sums = is_batched ? Dimensions{batch, n} : Dimensions{n};
  call.results = {buffer_of(call, type, sums, random)};
  if (platform == Platform::kCuda || random.once_in(2)) {
    call.results.push_back(buffer_of(call, kU8, {8 * (n * batch + 1 + random.below(64))}, random));
  }
  if (random.once_in(2)) call.attributes["norms"] = {kBool, random.below(2)};
  return call;
}

// ---- what may be wrong
// ---------------------------------------------------------------------------

constexpr std::int64_t kNumbers[] = {0,         1,         2,         3,         -1,
                                     INT64_MIN, INT64_MAX, 1LL << 31, 1LL << 32, 1LL << 40,
                                     1LL << 48, 1LL << 57, 1LL << 62, 257,       1LL << 16};

std::int64_t any_number(Random& random) {
  return kNumbers[random.below(sizeof(kNumbers) / sizeof(kNumbers[0]))];
}

int any_type(Random& random) { return random.once_in(8) ? 63 : static_cast<int>(random.below(34)); }

// Gives a buffer memory of its shape, or none where no memory is so large. Whether it may be taken.
Expected reallocate(Call& call, Buffer& buffer, Random& random) {
  __int128 elements = 1;
  bool is_wrong = false;
  for (const std::int64_t dimension : buffer.dimensions) {
    is_wrong = is_wrong || dimension < 0;
    elements *= std::max<std::int64_t>(dimension, 1);
    if (elements > __int128{1} << 48) is_wrong = true, elements = 1;
  }
  if (is_wrong) {
    call.memory.push_back(std::make_shared<Memory>(1));
    buffer.data = call.memory.back()->data();
    return Expected::kError;
  }
  if (elements > 1 << 20) {
    const auto& shape = buffer.dimensions;
    const bool is_empty = std::find(shape.begin(), shape.end(), 0) != shape.end();
    buffer.data = nullptr;
    return is_empty ? Expected::kEither : Expected::kError;
  }
  buffer = buffer_of(call, buffer.type, buffer.dimensions, random);
  return Expected::kEither;
}

Expected change_shape(Call& call, Buffer& buffer, Random& random) {
  Dimensions& shape = buffer.dimensions;
  const auto at = [&] { return shape.begin() + random.below(std::int64_t(shape.size())); };
  const std::int64_t kind = shape.empty() ? 2 : random.below(5);
  if (kind == 0) *at() = any_number(random);
  if (kind == 1) {
    const auto changed = at();
    if (*changed > 0 && *changed < INT64_MAX) *changed += random.one_of({-1, 1});
  }
  if (kind == 2) shape.insert(shape.begin(), random.once_in(2) ? any_number(random) : 1);
  if (kind == 3) shape.erase(at());
  if (kind == 4) {
    shape.assign(static_cast<std::size_t>(random.below(9)), 0);
    for (std::int64_t& dimension : shape) dimension = any_number(random);
  }
  return reallocate(call, buffer, random);
}

std::int64_t bytes_of(const Buffer& buffer) {
  return elements_of(buffer.dimensions) * size_of_type(buffer.type);
}

bool is_small(const Buffer& buffer) {
  std::int64_t elements = 1;
  for (const std::int64_t dimension : buffer.dimensions) {
    if (dimension < 0 || dimension > 1 << 20) return false;
    elements *= std::max<std::int64_t>(dimension, 1);
    if (elements > 1 << 20) return false;
  }
  return buffer.data != nullptr;
}

Expected change_address(Call& call, Buffer& buffer, Buffer& other, Random& random) {
  if (!is_small(buffer) || bytes_of(buffer) == 0) return Expected::kEither;
  const std::int64_t size = size_of_type(buffer.type), bytes = bytes_of(buffer);
  if (random.once_in(3)) {
    buffer.data = nullptr;
    return Expected::kError;
  }
  if (random.once_in(2) || !is_small(other)) {
    const std::int64_t offset = 1 + random.below(15);
    call.memory.push_back(std::make_shared<Memory>(static_cast<std::size_t>(bytes + offset)));
    buffer.data = call.memory.back()->data() + offset;
    return offset % size != 0 ? Expected::kError : Expected::kEither;
  }
  // Partly in the memory of another. No program of XLA's does so; only the values suffer.
  const std::int64_t offset = random.below(bytes / 8 + 1) * 8;
  const std::int64_t end = std::max(bytes, offset + bytes_of(other));
  const Buffer filled = buffer_of(call, kU8, {end}, random);
  buffer.data = filled.data;
  other.data = static_cast<unsigned char*>(filled.data) + offset;
  return Expected::kEither;
}

Expected change_attributes(Call& call, Random& random) {
  auto& attributes = call.attributes;
  if (attributes.empty() || random.once_in(4)) {
    attributes[random.one_of({"a", "norms", "rounding", "streams", "zz"})] = {kS64, 1};
    return Expected::kEither;
  }
  auto chosen = attributes.begin();
  std::advance(chosen, random.below(static_cast<std::int64_t>(attributes.size())));
  Attribute& attribute = chosen->second;
  switch (random.below(4)) {
    case 0:
      attributes.erase(chosen);
      break;
    case 1:
      attribute.is_string = true;
      break;
    case 2:
      // XLA has attributes of these alone; its headers print no type that they do not know.
      attribute.type = random.one_of({kBool, kS32, kS64, kF32, kF64});
      if (attribute.type == kBool) attribute.value &= 1;  // as XLA has it
      break;
    default:
      if (attribute.type == kBool) {
        attribute.value ^= 1;
      } else {
        attribute.value = random.once_in(3) ? any_number(random)
                                            : attribute.value ^ std::int64_t{1} << random.below(20);
      }
  }
  return Expected::kEither;
}

}  // namespace

std::int64_t size_of_type(const int type) {
  switch (type) {
    case kBool:
    case kS8:
    case kU8:
      return 1;
    case XLA_FFI_DataType_S16:
    case kU16:
    case kF16:
    case kBF16:
      return 2;
    case kF64:
    case kS64:
    case XLA_FFI_DataType_U64:
    case XLA_FFI_DataType_C64:
      return 8;
    case XLA_FFI_DataType_C128:
      return 16;
    default:
      return 4;
  }
}

Call valid_call(const Target target, const Platform platform, Random& random) {
  switch (target) {
    case Target::kUpdateV1:
      return update_call(RowLayout::kV1, random);
    case Target::kUpdateV2:
      return update_call(RowLayout::kV2, random);
    case Target::kUpdateEntry:
      return entry_call(random);
    case Target::kUpdateRows:
      return rows_call(platform, random);
    default:
      return sums_call(platform, random);
  }
}

Expected make_wrong(Call& call, Random& random) {
  auto& group = random.once_in(2) || call.results.empty() ? call.operands : call.results;
  if (group.empty() || random.once_in(6)) return change_attributes(call, random);
  const auto any = [&]() -> Buffer& {
    return group[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(group.size())))];
  };
  Buffer& buffer = any();
  if (!buffer.is_read) return Expected::kEither;
  switch (random.below(9)) {
    case 0:
      buffer.type = any_type(random);
      return is_small(buffer) ? reallocate(call, buffer, random) : Expected::kEither;
    case 1:
    case 2:
    case 3:
      return change_shape(call, buffer, random);
    case 4:
    case 5: {
      auto& others = random.once_in(2) ? call.operands : group;
      if (others.empty()) return Expected::kEither;
      const auto i = random.below(static_cast<std::int64_t>(others.size()));
      return change_address(call, buffer, others[static_cast<std::size_t>(i)], random);
    }
    case 6:
      group.erase(group.begin() + random.below(static_cast<std::int64_t>(group.size())));
      return Expected::kEither;
    case 7:
      if (random.once_in(2)) {
        group.insert(group.begin(), Buffer(any()));
      } else {
        std::swap(buffer, any());
      }
      return Expected::kEither;
    default:
      buffer.is_buffer = false;
      return Expected::kEither;
  }
}

}  // namespace nadam_xla::native_boundary
