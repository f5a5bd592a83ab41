// The update rule for test_update_rule.py: a library of plain functions that has none of the loops.

#include "kernels/update_rule.h"

#include <cstdint>

namespace nadam_xla {
namespace {

RowFormat format_of(const int version, const int length) {
  return {version == 1 ? RowLayout::kV1 : RowLayout::kV2, length};
}

template <Terms kTerms, Averaging kAveraging, typename T>
void update_all(const Row<T>& row, const std::int64_t count, const T* const* const in,
                T* const* const out) {
  for (std::int64_t i = 0; i < count; ++i) {
    Element<T, kAveraging> of;
    for (int stream = 0; stream < rule_streams(kAveraging); ++stream) of.of[stream] = in[stream][i];
    const Updated<T, kAveraging> updated = update_rule<kTerms>(row, of);
    out[0][i] = updated.params;
    out[1][i] = updated.change;
    for (int state = 0; state < rule_states(kAveraging); ++state) {
      out[2 + state][i] = updated.states[state];
    }
  }
}

template <Averaging kAveraging, typename T>
void update_with(const Terms terms, const Row<T>& row, const std::int64_t count,
                 const T* const* const in, T* const* const out) {
  switch (terms) {
    case Terms::kPlain:
      return update_all<Terms::kPlain, kAveraging>(row, count, in, out);
    case Terms::kNone:
      return update_all<Terms::kNone, kAveraging>(row, count, in, out);
    case Terms::kDecay:
      return update_all<Terms::kDecay, kAveraging>(row, count, in, out);
    case Terms::kDecayAndClamp:
      return update_all<Terms::kDecayAndClamp, kAveraging>(row, count, in, out);
  }
}

// The fewest terms with which a loop may run the row.
template <typename T>
Terms fewest_terms(const Row<T>& row) {
  const Terms terms = terms_of(row);
  return terms == Terms::kNone && is_plain(row) ? Terms::kPlain : terms;
}

// Returns the fewest terms, or where `terms` are fewer, -1, and then computes nothing.
template <typename T>
int update(const T* const coefficients, const int version, const int length,
           const std::int64_t streams, const int terms, const std::int64_t count,
           const T* const* const in, T* const* const out) {
  const StreamSet set(streams);
  const Row<T> row = read_row(coefficients, format_of(version, length), set);
  const Terms fewest = fewest_terms(row);
  const auto given = terms < 0 ? fewest : static_cast<Terms>(terms);
  if (given < fewest) return -1;
  if (set.has(Stream::kAverage)) {
    update_with<Averaging::kOn>(given, row, count, in, out);
  } else {
    update_with<Averaging::kOff>(given, row, count, in, out);
  }
  return static_cast<int>(fewest);
}

template <typename T>
bool skips(const T* const coefficients, const int version, const int length) {
  return read_row(coefficients, format_of(version, length), StreamSet::with_params()).skip;
}

template <typename T>
void key(const T* const coefficients, std::uint32_t* const words) {
  const RandomKey key = read_key(coefficients);
  words[0] = key.seed;
  words[1] = key.step;
  words[2] = key.leaf;
  words[3] = key.shard;
}

}  // namespace
}  // namespace nadam_xla

extern "C" {

const char* row_field(const int place) {
  return place < nadam_xla::kRowLength ? nadam_xla::kRowFields[place] : nullptr;
}

int shortest_row(const int version) {
  return nadam_xla::RowFormat::shortest(nadam_xla::format_of(version, 0).layout);
}
int longest_row(const int version) {
  return nadam_xla::RowFormat::longest(nadam_xla::format_of(version, 0).layout);
}
int shortest_row_with_key() { return nadam_xla::RowFormat::shortest_with_key(); }
int shortest_row_with_average() { return nadam_xla::RowFormat::shortest_with_average(); }

float no_change_f32() { return nadam_xla::kNoChange<float>; }
double no_change_f64() { return nadam_xla::kNoChange<double>; }

#define NADAM_XLA_DEFINE(T, name)                                                           \
  int update_##name(const T* row, int version, int length, std::int64_t streams, int terms, \
                    std::int64_t count, const T* const* in, T* const* out) {                \
    return nadam_xla::update(row, version, length, streams, terms, count, in, out);         \
  }                                                                                         \
  bool skips_##name(const T* row, int version, int length) {                                \
    return nadam_xla::skips(row, version, length);                                          \
  }                                                                                         \
  void key_##name(const T* row, std::uint32_t* words) { nadam_xla::key(row, words); }

NADAM_XLA_DEFINE(float, f32)
NADAM_XLA_DEFINE(double, f64)
}
