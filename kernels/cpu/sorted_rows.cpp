#include <algorithm>
#include <array>
#include <utility>

#include "kernels/cpu/rows.h"

namespace nadam_xla::cpu {
namespace {

// Of so many numbers; zero where there is but one.
int bits_for(const std::int64_t numbers) {
  int bits = 0;
  while (bits < 32 && std::int64_t{1} << bits < numbers) ++bits;
  return bits;
}

// A digit of the rows' numbers.
struct Digit {
  int shift, bits;

  std::size_t of(const RowPlace place) const {
    return static_cast<std::size_t>(place.row() >> shift & ((std::int64_t{1} << bits) - 1));
  }
};

// As many of the lowest digits as there are numbers to count, so that few rows do not pay for many
// counters.
constexpr int kFewestBits = 6, kMostBits = 11;

using Counters = std::array<std::int64_t, std::size_t{1} << kMostBits>;

// Moves the places into the order of one digit; equal ones keep theirs.
void sort_by(const Digit digit, const RowPlace* const from, RowPlace* const to,
             const std::int64_t count, Counters& counters) {
  const auto end = counters.begin() + (std::ptrdiff_t{1} << digit.bits);
  std::fill(counters.begin(), end, 0);
  for (std::int64_t i = 0; i < count; ++i) ++counters[digit.of(from[i])];
  std::int64_t before = 0;
  for (auto counter = counters.begin(); counter != end; ++counter) {
    before += std::exchange(*counter, before);
  }
  for (std::int64_t i = 0; i < count; ++i) to[counters[digit.of(from[i])]++] = from[i];
}

}  // namespace

SortedRows sorted_rows(const RowNumbers& numbers, const std::int64_t entry,
                       const std::int64_t height) {
  auto* from = static_cast<RowPlace*>(numbers.workspace);
  auto* to = from + numbers.count;
  std::int64_t count = 0, largest = 0;
  bool is_sorted = true;
  for (std::int64_t place = 0; place < numbers.count; ++place) {
    const std::int64_t row = numbers.at(entry * numbers.count + place);
    if (row < 0 || row >= height) continue;
    is_sorted = is_sorted && row >= largest;
    largest = std::max(largest, row);
    from[count++] = RowPlace(row, place);
  }
  const int bits = is_sorted ? 0 : bits_for(largest + 1);
  const int of_digit = std::clamp(bits_for(count), kFewestBits, kMostBits);
  const int digits = (bits + of_digit - 1) / of_digit;
  Counters counters;
  for (int i = 0; i < digits; ++i) {
    // Digits of about the same size.
    const int begin = i * bits / digits, end = (i + 1) * bits / digits;
    sort_by({begin, end - begin}, from, to, count, counters);
    std::swap(from, to);
  }
  return {from, count};
}

}  // namespace nadam_xla::cpu
