// The buffers of one leaf of an update: their names, their shapes, and how they are stored.
#pragma once

#include <cstddef>

#include "kernels/blockwise.h"
#include "kernels/ffi/buffers.h"
#include "kernels/ffi/decode.h"
#include "kernels/update_call.h"

namespace nadam_xla::ffi {

// Of an operand, the stream's name; of a result too, with a word before it.
struct Group {
  const char* name;
  bool is_result = false;
};

struct BufferName {
  Group group;
  std::size_t leaf;
};

inline std::ostream& operator<<(std::ostream& out, const BufferName& name) {
  return out << (name.group.is_result ? "result " : "") << name.group.name << '[' << name.leaf
             << ']';
}

// The shape that all buffers of one leaf share, which is that of its first one.
struct LeafShape {
  std::size_t leaf;
  const char* first_stream;
  Dimensions dimensions;
};

[[noreturn]] inline void refuse_shape(const LeafShape& expected, const Group group,
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
inline Storage storage_of(const Group group, const std::size_t leaf, const AnyBuffer& buffer) {
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

inline Storage storage_of_master(const std::size_t leaf, const AnyBuffer& master,
                                 const Storage params) {
  const DataType type = master.element_type();
  const bool is_bfloat16 = params == Storage::kBF16;
  if (type == DataType::F32 && (is_bfloat16 || params == Storage::kF16)) return Storage::kF32;
  if (type == DataType::U16 && is_bfloat16) return Storage::kRemainder16;
  if (type == DataType::U8 && is_bfloat16) return Storage::kRemainder8;
  refuse(BufferName{{name_of(Stream::kMaster)}, leaf}, " is ", type,
         "; of parameters that are BF16 it must be F32, U16 or U8, of F16 it must be F32, and"
         " others have none");
}

// Of a moment that has scales beside it.
inline Storage storage_of_codes(const Stream moment, const std::size_t leaf,
                                const AnyBuffer& buffer) {
  const bool is_signed = moment == Stream::kMu;
  const DataType expected = is_signed ? DataType::S8 : DataType::U8;
  if (buffer.element_type() != expected) {
    refuse(BufferName{{name_of(moment)}, leaf}, " is ", buffer.element_type(),
           to_string(buffer.dimensions()), "; with ", is_signed ? "mu" : "nu",
           "_scales beside it, it must be ", expected);
  }
  return is_signed ? Storage::kBlock8Signed : Storage::kBlock8Unsigned;
}

// The shape of scales is that of their leaf, but for the last axis, which counts blocks.
inline void check_scales(const LeafShape& shape, const Group group, const AnyBuffer& scales) {
  const Dimensions found = scales.dimensions(), of_leaf = shape.dimensions;
  bool fits = found.size() == of_leaf.size() && scales.element_type() == DataType::F32;
  for (std::size_t i = 0; fits && i < of_leaf.size(); ++i) {
    const bool is_last = i + 1 == of_leaf.size();
    fits = found[i] == (is_last ? blockwise::blocks_of(of_leaf[i]) : of_leaf[i]);
  }
  if (fits) return;
  refuse(BufferName{group, shape.leaf}, " is ", scales.element_type(), to_string(found),
         "; it must be F32 and have the shape ", to_string(of_leaf), " of ",
         BufferName{{shape.first_stream}, shape.leaf}, ", with one scale for each ",
         blockwise::kBlock, " elements of the last axis");
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
inline void check_stored_alike(const Stream stream, const std::size_t leaf, const AnyBuffer& before,
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
    return results_[streams_.place_of_result(which) * n_ + leaf];
  }

 private:
  StreamSet streams_;
  std::size_t n_;
  Operands operands_;
  Results results_;
};

inline Storage storage_of_stream(const StreamSet streams, const Stream stream,
                                 const std::size_t leaf, const AnyBuffer& buffer) {
  const bool is_in_codes = (stream == Stream::kMu && streams.has(Stream::kMuScales)) ||
                           (stream == Stream::kNu && streams.has(Stream::kNuScales));
  return is_in_codes ? storage_of_codes(stream, leaf, buffer)
                     : storage_of({name_of(stream)}, leaf, buffer);
}

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
                            : storage_of_stream(streams, present, leaf, buffer);
  }
  for (int i = 0; i < kResults; ++i) {
    decoded.out[i] = buffers.result(streams.has_result(i) ? i : 0, leaf).untyped_data();
  }
  decoded.stored_first =
      storage_of({name_of(Stream::kParams), true}, leaf, buffers.result(0, leaf));
  check_storage<T>(attributes, leaf, decoded);
  for (int i = 0; i < kResults; ++i) {
    if (!streams.has_result(i) || (i == 0 && attributes.returns_change)) continue;
    check_stored_alike(stream_of_result(i), leaf, buffers.operand(stream_of_result(i), leaf),
                       buffers.result(i, leaf));
  }
  return decoded;
}

// Whether all addresses of a leaf are multiples of the largest element's size, and none is null, as
// XLA has them. Where a leaf lacks a stream, it has the address of another.
inline bool is_well_aligned(const Leaf& leaf) {
  std::uintptr_t bits = 0;
  bool is_there = true;
  const auto add = [&](const void* const data) {
    bits |= reinterpret_cast<std::uintptr_t>(data);
    is_there = is_there && data != nullptr;
  };
  for (const void* const data : leaf.in) add(data);
  for (const void* const data : leaf.out) add(data);
  return is_there && bits % sizeof(double) == 0;
}

// Checks the memory of a leaf that has been decoded. Its gradients may have other elements than all
// else.
inline void check_memory(const StreamSet streams, const Buffers& buffers, const std::size_t leaf,
                         const Leaf& decoded, const std::int64_t elements_of_grads,
                         const std::int64_t elements) {
  if (is_well_aligned(decoded)) return;
  for (int i = 0; i < kStreams; ++i) {
    const auto stream = static_cast<Stream>(i);
    if (!streams.has(stream)) continue;
    const std::int64_t size = size_of(decoded.stored[i]);
    const std::int64_t of_stream = stream == Stream::kGrads ? elements_of_grads : elements;
    if (is_memory_of(of_stream, size, decoded.in[i])) continue;
    refuse_memory(BufferName{{name_of(stream)}, leaf}, buffers.operand(stream, leaf), size);
  }
  for (int i = 0; i < kResults; ++i) {
    if (!streams.has_result(i)) continue;
    const std::int64_t size = size_of(decoded.storage_of_result(i));
    if (is_memory_of(elements, size, decoded.out[i])) continue;
    refuse_memory(BufferName{{name_of(stream_of_result(i)), true}, leaf}, buffers.result(i, leaf),
                  size);
  }
}

// Those of a leaf that has been decoded, in a call of so many batch entries.
inline Scales decode_scales(const StreamSet streams, const Buffers& buffers, const LeafShape& shape,
                            const std::int64_t batch) {
  const std::size_t rank = shape.dimensions.size();
  if (rank == 0 || (rank == 1 && batch != 1)) {
    refuse(BufferName{{shape.first_stream}, shape.leaf}, " has the shape ",
           to_string(shape.dimensions),
           "; where moments have scales it must have a last axis, which is not the batch");
  }
  Scales scales{{}, {}, shape.dimensions[rank - 1]};
  for (int i = 0; i < kMoments; ++i) {
    const Stream stream = scales_of(i);
    if (!streams.has(stream)) continue;
    const AnyBuffer before = buffers.operand(stream, shape.leaf);
    const AnyBuffer after = buffers.result(result_of(stream), shape.leaf);
    check_scales(shape, {name_of(stream)}, before);
    check_scales(shape, {name_of(stream), true}, after);
    check_elements(BufferName{{name_of(stream)}, shape.leaf}, before, sizeof(float));
    check_elements(BufferName{{name_of(stream), true}, shape.leaf}, after, sizeof(float));
    scales.in[i] = static_cast<const float*>(before.untyped_data());
    scales.out[i] = static_cast<float*>(after.untyped_data());
  }
  return scales;
}

}  // namespace nadam_xla::ffi
