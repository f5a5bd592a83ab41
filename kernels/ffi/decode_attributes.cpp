#include "kernels/ffi/buffers.h"
#include "kernels/ffi/decode.h"

namespace nadam_xla::ffi {
namespace {

template <typename T>
T attribute(const xla::ffi::Dictionary& attributes, const char* const name,
            const char* const type) {
  const xla::ffi::ErrorOr<T> value = attributes.get<T>(name);
  if (!value.has_value()) refuse("the attribute ", name, " must be given, as ", type);
  return *value;
}

StreamSet streams_of(const xla::ffi::Dictionary& attributes) {
  return StreamSet(attribute<std::int64_t>(attributes, "streams", "an int64"));
}

std::int64_t first_row_of(const xla::ffi::Dictionary& attributes) {
  return attribute<std::int64_t>(attributes, "first_row", "an int64");
}

Rounding rounding_of(const xla::ffi::Dictionary& attributes) {
  const auto rounding = attribute<std::int64_t>(attributes, "rounding", "an int64");
  if (rounding != 0 && rounding != 1) {
    refuse("the attribute rounding is ", rounding, "; it must be 0 (nearest) or 1 (stochastic)");
  }
  return rounding == 0 ? Rounding::kNearest : Rounding::kStochastic;
}

}  // namespace

UpdateAttributes decode_attributes_v1(const xla::ffi::Dictionary& attributes) {
  if (attributes.size() != 1) {
    refuse("got ", attributes.size(), " attributes; there is returns_change");
  }
  return {RowLayout::kV1, StreamSet::with_params(),
          attribute<bool>(attributes, "returns_change", "a bool"), 0, Rounding::kNearest};
}

UpdateAttributes decode_attributes_entry(const xla::ffi::Dictionary& attributes) {
  if (attributes.size() != 1) refuse("got ", attributes.size(), " attributes; there is first_row");
  return {RowLayout::kV2, StreamSet::with_params(), false, first_row_of(attributes),
          Rounding::kNearest};
}

UpdateAttributes decode_attributes_v2(const xla::ffi::Dictionary& attributes) {
  const bool has_rounding = attributes.contains("rounding");
  if (attributes.size() != (has_rounding ? 4 : 3)) {
    refuse(
        "got ", attributes.size(),
        " attributes; there are returns_change, streams and first_row, and there may be rounding");
  }
  return {RowLayout::kV2, streams_of(attributes),
          attribute<bool>(attributes, "returns_change", "a bool"), first_row_of(attributes),
          has_rounding ? rounding_of(attributes) : Rounding::kNearest};
}

UpdateAttributes decode_attributes_rows(const xla::ffi::Dictionary& attributes) {
  if (attributes.size() != 3) {
    refuse("got ", attributes.size(), " attributes; there are streams, first_row and rounding");
  }
  return {RowLayout::kV2, streams_of(attributes), false, first_row_of(attributes),
          rounding_of(attributes)};
}

}  // namespace nadam_xla::ffi
