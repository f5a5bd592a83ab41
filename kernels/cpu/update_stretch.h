// The update of a stretch of memory, however it is stored. Part of loops.cpp, whose rules hold
// here.
#pragma once

#include "kernels/cpu/loops.h"
#include "kernels/cpu/stored_loop.h"
#include "kernels/cpu/update_loop.h"

namespace nadam_xla::cpu {
namespace {

void copy(const void* const from, void* const to, const std::int64_t bytes) {
  if (from == to) return;
  const auto* const source = static_cast<const char*>(from);
  auto* const target = static_cast<char*>(to);
  for (std::int64_t i = 0; i < bytes; ++i) target[i] = source[i];
}

template <typename T>
void skip(const UpdateStretch<T>& s) {
  const Leaf& leaf = s.leaf;
  for (int i = 0; i < s.streams.results(); ++i) {
    if (i == 0 && s.returns == Returns::kChange) {
      T unchanged[kBlock];
      for (T& x : unchanged) x = kNoChange<T>;
      const Encoder<T> encode_change = encoder_of<T>(leaf.stored_first, Rounding::kNearest);
      for (std::int64_t at = 0; at < leaf.length; at += kBlock) {
        const std::int64_t left = leaf.length - at;
        void* const to = advanced(leaf.out[0], at * size_of(leaf.stored_first));
        encode_change(unchanged, to, nullptr, left < kBlock ? left : kBlock);
      }
    } else {
      copy(leaf.in[static_cast<int>(stream_of_result(i))], leaf.out[i],
           leaf.length * size_of(leaf.storage_of_result(i)));
    }
  }
}

template <Returns kReturns, typename T>
void update_computed(const UpdateStretch<T>& s) {
  if (clamps(s.row)) {
    update<kReturns, true>(s.row, as_computed<T>(s.leaf));
  } else {
    update<kReturns, false>(s.row, as_computed<T>(s.leaf));
  }
}

template <typename T>
void update_stretch(const UpdateStretch<T>& s) {
  if (s.row.skip) {
    skip(s);
  } else if (!is_stored_as_computed<T>(s.leaf, s.streams)) {
    update_stored(s);
  } else if (s.returns == Returns::kParams) {
    update_computed<Returns::kParams>(s);
  } else {
    update_computed<Returns::kChange>(s);
  }
}

}  // namespace
}  // namespace nadam_xla::cpu
