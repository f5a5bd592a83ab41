// How the leaves of a call are cut into chunks of work of about equal size.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace nadam_xla::cpu {

// Lays every batch entry of every leaf end to end on one line and cuts the line at multiples of
// `chunk_length`. A large leaf thus spans many chunks and a chunk may hold many small leaves. Each
// entry's place on the line is rounded up to kAlignment elements, so that a cut inside a leaf falls
// on a whole cache line of it and two threads never write to the same one.
class ChunkPlan {
 public:
  static constexpr std::int64_t kAlignment = 64;  // elements; also divides every chunk_length

  // `lengths`: the elements of one batch entry of each leaf.
  ChunkPlan(std::vector<std::int64_t> lengths, std::int64_t batch, std::int64_t chunk_length)
      : lengths_(std::move(lengths)), batch_(batch), chunk_length_(chunk_length) {
    ends_.reserve(lengths_.size());
    std::int64_t end = 0;
    for (const std::int64_t length : lengths_) ends_.push_back(end += batch_ * padded(length));
  }

  std::int64_t count() const {
    return ends_.empty() ? 0 : (ends_.back() + chunk_length_ - 1) / chunk_length_;
  }

  // Calls visit(leaf, batch_entry, begin, length) for each stretch of the chunk: `length` elements
  // from element `begin` of that entry of that leaf. Empty stretches are left out.
  template <typename Visit>
  void for_each_stretch(std::int64_t chunk, const Visit& visit) const {
    std::int64_t at = chunk * chunk_length_;
    const std::int64_t stop = std::min(at + chunk_length_, ends_.back());
    auto leaf = std::upper_bound(ends_.begin(), ends_.end(), at) - ends_.begin();
    for (; at < stop; ++leaf) {
      const std::int64_t length = lengths_[leaf];
      const std::int64_t stride = padded(length);
      const std::int64_t leaf_stop = std::min(stop, ends_[leaf]);
      const std::int64_t leaf_start = ends_[leaf] - batch_ * stride;
      while (at < leaf_stop) {
        const std::int64_t entry = (at - leaf_start) / stride;
        const std::int64_t entry_start = leaf_start + entry * stride;
        const std::int64_t entry_stop = std::min(leaf_stop, entry_start + stride);
        const std::int64_t begin = at - entry_start;
        const std::int64_t end = std::min(length, entry_stop - entry_start);
        if (begin < end) visit(leaf, entry, begin, end - begin);
        at = entry_stop;
      }
    }
  }

 private:
  static std::int64_t padded(std::int64_t length) {
    return (length + kAlignment - 1) / kAlignment * kAlignment;
  }

  std::vector<std::int64_t> lengths_;
  std::int64_t batch_;
  std::int64_t chunk_length_;
  std::vector<std::int64_t> ends_;  // on the line, of each leaf
};

}  // namespace nadam_xla::cpu
