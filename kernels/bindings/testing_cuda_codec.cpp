#include "kernels/bindings/testing_cuda_codec.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <cstdint>
#include <optional>
#include <stdexcept>

#include "kernels/cuda/codec.h"
#include "kernels/storage.h"

namespace nb = nanobind;

namespace nadam_xla {
namespace {

using cuda::kGroup;

template <typename T>
using Array = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename T>
using Group = cuda::Numbers<T, kGroup>;

using Rounder = cuda::Rounder<kGroup>;

// Calls update(first) for each group. All arrays have so many elements.
template <typename Update, typename... Arrays>
void each_group(const Update& update, const std::size_t elements, const Arrays&... arrays) {
  if (elements % kGroup != 0 || ((arrays.size() != elements) || ...)) {
    throw std::invalid_argument("the arrays must have the same number of whole groups");
  }
  for (std::size_t i = 0; i < elements; i += kGroup) update(static_cast<std::int64_t>(i));
}

template <typename T>
Group<T> group_at(const T* const numbers, const std::int64_t i) {
  Group<T> group;
  for (int k = 0; k < kGroup; ++k) group.at[k] = numbers[i + k];
  return group;
}

// Those of the draws, or to the nearest where there are none.
Rounder rounder_at(const std::uint16_t* const draws, const std::int64_t i) {
  if (draws == nullptr) return cuda::to_nearest<kGroup>();
  Rounder rounder{Rounding::kStochastic, {}};
  __builtin_memcpy(rounder.draws.words, draws + i, sizeof(rounder.draws.words));
  return rounder;
}

// Encodes numbers as bfloat16 or float16.
template <typename T, Storage kStorage, bool kDrawn>
void encode_as(const Array<T>& numbers, const std::uint16_t* const draws,
               const Array<std::uint16_t>& to) {
  const T* const from = numbers.data();
  std::uint16_t* const out = to.data();
  each_group(
      [=](const std::int64_t i) {
        const Rounder rounder = rounder_at(kDrawn ? draws : nullptr, i);
        cuda::store_encoded(group_at(from, i), kStorage, rounder, out, i);
      },
      numbers.size(), to);
}

template <typename T, Storage kStorage>
void encode(const Array<T>& numbers, const Array<std::uint16_t>& to,
            const std::optional<Array<std::uint16_t>>& draws) {
  if (!draws) return encode_as<T, kStorage, false>(numbers, nullptr, to);
  if (draws->size() != numbers.size()) throw std::invalid_argument("a draw for each number");
  encode_as<T, kStorage, true>(numbers, draws->data(), to);
}

// Encodes numbers as bfloat16 and what completes them.
void encode_with_remainder(const Array<float>& numbers, const Array<std::uint16_t>& to,
                           const Array<std::uint16_t>& remainders) {
  const float* const from = numbers.data();
  std::uint16_t *const out = to.data(), *const beside = remainders.data();
  each_group(
      [=](const std::int64_t i) {
        cuda::store_words(out, i, cuda::store_remainders<16>(group_at(from, i), beside, i));
      },
      numbers.size(), to, remainders);
}

// The same with the first 8 bits of it.
void encode_with_correction(const Array<float>& numbers, const Array<std::uint16_t>& to,
                            const Array<std::uint8_t>& corrections,
                            const std::optional<Array<std::uint16_t>>& draws) {
  const float* const from = numbers.data();
  std::uint16_t* const out = to.data();
  std::uint8_t* const beside = corrections.data();
  const std::uint16_t* const drawn = draws ? draws->data() : nullptr;
  if (draws && draws->size() != numbers.size()) throw std::invalid_argument("a draw for each");
  each_group(
      [=](const std::int64_t i) {
        const auto rounded = cuda::rounded_to_24_bits(group_at(from, i), rounder_at(drawn, i));
        cuda::store_words(out, i, cuda::store_remainders<8>(rounded, beside, i));
      },
      numbers.size(), to, corrections);
}

template <Storage kStorage>
void decode(const Array<std::uint16_t>& numbers, const Array<float>& to) {
  const std::uint16_t* const from = numbers.data();
  float* const out = to.data();
  each_group(
      [=](const std::int64_t i) {
        const auto loaded = cuda::load_stored<float, kGroup>(kStorage, from, i);
        const auto decoded = cuda::decoded(kStorage, loaded);
        for (int k = 0; k < kGroup; ++k) out[i + k] = decoded.at[k];
      },
      numbers.size(), to);
}

// Decodes bfloat16 and what completes them.
template <Storage kStorage, typename Remainder>
void decode_joined(const Array<std::uint16_t>& numbers, const Array<Remainder>& remainders,
                   const Array<float>& to) {
  const std::uint16_t* const from = numbers.data();
  const Remainder* const beside = remainders.data();
  float* const out = to.data();
  each_group(
      [=](const std::int64_t i) {
        using Loaded = cuda::Loaded<float, kGroup>;
        Loaded loaded{};
        cuda::put(loaded, cuda::load_words<kGroup, 2>(from, i));
        cuda::put<Loaded::kRemainder>(loaded,
                                      cuda::load_words<kGroup, sizeof(Remainder)>(beside, i));
        const auto decoded = cuda::decoded(kStorage, loaded);
        for (int k = 0; k < kGroup; ++k) out[i + k] = decoded.at[k];
      },
      numbers.size(), remainders, to);
}

template <typename T>
void define_encoders(nb::module_& m) {
  m.def("bfloat16_as_on_gpu", &encode<T, Storage::kBF16>, nb::arg("numbers"), nb::arg("to"),
        nb::arg("draws") = nb::none());
  m.def("float16_as_on_gpu", &encode<T, Storage::kF16>, nb::arg("numbers"), nb::arg("to"),
        nb::arg("draws") = nb::none());
}

}  // namespace

void define_cuda_codec(nb::module_& m) {
  define_encoders<float>(m);
  define_encoders<double>(m);
  m.def("remainder_as_on_gpu", &encode_with_remainder, nb::arg("numbers"), nb::arg("to"),
        nb::arg("remainders"));
  m.def("correction_as_on_gpu", &encode_with_correction, nb::arg("numbers"), nb::arg("to"),
        nb::arg("corrections"), nb::arg("draws") = nb::none());
  m.def("from_bfloat16_as_on_gpu", &decode<Storage::kBF16>, nb::arg("numbers"), nb::arg("to"));
  m.def("from_float16_as_on_gpu", &decode<Storage::kF16>, nb::arg("numbers"), nb::arg("to"));
  m.def("joined_as_on_gpu", &decode_joined<Storage::kRemainder16, std::uint16_t>,
        nb::arg("numbers"), nb::arg("remainders"), nb::arg("to"));
  m.def("joined_as_on_gpu", &decode_joined<Storage::kRemainder8, std::uint8_t>, nb::arg("numbers"),
        nb::arg("remainders"), nb::arg("to"));
}

}  // namespace nadam_xla
