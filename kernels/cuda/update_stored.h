// What a thread does with leaves that are stored in any way. No thread waits for another, so that
// tests can run all of them on the host, one after the other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/codec.h"
#include "kernels/cuda/update_launch.h"

namespace nadam_xla::cuda {

// A part of one batch entry of a leaf, and all that its update needs to know.
template <typename T>
struct StoredStretch {
  using Number = T;

  const Leaf& leaf;
  StreamSet streams;
  Rounding rounding;
  std::int64_t in_entry;   // the number of its first element in the batch entry
  std::int64_t in_leaf;    // and in the gradients
  std::int64_t in_stacks;  // and in the streams that have results
  std::int32_t length;
  Row<T> row;
  RandomKey key;  // where the rounding is stochastic

  NADAM_XLA_INLINE bool has_master() const { return streams.has(Stream::kMaster); }

  // The storage of what the rule takes as the parameters.
  NADAM_XLA_INLINE Storage of_params() const {
    return leaf.storage(has_master() ? Stream::kMaster : Stream::kParams);
  }

  NADAM_XLA_INLINE bool has_remainder() const {
    return of_params() == Storage::kRemainder16 || of_params() == Storage::kRemainder8;
  }

  // Whether a change is that of the parameters as they are stored, where those are not just the
  // nearest to what the rule says: added to them, it gives what the master or the random number
  // says.
  NADAM_XLA_INLINE bool changes_as_stored() const {
    const bool is_drawn =
        rounding == Rounding::kStochastic && size_of(leaf.storage(Stream::kParams)) == 2;
    return streams.has(Stream::kParams) && (has_master() || is_drawn);
  }

  NADAM_XLA_INLINE const void* in(const Stream stream) const {
    return leaf.in[static_cast<int>(stream)];
  }
};

template <int kCount, typename T>
NADAM_XLA_INLINE Loaded<T, kCount> load_stream(const StoredStretch<T>& s, const Stream stream,
                                               const std::int32_t i) {
  const std::int64_t first = stream == Stream::kGrads ? s.in_leaf : s.in_stacks;
  return load_stored<T, kCount>(s.leaf.storage(stream), s.in(stream), first + i);
}

template <int kCount, typename T>
NADAM_XLA_INLINE Numbers<T, kCount> decoded_stream(const StoredStretch<T>& s, const Stream stream,
                                                   const Loaded<T, kCount>& loaded) {
  return decoded<T, kCount>(s.leaf.storage(stream), loaded);
}

// As the master has them, where there is one. Parameters that are not there are zero.
template <int kCount, typename T>
NADAM_XLA_INLINE Loaded<T, kCount> load_params(const StoredStretch<T>& s, const std::int32_t i) {
  if (!s.streams.has(Stream::kParams)) return {};
  if (!s.has_remainder()) {
    return load_stream<kCount>(s, s.has_master() ? Stream::kMaster : Stream::kParams, i);
  }
  constexpr int kRemainder = Loaded<T, kCount>::kRemainder;
  const std::int64_t at = s.in_stacks + i;
  Loaded<T, kCount> loaded{};
  put(loaded, load_words<kCount, 2>(s.in(Stream::kParams), at));
  if (s.of_params() == Storage::kRemainder16) {
    put<kRemainder>(loaded, load_words<kCount, 2>(s.in(Stream::kMaster), at));
  } else {
    put<kRemainder>(loaded, load_words<kCount, 1>(s.in(Stream::kMaster), at));
  }
  return loaded;
}

// How the numbers are rounded that these draws are for.
template <int kCount, typename T>
NADAM_XLA_INLINE Rounder<kCount> rounder_of(const StoredStretch<T>& s, const std::int32_t i,
                                            const Draw what) {
  if (s.rounding == Rounding::kNearest) return to_nearest<kCount>();
  return {s.rounding, draws_of<kCount>(s.key, s.in_entry + i, what)};
}

// Stores the remainders of new parameters; returns their bfloat16.
template <typename OneStretch, typename T, int kCount>
NADAM_XLA_INLINE Words<kCount, 2> divide(const OneStretch& s, const std::int32_t i,
                                         const Numbers<T, kCount>& params) {
  void* const master = s.leaf.out[kResults - 1];
  const std::int64_t at = s.in_stacks + i;
  if (s.of_params() == Storage::kRemainder16) return store_remainders<16>(params, master, at);
  const Rounder<kCount> rounder = rounder_of<kCount>(s, i, Draw::kOfParams);
  return store_remainders<8>(rounded_to_24_bits(params, rounder), master, at);
}

// A master that is a full copy.
template <typename OneStretch, typename T, int kCount>
NADAM_XLA_INLINE void store_copy(const OneStretch& s, const std::int32_t i,
                                 const Numbers<T, kCount>& params) {
  store_encoded(params, s.of_params(), to_nearest<kCount>(), s.leaf.out[kResults - 1],
                s.in_stacks + i);
}

// Stores the master of the new parameters, where there is one; returns their change as stored.
template <typename OneStretch, typename T, int kCount>
NADAM_XLA_INLINE Numbers<T, kCount> change_as_stored(const OneStretch& s, const std::int32_t i,
                                                     const Numbers<T, kCount>& params) {
  const Storage stored = s.leaf.storage(Stream::kParams);
  const auto before = load_words<kCount, 2>(s.in(Stream::kParams), s.in_stacks + i);
  Words<kCount, 2> after;
  if (s.has_remainder()) {
    after = divide(s, i, params);
  } else if (s.has_master()) {
    store_copy(s, i, params);
    after = encoded_narrow(params, stored, to_nearest<kCount>());
  } else {
    after = encoded_narrow(params, stored, rounder_of<kCount>(s, i, Draw::kOfParams));
  }
  const auto from = decoded_narrow<T, kCount>(stored, before.at);
  const auto to = decoded_narrow<T, kCount>(stored, after.at);
  return each<T, kCount>([&](const int k) { return to.at[k] - from.at[k]; });
}

template <int kCount, typename T>
NADAM_XLA_INLINE Rounder<kCount> rounder_of_moments(const StoredStretch<T>& s,
                                                    const std::int32_t i) {
  return rounder_of<kCount>(s, i, Draw::kOfMoments);
}

template <typename T, int kCount>
NADAM_XLA_INLINE void store_result(const StoredStretch<T>& s, const std::int32_t i,
                                   const int result, const Numbers<T, kCount>& numbers,
                                   const Rounder<kCount>& rounder) {
  store_encoded(numbers, s.leaf.storage_of_result(result), rounder, s.leaf.out[result],
                s.in_stacks + i);
}

// Encodes and stores the moments, and behind them the first result, if it is not yet stored.
template <Returns kReturns, typename OneStretch, typename T, int kCount>
NADAM_XLA_INLINE void store_results(const OneStretch& s, const std::int32_t i,
                                    const Numbers<T, kCount>& mu, const Numbers<T, kCount>& nu,
                                    const Numbers<T, kCount>& first) {
  const bool has_first = kReturns == Returns::kChange || !s.has_remainder();
  Numbers<T, kCount> numbers = mu;
  Rounder<kCount> rounder = rounder_of_moments<kCount>(s, i);
  // Not unrolled, so that there is one encoder of each kind and not three.
  NADAM_XLA_NO_UNROLL
  for (int which = 0; which < kMoments + has_first; ++which) {
    const bool is_first = which == kMoments;
    const int result = is_first ? 0 : 1 + which;
    if (is_first) {
      numbers = first;
      rounder = kReturns == Returns::kChange || s.has_master()
                    ? to_nearest<kCount>()
                    : rounder_of<kCount>(s, i, Draw::kOfParams);
    }
    store_result(s, i, result, numbers, rounder);
    numbers = nu;
    rounder.draws = with_swapped_bytes(rounder.draws);
  }
}

// What a few elements become.
template <typename T, Averaging kAveraging, int kCount>
struct Group {
  Numbers<T, kCount> params, change, states[rule_states(kAveraging)];
};

// Loads kCount elements, the first of which is element `i` of the stretch, and updates them.
template <Averaging kAveraging, int kCount, typename OneStretch>
NADAM_XLA_INLINE auto updated_group(const OneStretch& s, const std::int32_t i) {
  using T = typename OneStretch::Number;
  constexpr int kIn = rule_streams(kAveraging);
  // All loads come before the first use: what is in flight together hides the memory's latency.
  Loaded<T, kCount> loaded[kIn];
  loaded[0] = load_params<kCount>(s, i);
  NADAM_XLA_UNROLL
  for (int stream = 1; stream < kIn; ++stream) {
    loaded[stream] = load_stream<kCount>(s, static_cast<Stream>(stream), i);
  }

  Numbers<T, kCount> numbers[kIn];
  numbers[0] = decoded<T, kCount>(s.of_params(), loaded[0]);
  NADAM_XLA_UNROLL
  for (int stream = 1; stream < kIn; ++stream) {
    numbers[stream] = decoded_stream(s, static_cast<Stream>(stream), loaded[stream]);
  }

  Group<T, kAveraging, kCount> to;
  NADAM_XLA_UNROLL
  for (int k = 0; k < kCount; ++k) {
    Element<T, kAveraging> element;
    NADAM_XLA_UNROLL
    for (int stream = 0; stream < kIn; ++stream) element.of[stream] = numbers[stream].at[k];
    const Updated<T, kAveraging> updated = update_rule(s.row, element);
    to.params.at[k] = updated.params;
    to.change.at[k] = updated.change;
    NADAM_XLA_UNROLL
    for (int state = 0; state < rule_states(kAveraging); ++state) {
      to.states[state].at[k] = updated.states[state];
    }
  }
  return to;
}

// Stores all but the moments and the first result, and returns that; what has remainders is stored
// with them.
template <Returns kReturns, typename OneStretch, typename T, Averaging kAveraging, int kCount>
NADAM_XLA_INLINE Numbers<T, kCount> store_params(const OneStretch& s, const std::int32_t i,
                                                 const Group<T, kAveraging, kCount>& group) {
  if constexpr (kAveraging == Averaging::kOn) {
    store_encoded(group.states[2], s.leaf.storage(Stream::kAverage), to_nearest<kCount>(),
                  s.leaf.out[kRuleResults - 1], s.in_stacks + i);
  }
  if constexpr (kReturns == Returns::kChange) {
    return s.changes_as_stored() ? change_as_stored(s, i, group.params) : group.change;
  } else {
    if (s.has_remainder()) {
      store_words(s.leaf.out[0], s.in_stacks + i, divide(s, i, group.params));
    } else if (s.has_master()) {
      store_copy(s, i, group.params);
    }
    return group.params;
  }
}

template <Returns kReturns, Averaging kAveraging, int kCount, typename T>
NADAM_XLA_INLINE void update_group(const StoredStretch<T>& s, const std::int32_t i) {
  const auto group = updated_group<kAveraging, kCount>(s, i);
  const auto first = store_params<kReturns>(s, i, group);
  store_results<kReturns>(s, i, group.states[0], group.states[1], first);
}

template <int kBytes>
NADAM_XLA_INLINE void copy(const void* const from, void* const to, const std::int64_t first,
                           const std::int32_t length, const std::int32_t lane) {
  NADAM_XLA_NO_UNROLL
  for (std::int32_t i = lane; i < length; i += kWarp) {
    store_words(to, first + i, load_words<1, kBytes>(from, first + i));
  }
}

template <Returns kReturns, typename T>
NADAM_XLA_INLINE void skip(const StoredStretch<T>& s, const std::int32_t lane) {
  NADAM_XLA_NO_UNROLL
  for (int result = kReturns == Returns::kChange; result < kResults; ++result) {
    if (!s.streams.has_result(result)) continue;
    const void* const from = s.in(stream_of_result(result));
    void* const to = s.leaf.out[result];
    if (to == from) continue;
    switch (size_of(s.leaf.storage_of_result(result))) {
      case 8:
        copy<8>(from, to, s.in_stacks, s.length, lane);
        break;
      case 4:
        copy<4>(from, to, s.in_stacks, s.length, lane);
        break;
      case 2:
        copy<2>(from, to, s.in_stacks, s.length, lane);
        break;
      default:
        copy<1>(from, to, s.in_stacks, s.length, lane);
    }
  }
  if constexpr (kReturns == Returns::kChange) {
    NADAM_XLA_NO_UNROLL
    for (std::int32_t i = lane; i < s.length; i += kWarp) {
      store_encoded(Numbers<T, 1>{{kNoChange<T>}}, s.leaf.stored_first, to_nearest<1>(),
                    s.leaf.out[0], s.in_stacks + i);
    }
  }
}

// How many elements of an array, from its element `i` on, stand before the next one from which a
// group can be loaded.
NADAM_XLA_INLINE std::int32_t before_boundary(const Storage storage, const void* const array,
                                              const std::int64_t i) {
  const std::int32_t size = size_of(storage);
  const std::int32_t pack = size == 1 ? kGroup : 16;
  const auto address =
      static_cast<std::int32_t>(reinterpret_cast<std::uintptr_t>(array) + i * size);
  const std::int32_t bytes = -address & (pack - 1);
  return size == 8 ? bytes / 8 : size == 4 ? bytes / 4 : size == 2 ? bytes / 2 : bytes;
}

// The most of them that any of the stretch's arrays has, from its element `i` on.
template <typename T>
NADAM_XLA_INLINE std::int32_t before_boundaries(const StoredStretch<T>& s, const std::int32_t i) {
  std::int32_t most = 0;
  const auto look_at = [&](const Storage storage, const void* const array,
                           const std::int64_t first) {
    const std::int32_t before = before_boundary(storage, array, first + i);
    most = before > most ? before : most;
  };
  NADAM_XLA_NO_UNROLL
  for (int number = 0; number < kStreams; ++number) {
    const auto stream = static_cast<Stream>(number);
    if (s.streams.has(stream)) {
      look_at(s.leaf.storage(stream), s.in(stream),
              stream == Stream::kGrads ? s.in_leaf : s.in_stacks);
    }
  }
  NADAM_XLA_NO_UNROLL
  for (int result = 0; result < kResults; ++result) {
    if (s.streams.has_result(result)) {
      look_at(s.leaf.storage_of_result(result), s.leaf.out[result], s.in_stacks);
    }
  }
  return most;
}

inline constexpr std::int32_t kNoGroups = 0x7fffffff;

// How many single elements stand before the groups of a stretch, or kNoGroups.
template <typename T>
NADAM_XLA_INLINE std::int32_t head_of(const StoredStretch<T>& s) {
  const std::int32_t head = before_boundaries(s, 0);
  return head == 0 || before_boundaries(s, head) == 0 ? head : kNoGroups;
}

// Single elements, groups, single elements.
NADAM_XLA_INLINE PackedParts parts_of(const std::int32_t head, const std::int32_t length) {
  if (head >= length) return {length, 0, 0};
  const std::int32_t groups = (length - head) / kGroup;
  return {head, groups, length - head - groups * kGroup};
}

// An entry's call returns parameters.
template <Returns kReturns, typename T, Averaging kAveraging, std::size_t kCapacity>
NADAM_XLA_INLINE StoredStretch<T> stretch_in(
    const UpdateLaunch<T, StoredLeaf<kAveraging>, kCapacity>& launch,
    const StoredLeaf<kAveraging>& leaf, const Stretch& stretch) {
  const T* const coefficients = coefficients_of(launch, leaf, stretch.entry);
  const std::int64_t in_leaf = stretch.entry * leaf.length() + stretch.begin;
  std::int64_t in_stacks = in_leaf;
  if constexpr (kReturns == Returns::kParams) in_stacks += offset_of(launch.entry, leaf.length());
  return {leaf.leaf,
          launch.streams,
          launch.rounding,
          stretch.begin,
          in_leaf,
          in_stacks,
          stretch.length,
          read_row(coefficients, launch.format, launch.streams),
          launch.rounding == Rounding::kStochastic ? read_key(coefficients) : RandomKey{}};
}

// A tile of one entry.
template <Returns kReturns, typename T, Averaging kAveraging, std::size_t kCapacity>
NADAM_XLA_INLINE void update_tile(const UpdateLaunch<T, StoredLeaf<kAveraging>, kCapacity>& launch,
                                  const StoredLeaf<kAveraging>& leaf, const std::int32_t tile,
                                  const std::int32_t lane) {
  constexpr std::int32_t kTile = StoredLeaf<kAveraging>::kTile;
  const StoredStretch<T> s =
      stretch_in<kReturns>(launch, leaf, stretch_of(tile, leaf.length(), kTile));
  if (s.row.skip) {
    skip<kReturns>(s, lane);
    return;
  }
  // The random numbers of a group are counted from the beginning of the batch entry, and so are
  // tiles: with an element before it, no group has its own.
  const std::int32_t head = head_of(s);
  const bool has_groups = head == 0 || s.rounding == Rounding::kNearest;
  const PackedParts parts = parts_of(has_groups ? head : kNoGroups, s.length);
  for (std::int32_t group = lane; group < parts.packs; group += kWarp) {
    update_group<kReturns, kAveraging, kGroup>(s, parts.head + group * kGroup);
  }
  const std::int32_t grouped = parts.packs * kGroup;
  for (std::int32_t i = lane; i < parts.head + parts.tail; i += kWarp) {
    update_group<kReturns, kAveraging, 1>(s, i < parts.head ? i : i + grouped);
  }
}

// A tile of several entries, each with a row of its own.
template <Returns kReturns, typename T, Averaging kAveraging, std::size_t kCapacity>
NADAM_XLA_INLINE void update_short_tile(
    const UpdateLaunch<T, StoredLeaf<kAveraging>, kCapacity>& launch,
    const StoredLeaf<kAveraging>& leaf, const std::int32_t tile, const std::int32_t lane) {
  const std::int64_t length = leaf.length();
  const std::int64_t begin = static_cast<std::int64_t>(tile) * kShortUpdateTile;
  const std::int64_t left = launch.batch * length - begin;
  const std::int64_t end = begin + (left < kShortUpdateTile ? left : kShortUpdateTile);
  for (std::int64_t i = begin + lane; i < end; i += kWarp) {
    const std::int64_t entry = i / length;
    const StoredStretch<T> s = stretch_in<kReturns>(launch, leaf, {entry, i - entry * length, 1});
    if (s.row.skip) {
      skip<kReturns>(s, 0);
    } else {
      update_group<kReturns, kAveraging, 1>(s, 0);
    }
  }
}

}  // namespace nadam_xla::cuda
