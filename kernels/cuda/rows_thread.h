// What a thread does of an update of some rows of a table. No thread waits for another, so that
// tests can run all of them on the host, one after the other.
//
// A row that occurs more than once has as many ranks, one after the other: the first one's threads
// add up the gradients of all of them, and the threads of the others have nothing to do.
#pragma once

#include <cstdint>

#include "kernels/cuda/codec.h"
#include "kernels/cuda/rows_launch.h"
#include "kernels/cuda/update_stored.h"

namespace nadam_xla::cuda {

// Of a row that occurs often, how many gradients are loaded before the first of them is added.
// More would take registers from all other threads.
template <typename T, int kCount>
inline constexpr int kInFlight = kCount == kGroup ? kWidest<T> : 8;

inline constexpr std::int64_t kNone = -1;

// The ranks of a batch entry. What an order says that is none is no place: nothing outside of the
// arrays is ever read.
struct Ranks {
  const RowNumbers& numbers;
  std::int64_t first;  // the place of the batch entry's first number

  // The place in all batch entries.
  NADAM_XLA_INLINE std::int64_t place_of(const std::int64_t rank) const {
    if (rank < 0 || rank >= numbers.count) return kNone;
    const std::int64_t place = numbers.order[first + rank];
    return 0 <= place && place < numbers.count ? first + place : kNone;
  }

  NADAM_XLA_INLINE std::int64_t number_at(const std::int64_t place) const {
    return place == kNone ? kNone : numbers.at(place);
  }
};

// Elements of one row of the table. Its gradients are those of its first rank.
template <typename T>
struct RowStretch : StoredStretch<T> {
  Ranks ranks;
  std::int64_t rank;     // the first one of the row
  std::int64_t number;   // of the row
  std::int64_t columns;  // the elements of a row
  std::int64_t column;   // of the first element
  bool occurs_again;     // whether it has other ranks
};

// Adds the gradients of the row's other ranks, in their order.
template <int kCount, typename T>
NADAM_XLA_INLINE void add_others(const RowStretch<T>& s, Numbers<T, kCount>& sum) {
  const Storage storage = s.leaf.storage(Stream::kGrads);
  constexpr int kRanks = kInFlight<T, kCount>;
  NADAM_XLA_NO_UNROLL
  for (std::int64_t rank = s.rank + 1;; rank += kRanks) {
    std::int64_t places[kRanks], numbers[kRanks];
    NADAM_XLA_UNROLL
    for (int k = 0; k < kRanks; ++k) places[k] = s.ranks.place_of(rank + k);
    NADAM_XLA_UNROLL
    for (int k = 0; k < kRanks; ++k) numbers[k] = s.ranks.number_at(places[k]);
    // Where there were so many, there are likely more: those need not wait for their numbers.
    const bool are_likely = rank != s.rank + 1;
    Loaded<T, kCount> loaded[kRanks] = {};
    NADAM_XLA_UNROLL
    for (int k = 0; k < kRanks; ++k) {
      if (are_likely ? places[k] == kNone : numbers[k] != s.number) continue;
      const std::int64_t first = places[k] * s.columns + s.column;
      loaded[k] = load_stored<T, kCount>(storage, s.in(Stream::kGrads), first);
    }
    NADAM_XLA_UNROLL
    for (int k = 0; k < kRanks; ++k) {
      if (numbers[k] != s.number) return;
      const Numbers<T, kCount> other = decoded<T, kCount>(storage, loaded[k]);
      NADAM_XLA_UNROLL
      for (int element = 0; element < kCount; ++element) sum.at[element] += other.at[element];
    }
  }
}

// What update_stored.h calls: the gradients are the sum of all that the row has.
template <int kCount, typename T>
NADAM_XLA_INLINE Numbers<T, kCount> decoded_stream(const RowStretch<T>& s, const Stream stream,
                                                   const Loaded<T, kCount>& loaded) {
  Numbers<T, kCount> numbers = decoded<T, kCount>(s.leaf.storage(stream), loaded);
  if (stream == Stream::kGrads && s.occurs_again) add_others(s, numbers);
  return numbers;
}

template <int kCount, typename T>
NADAM_XLA_INLINE void update_item(const RowsLaunch<T>& launch, const std::int64_t item) {
  if (item >= launch.end) return;
  const std::int64_t rank_of_call = item / launch.items_of_row;
  const std::int64_t column = (item - rank_of_call * launch.items_of_row) * kCount;
  const std::int64_t entry = rank_of_call / launch.numbers.count;
  const Ranks ranks{launch.numbers, entry * launch.numbers.count};
  const std::int64_t rank = rank_of_call - ranks.first;
  const std::int64_t place = ranks.place_of(rank);
  const std::int64_t before = ranks.place_of(rank - 1), behind = ranks.place_of(rank + 1);
  const std::int64_t number = ranks.number_at(place);
  const bool is_first = number != ranks.number_at(before);
  const bool occurs_again = number == ranks.number_at(behind);
  if (number < 0 || number >= launch.height || !is_first) return;

  const T* const coefficients = launch.coefficients + entry * launch.stride;
  const Row<T> row = read_row(coefficients, launch.format, launch.streams);
  if (row.skip) return;
  const bool is_drawn = launch.rounding == Rounding::kStochastic;
  const std::int64_t in_entry = number * launch.columns + column;
  const RowStretch<T> s{{launch.leaf, launch.streams, launch.rounding, in_entry,
                         place * launch.columns + column, entry * launch.leaf.length + in_entry,
                         kCount, row, is_drawn ? read_key(coefficients) : RandomKey{}},
                        ranks,
                        rank,
                        number,
                        launch.columns,
                        column,
                        occurs_again};
  const auto group = updated_group<Averaging::kOff, kCount>(s, 0);
  const auto first = store_params<Returns::kParams>(s, 0, group);
  store_results<Returns::kParams>(s, 0, group.states[0], group.states[1], first);
}

}  // namespace nadam_xla::cuda
