// What the calls of the update have in common: which streams there are, and the table of
// coefficients.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/ffi/buffers.h"
#include "kernels/ffi/decode.h"
#include "kernels/update_call.h"
#include "kernels/update_rule.h"

namespace nadam_xla::ffi {

inline std::string names_of(const StreamSet streams) {
  std::string names;
  for (int i = 0; i < kAllStreams; ++i) {
    const auto stream = static_cast<Stream>(i);
    if (streams.has(stream)) names += (names.empty() ? "" : ", ") + std::string(name_of(stream));
  }
  return names;
}

inline std::string names_of_results(const StreamSet streams) {
  std::string names;
  for (int i = 0; i < kAllResults; ++i) {
    if (!streams.has_result(i)) continue;
    names += (i == 0 ? "" : ", ") + std::string(name_of(stream_of_result(i)));
  }
  return names;
}

inline void check_streams(const UpdateAttributes& attributes) {
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

inline Table check_table(const AnyBuffer& coefficients, const UpdateAttributes& attributes,
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

// The call without its n leaves, whose buffers have been counted.
template <typename T>
UpdateCall<T> decode_table(const UpdateAttributes& attributes, const AnyBuffer& coefficients,
                           const std::size_t n) {
  if (attributes.streams.has_scales() && kStorageOf<T> == Storage::kF64) {
    refuse("coefficients is F64; where moments have scales it must be F32");
  }
  check_elements("coefficients", coefficients, sizeof(T));
  const Table table = check_table(coefficients, attributes, n);
  UpdateCall<T> call;
  call.coefficients = static_cast<const T*>(coefficients.untyped_data());
  call.format = table.format;
  call.batch = table.batch;
  call.rows = table.rows;
  call.first_row = attributes.first_row;
  call.returns = attributes.returns_change ? Returns::kChange : Returns::kParams;
  call.streams = attributes.streams;
  call.rounding = attributes.rounding;
  call.leaves.reserve(n);
  return call;
}

}  // namespace nadam_xla::ffi
