// Arrays of NumPy's as the CUDA kernels' emulation on the host takes them.
#pragma once

#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/update_call.h"

namespace nadam_xla {

template <typename T>
using Array = nanobind::ndarray<T, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

// The bytes of an array, and the name of its dtype; of remainders and codes those are integers.
using StoredArray = std::pair<Array<std::uint8_t>, std::string>;

inline Storage storage_of(const std::string& dtype) {
  if (dtype == "float32") return Storage::kF32;
  if (dtype == "float64") return Storage::kF64;
  if (dtype == "bfloat16") return Storage::kBF16;
  if (dtype == "float16") return Storage::kF16;
  if (dtype == "uint16") return Storage::kRemainder16;
  if (dtype == "uint8") return Storage::kRemainder8;
  if (dtype == "int8") return Storage::kBlock8Signed;
  throw std::invalid_argument("nothing is stored as " + dtype);
}

// The inputs that there are, in the streams' order, and then the outputs, which may be inputs.
using ArraysOfLeaf = std::pair<std::vector<StoredArray>, std::vector<StoredArray>>;

inline Leaf leaf_of(const ArraysOfLeaf& arrays, const StreamSet streams, const std::int64_t batch) {
  const auto& [in, out] = arrays;
  Leaf leaf{};
  for (int i = 0; i < kStreams; ++i) {
    const auto stream = static_cast<Stream>(i);
    const Stream present = streams.has(stream) ? stream : Stream::kGrads;
    const auto& [bytes, dtype] = in.at(streams.place(present));
    leaf.in[i] = bytes.data();
    leaf.stored[i] = stream == Stream::kNu && streams.has(Stream::kNuScales)
                         ? Storage::kBlock8Unsigned
                         : storage_of(dtype);
    if (stream == Stream::kGrads) {
      leaf.length = static_cast<std::int64_t>(bytes.size()) / size_of(leaf.stored[i]) / batch;
    }
  }
  for (int i = 0; i < kResults; ++i) {
    leaf.out[i] = out.at(streams.has_result(i) ? streams.place_of_result(i) : 0).first.data();
  }
  leaf.stored_first = storage_of(out.at(0).second);
  return leaf;
}

}  // namespace nadam_xla
