// What a warp does with leaves of which a moment is stored in codes: block by block, each thread
// with a group of its elements. A block's scales depend on all of them, so its lanes wait for one
// another; what they do in between is written for all lanes of a warp at once, so that tests can
// run a phase of each on the host, one after the other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/blockwise.h"
#include "kernels/cuda/codec.h"
#include "kernels/cuda/update_launch.h"
#include "kernels/cuda/update_stored.h"

namespace nadam_xla::cuda {

static_assert(kWarp * kGroup == blockwise::kBlock, "A block is a group for each lane of a warp.");
static_assert(kElementsOfBlock == blockwise::kBlock, "A block has the random numbers of one.");
static_assert(BlockwiseLeaf<Averaging::kOff>::kTile == 4,
              "The words of its blocks are drawn at once.");

inline constexpr std::int32_t kPairsOfGroup = kGroup / 2;

// A block of one batch entry of a leaf.
struct BlockStretch : StoredStretch<float> {
  const float* coefficients;  // of the row and the key
  RowFormat format;
  std::uint32_t of_block;    // the random word of the block, for codes,
  RandomWords of_places;     // and those of a lane's places: kPairsOfGroup * lane, and three more
  float factors[kMoments];   // by which codes become numbers, where a moment has any,
  float inverses[kMoments];  // and by which the new ones become codes

  NADAM_XLA_INLINE bool has_codes(const int moment) const {
    return is_codes(leaf.storage(state(moment)));
  }

  // Each is read where it is needed, and again behind what was stored: registers that kept them
  // over all phases of a block would be missed.
  NADAM_XLA_INLINE void read_row() { row = nadam_xla::read_row(coefficients, format, streams); }
  NADAM_XLA_INLINE void read_key() { key = nadam_xla::read_key(coefficients); }
};

template <typename Code, int kCount>
NADAM_XLA_INLINE Numbers<float, kCount> decoded_codes(const Loaded<float, kCount>& loaded,
                                                      const float factor) {
  return each<float, kCount>(
      [&](const int k) { return Code::decoded(element<1>(loaded.words, k) << 24, factor); });
}

// inverse: zero where there are no codes, for all numbers are zero or not all of them finite.
template <typename Code, int kCount>
NADAM_XLA_INLINE Words<kCount, 1> encoded_codes(const Numbers<float, kCount>& numbers,
                                                const float inverse, const Draws<kCount>& draws) {
  const std::uint32_t kept = inverse == 0 ? 0 : 0xff;
  return words_of_elements<kCount, 1>([&](const int k) {
    const std::uint32_t added = blockwise::added_by<Code>(draws.at(k));
    return Code::encoded(numbers.at[k], inverse, added) & kept;
  });
}

// ---- what update_stored.h calls, of streams that may be in codes ------------------------------

template <int kCount>
NADAM_XLA_INLINE Loaded<float, kCount> load_stream(const BlockStretch& s, const Stream stream,
                                                   const std::int32_t i) {
  const auto moment = static_cast<int>(stream) - static_cast<int>(state(0));
  if (0 <= moment && moment < kMoments && s.has_codes(moment)) {
    Loaded<float, kCount> loaded{};
    put(loaded, load_words<kCount, 1>(s.in(stream), s.in_stacks + i));
    return loaded;
  }
  const StoredStretch<float>& stored = s;
  return load_stream<kCount>(stored, stream, i);
}

template <int kCount>
NADAM_XLA_INLINE Numbers<float, kCount> decoded_stream(const BlockStretch& s, const Stream stream,
                                                       const Loaded<float, kCount>& loaded) {
  if (stream == Stream::kMu && s.has_codes(0)) {
    return decoded_codes<blockwise::Signed>(loaded, s.factors[0]);
  }
  if (stream == Stream::kNu && s.has_codes(1)) {
    return decoded_codes<blockwise::Unsigned>(loaded, s.factors[1]);
  }
  return decoded<float, kCount>(s.leaf.storage(stream), loaded);
}

// The numbers of eight elements, from number `shift` on, less than eight, of two groups.
NADAM_XLA_INLINE Draws<kGroup> shifted(std::uint32_t (&pairs)[kGroup], const std::int32_t shift) {
  NADAM_XLA_UNROLL
  for (int w = 0; w < 6; ++w) pairs[w] = shift & 4 ? pairs[w + 2] : pairs[w];
  NADAM_XLA_UNROLL
  for (int w = 0; w < 5; ++w) pairs[w] = shift & 2 ? pairs[w + 1] : pairs[w];
  Draws<kGroup> draws;
  NADAM_XLA_UNROLL
  for (int w = 0; w < kPairsOfGroup; ++w) {
    draws.words[w] = shift & 1 ? pairs[w] >> 16 | pairs[w + 1] << 16 : pairs[w];
  }
  return draws;
}

// Rows need not be whole groups, so that a group of theirs may be of two that random numbers have.
template <int kCount>
NADAM_XLA_INLINE Rounder<kCount> rounder_of(const BlockStretch& s, const std::int32_t i,
                                            const Draw what) {
  if (s.rounding == Rounding::kNearest) return to_nearest<kCount>();
  const std::int64_t first = s.in_entry + i;
  if constexpr (kCount == kGroup) {
    const auto shift = static_cast<std::int32_t>(first % kGroup);
    if (shift != 0) {
      const Draws<kGroup> own = draws_of<kGroup>(s.key, first - shift, what);
      const Draws<kGroup> next = draws_of<kGroup>(s.key, first - shift + kGroup, what);
      std::uint32_t pairs[kGroup];
      NADAM_XLA_UNROLL
      for (int w = 0; w < kPairsOfGroup; ++w) {
        pairs[w] = own.words[w];
        pairs[kPairsOfGroup + w] = next.words[w];
      }
      return {s.rounding, shifted(pairs, shift)};
    }
  }
  return {s.rounding, draws_of<kCount>(s.key, first, what)};
}

template <int kCount>
NADAM_XLA_INLINE Rounder<kCount> rounder_of_moments(const BlockStretch& s, const std::int32_t i) {
  if (s.has_codes(0) && s.has_codes(1)) return to_nearest<kCount>();
  return rounder_of<kCount>(s, i, Draw::kOfMoments);
}

// Of kCount elements, the first of which is the block's element `i`. Of a group that is the lane's
// own, or begins in that.
template <int kCount>
NADAM_XLA_INLINE Draws<kCount> draws_of_codes(const BlockStretch& s, const std::int32_t i) {
  if constexpr (kCount == kGroup) {
    std::uint32_t pairs[kGroup] = {};
    NADAM_XLA_UNROLL
    for (int w = 0; w < kPairsOfGroup; ++w)
      pairs[w] = numbers_of_pair(s.of_places.of[w], s.of_block);
    if (i % kGroup != 0) {
      const RandomWords next = words_with(s.key, i / 2 + kPairsOfGroup, Draw::kOfCodes);
      NADAM_XLA_UNROLL
      for (int w = 0; w < kPairsOfGroup; ++w)
        pairs[kPairsOfGroup + w] = numbers_of_pair(next.of[w], s.of_block);
    }
    return shifted(pairs, i % kGroup);
  } else {
    const std::uint32_t of_place = word_of(words_with(s.key, i / 2, Draw::kOfCodes), i / 2);
    return {{numbers_of_pair(of_place, s.of_block) >> 16 * (i % 2)}};
  }
}

template <int kCount>
NADAM_XLA_INLINE void store_result(const BlockStretch& s, const std::int32_t i, const int result,
                                   const Numbers<float, kCount>& numbers,
                                   const Rounder<kCount>& rounder) {
  const Storage storage = s.leaf.storage_of_result(result);
  void* const to = s.leaf.out[result];
  if (!is_codes(storage)) return store_encoded(numbers, storage, rounder, to, s.in_stacks + i);
  const Draws<kCount> draws = draws_of_codes<kCount>(s, i);
  Words<kCount, 1> codes;
  if (storage == Storage::kBlock8Signed) {
    codes = encoded_codes<blockwise::Signed>(numbers, s.inverses[0], draws);
  } else {
    codes = encoded_codes<blockwise::Unsigned>(numbers, s.inverses[1], with_swapped_bytes(draws));
  }
  store_words(to, s.in_stacks + i, codes);
}

// ---- a lane -----------------------------------------------------------------------------------

// The bits of the largest magnitudes of new moments, or of a NaN.
struct Largest {
  std::uint32_t of[kMoments] = {};

  template <Averaging kAveraging, int kCount>
  NADAM_XLA_INLINE void see(const Group<float, kAveraging, kCount>& group) {
    NADAM_XLA_UNROLL
    for (int moment = 0; moment < kMoments; ++moment) {
      NADAM_XLA_UNROLL
      for (int k = 0; k < kCount; ++k) {
        const std::uint32_t bits = blockwise::magnitude_bits(group.states[moment].at[k]);
        of[moment] = bits > of[moment] ? bits : of[moment];
      }
    }
  }
};

// What a lane keeps of a block between its phases: the group that it has. Elements outside of
// groups are few, or a block has no groups; they are updated twice.
template <Returns kReturns, Averaging kAveraging>
class LaneOfBlock {
 public:
  NADAM_XLA_INLINE Largest update(BlockStretch& s, const PackedParts& parts,
                                  const std::int32_t lane) {
    Largest largest;
    s.read_row();
    if (lane < parts.packs) {
      const std::int32_t first = parts.head + lane * kGroup;
      const auto group = updated_group<kAveraging, kGroup>(s, first);
      s.read_key();
      first_ = store_params<kReturns>(s, first, group);
      NADAM_XLA_UNROLL
      for (int moment = 0; moment < kMoments; ++moment) moments_[moment] = group.states[moment];
      largest.see(group);
    }
    NADAM_XLA_NO_UNROLL
    for (std::int32_t i = lane; i < parts.head + parts.tail; i += kWarp) {
      largest.see(updated_group<kAveraging, 1>(s, single(parts, i)));
    }
    return largest;
  }

  NADAM_XLA_INLINE void store(BlockStretch& s, const PackedParts& parts,
                              const std::int32_t lane) const {
    if (lane < parts.packs) {
      store_results<kReturns>(s, parts.head + lane * kGroup, moments_[0], moments_[1], first_);
    }
    if (parts.head + parts.tail == 0) return;
    s.read_row();
    s.read_key();
    NADAM_XLA_NO_UNROLL
    for (std::int32_t i = lane; i < parts.head + parts.tail; i += kWarp) {
      const std::int32_t at = single(parts, i);
      const auto group = updated_group<kAveraging, 1>(s, at);
      const auto first = store_params<kReturns>(s, at, group);
      store_results<kReturns>(s, at, group.states[0], group.states[1], first);
    }
  }

 private:
  static NADAM_XLA_INLINE std::int32_t single(const PackedParts& parts, const std::int32_t i) {
    return i < parts.head ? i : i + parts.packs * kGroup;
  }

  Numbers<float, kGroup> first_, moments_[kMoments];
};

// ---- a warp -----------------------------------------------------------------------------------

// The blocks of a tile, which follow one another in a batch entry.
struct BlocksOfTile {
  std::int64_t entry;
  std::int64_t before;  // the blocks of the entries before it
  blockwise::Block first;
  std::int32_t count;
};

template <Averaging kAveraging>
NADAM_XLA_INLINE BlocksOfTile blocks_of_tile(const BlockwiseLeaf<kAveraging>& leaf,
                                             const std::int32_t tile) {
  const std::int64_t blocks = leaf.blocks_of_codes();
  const Stretch stretch = stretch_of(tile, blocks, BlockwiseLeaf<kAveraging>::kTile);
  return {stretch.entry, stretch.entry * blocks,
          blockwise::block_at(leaf.scales.columns, stretch.begin), stretch.length};
}

// Its row and key are yet to be read.
template <Averaging kAveraging, std::size_t kCapacity>
NADAM_XLA_INLINE BlockStretch
stretch_of_block(const UpdateLaunch<float, BlockwiseLeaf<kAveraging>, kCapacity>& launch,
                 const BlockwiseLeaf<kAveraging>& leaf, const std::int64_t entry,
                 const blockwise::Block& block, const std::uint32_t of_block) {
  const float* const coefficients = coefficients_of(launch, leaf, entry);
  const std::int64_t in_leaf = entry * leaf.leaf.length + block.first;
  return {{leaf.leaf,
           launch.streams,
           launch.rounding,
           block.first,
           in_leaf,
           in_leaf,
           static_cast<std::int32_t>(blockwise::length_at(leaf.scales.columns, block.column)),
           {},
           {}},
          coefficients,
          {RowLayout::kV2, launch.format.length},
          of_block,
          {},
          {},
          {}};
}

// Of a row that is skipped: what is not in its place is copied.
template <Returns kReturns, Averaging kAveraging, typename Warp>
NADAM_XLA_INLINE void skip_blocks(BlockStretch& s, const BlockwiseLeaf<kAveraging>& leaf,
                                  const BlocksOfTile& tile, const Warp& warp) {
  const Scales& scales = leaf.scales;
  blockwise::Block last = tile.first;
  NADAM_XLA_NO_UNROLL
  for (std::int32_t i = 1; i < tile.count; ++i) last = block_after(scales.columns, last);
  s.length = static_cast<std::int32_t>(last.first + last.length - tile.first.first);
  warp.each([&](const std::int32_t lane, int) {
    skip<kReturns>(s, lane);
    if (lane >= tile.count) return;
    const std::int64_t i = tile.before + tile.first.number + lane;
    NADAM_XLA_UNROLL
    for (int moment = 0; moment < kMoments; ++moment) {
      if (s.has_codes(moment)) scales.out[moment][i] = scales.in[moment][i];
    }
  });
}

// head: as head_of has it. `i`: the number of the block among those of all batch entries.
template <Returns kReturns, Averaging kAveraging, typename Warp>
NADAM_XLA_INLINE void update_block(BlockStretch& s, const std::int32_t head, const Scales& scales,
                                   const std::int64_t i,
                                   const RandomWords (&of_places)[Warp::kLanes], const Warp& warp) {
  NADAM_XLA_UNROLL
  for (int moment = 0; moment < kMoments; ++moment) {
    if (!s.has_codes(moment)) continue;
    s.factors[moment] = blockwise::factor_of(s.leaf.storage(state(moment)), scales.in[moment][i]);
  }
  const PackedParts parts = parts_of(head, s.length);
  LaneOfBlock<kReturns, kAveraging> lanes[Warp::kLanes];
  std::uint32_t largest[kMoments][Warp::kLanes];
  warp.each([&](const std::int32_t lane, const int place) {
    const Largest of_lane = lanes[place].update(s, parts, lane);
    NADAM_XLA_UNROLL
    for (int moment = 0; moment < kMoments; ++moment) {
      largest[moment][place] = of_lane.of[moment];
    }
  });
  float found[kMoments];
  NADAM_XLA_UNROLL
  for (int moment = 0; moment < kMoments; ++moment) {
    found[moment] = blockwise::scale_of(warp.largest(largest[moment]));
    s.inverses[moment] = blockwise::inverse_of(s.leaf.storage(state(moment)), found[moment]);
  }
  warp.each([&](const std::int32_t lane, const int place) {
    s.of_places = of_places[place];
    lanes[place].store(s, parts, lane);
  });
  // In their place, which all lanes must have read.
  warp.wait();
  warp.each([&](const std::int32_t lane, int) {
    NADAM_XLA_UNROLL
    for (int moment = 0; moment < kMoments; ++moment) {
      if (lane == 0 && s.has_codes(moment)) scales.out[moment][i] = found[moment];
    }
  });
}

// All that one warp does for a tile, counted from the first of its leaf. `Warp` has
//   kLanes                  how many of the warp's lanes are here,
//   each(phase)             calls phase(lane, place) for each of them, which is at that place here,
//   largest(numbers)        the largest of all lanes' numbers; those of the lanes here stand at
//                           their places,
//   of_lane(lane, numbers)  that lane's number,
//   wait()                  until all lanes have come here.
template <Returns kReturns, Averaging kAveraging, std::size_t kCapacity, typename Warp>
NADAM_XLA_INLINE void update_blocks(
    const UpdateLaunch<float, BlockwiseLeaf<kAveraging>, kCapacity>& launch,
    const BlockwiseLeaf<kAveraging>& leaf, const std::int32_t in_leaf, const Warp& warp) {
  const BlocksOfTile tile = blocks_of_tile(leaf, in_leaf);
  BlockStretch first = stretch_of_block(launch, leaf, tile.entry, tile.first, 0);
  first.read_row();
  first.read_key();
  if (first.row.skip) return skip_blocks<kReturns>(first, leaf, tile, warp);
  RandomWords of_places[Warp::kLanes];
  std::uint32_t of_blocks[Warp::kLanes];  // the first lanes have one each
  warp.each([&](const std::int32_t lane, const int place) {
    of_places[place] = words_with(first.key, lane * kPairsOfGroup, Draw::kOfCodes);
    of_blocks[place] = word_of(
        words_with(first.key, tile.first.number, nadam_xla::of_blocks(Draw::kOfCodes)), lane);
  });
  const std::int64_t columns = leaf.scales.columns;
  blockwise::Block block = tile.first;
  std::int32_t head = head_of(first);
  NADAM_XLA_NO_UNROLL
  for (std::int32_t i = 0; i < tile.count; ++i) {
    BlockStretch s = stretch_of_block(launch, leaf, tile.entry, block, warp.of_lane(i, of_blocks));
    // Where rows are whole groups, all blocks lie alike.
    if (columns % kGroup != 0) head = head_of(s);
    update_block<kReturns, kAveraging>(s, head, leaf.scales, tile.before + block.number, of_places,
                                       warp);
    block = block_after(columns, block);
  }
}

}  // namespace nadam_xla::cuda
