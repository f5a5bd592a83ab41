// How the leaves of a call are cut into chunks of work of about equal size.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace nadam_xla::cpu {

// Lays every batch entry of every leaf end to end on one line and cuts the line at multiples of
// `chunk_length`. A large leaf thus spans many chunks and a chunk may hold many small leaves. Each
// entry's place on the line is rounded up to `alignment` elements, so that a cut inside a leaf
// falls on a whole cache line of it and two threads never write to the same one.
class ChunkPlan {
 public:
  static constexpr std::int64_t kAlignment = 64;  // elements

  // The alignment divides the chunk's length.
  ChunkPlan(std::int64_t leaves, std::int64_t batch, std::int64_t chunk_length,
            std::int64_t alignment = kAlignment)
      : batch_(batch), chunk_length_(chunk_length), alignment_(alignment) {
    leaves_.reserve(leaves);
  }

  // `length`: the elements of one batch entry of the next leaf.
  void add_leaf(std::int64_t length) {
    const std::int64_t begin = leaves_.empty() ? 0 : leaves_.back().end;
    leaves_.push_back({length, begin, begin + batch_ * padded(length)});
  }

  std::int64_t count() const {
    return leaves_.empty() ? 0 : (leaves_.back().end + chunk_length_ - 1) / chunk_length_;
  }

  // Calls visit(leaf, batch_entry, begin, length) for each stretch of the chunk: `length` elements
  // from element `begin` of that entry of that leaf. Empty stretches are left out.
  template <typename Visit>
  void for_each_stretch(std::int64_t chunk, const Visit& visit) const {
    std::int64_t at = chunk * chunk_length_;
    const std::int64_t stop = std::min(at + chunk_length_, leaves_.back().end);
    const auto ends_after = [](std::int64_t place, const Leaf& leaf) { return place < leaf.end; };
    auto leaf = std::upper_bound(leaves_.begin(), leaves_.end(), at, ends_after);
    for (; at < stop; ++leaf) {
      const std::int64_t stride = padded(leaf->length);
      const std::int64_t leaf_stop = std::min(stop, leaf->end);
      std::int64_t entry = at == leaf->begin ? 0 : (at - leaf->begin) / stride;
      for (; at < leaf_stop; ++entry) {
        const std::int64_t entry_start = leaf->begin + entry * stride;
        const std::int64_t entry_stop = std::min(leaf_stop, entry_start + stride);
        const std::int64_t begin = at - entry_start;
        const std::int64_t end = std::min(leaf->length, entry_stop - entry_start);
        if (begin < end) visit(leaf - leaves_.begin(), entry, begin, end - begin);
        at = entry_stop;
      }
    }
  }

 private:
  std::int64_t padded(std::int64_t length) const {
    return (length + alignment_ - 1) / alignment_ * alignment_;
  }

  struct Leaf {
    std::int64_t length;      // of one batch entry
    std::int64_t begin, end;  // on the line
  };

  std::int64_t batch_;
  std::int64_t chunk_length_;
  std::int64_t alignment_;
  std::vector<Leaf> leaves_;
};

// Some chunks a thread, so that the threads finish together, each long enough that the streams run
// undisturbed; below the shortest no other thread is worth waking (docs/performance/tried.md).
// Measured on two threads.
inline std::int64_t chunk_length(const std::int64_t elements, const std::int64_t threads) {
  constexpr std::int64_t kShortest = 8 * 1024;
  constexpr std::int64_t kLongest = 128 * 1024;
  constexpr std::int64_t kChunksOfThread = 8;
  const std::int64_t chunks = kChunksOfThread * std::max<std::int64_t>(threads, 2);
  const std::int64_t length = std::clamp(elements / chunks, kShortest, kLongest);
  return length / ChunkPlan::kAlignment * ChunkPlan::kAlignment;
}

// Of leaves that each have so many elements in one batch entry; `length` is a function of a leaf.
template <typename Leaf, typename Length>
ChunkPlan plan_of(const std::vector<Leaf>& leaves, const std::int64_t batch,
                  const std::int64_t threads, const Length& length, const std::int64_t alignment) {
  std::int64_t elements = 0;
  for (const Leaf& leaf : leaves) elements += batch * length(leaf);
  const std::int64_t of_chunk = chunk_length(elements, threads) / alignment * alignment;
  ChunkPlan plan(static_cast<std::int64_t>(leaves.size()), batch, of_chunk, alignment);
  for (const Leaf& leaf : leaves) plan.add_leaf(length(leaf));
  return plan;
}

// Of leaves that have a `length`, that of one batch entry.
template <typename Leaf>
ChunkPlan plan_of(const std::vector<Leaf>& leaves, const std::int64_t batch,
                  const std::int64_t threads) {
  const auto length = [](const Leaf& leaf) { return leaf.length; };
  return plan_of(leaves, batch, threads, length, ChunkPlan::kAlignment);
}

}  // namespace nadam_xla::cpu
