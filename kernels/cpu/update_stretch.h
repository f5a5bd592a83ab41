// The update of a stretch of memory, however it is stored. Part of loops.cpp, whose rules hold
// here.
#pragma once

#include "kernels/cpu/loops.h"
#include "kernels/cpu/stored_loop.h"
#include "kernels/cpu/update_loop.h"

namespace nadam_xla::cpu {
namespace {

// Minus zero, in any storage: its last byte alone is not zero.
void set_to_no_change(void* const changes, const Storage storage, const std::int64_t length) {
  const std::int64_t size = size_of(storage);
  auto* const bytes = static_cast<unsigned char*>(changes);
  for (std::int64_t i = 0; i < length * size; ++i) bytes[i] = (i + 1) % size == 0 ? 0x80 : 0;
}

template <typename T>
void skip(const UpdateStretch<T>& s) {
  const Leaf& leaf = s.leaf;
  for (int i = 0; i < kResults; ++i) {
    if (!s.streams.has_result(i)) continue;
    if (i == 0 && s.returns == Returns::kChange) {
      set_to_no_change(leaf.out[0], leaf.stored_first, leaf.length);
    } else {
      copy(leaf.in[static_cast<int>(stream_of_result(i))], leaf.out[i],
           leaf.length * size_of(leaf.storage_of_result(i)));
    }
  }
}

template <Returns kReturns, Averaging kAveraging, typename T>
void update_computed(const UpdateStretch<T>& s) {
  const Streams<T, kAveraging> streams = as_computed<T, kAveraging>(s.leaf);
  switch (terms_of(s.row)) {
    case Terms::kPlain:
    case Terms::kNone:
      return update<kReturns, Terms::kNone>(s.row, streams);
    case Terms::kDecay:
      return update<kReturns, Terms::kDecay>(s.row, streams);
    case Terms::kDecayAndClamp:
      return update<kReturns, Terms::kDecayAndClamp>(s.row, streams);
  }
}

template <Averaging kAveraging, typename T>
void update_unskipped(const UpdateStretch<T>& s) {
  if (!is_stored_as_computed<T>(s.leaf, s.streams)) {
    update_stored<kAveraging>(s);
  } else if (s.returns == Returns::kParams) {
    update_computed<Returns::kParams, kAveraging>(s);
  } else {
    update_computed<Returns::kChange, kAveraging>(s);
  }
}

template <typename T>
void update_stretch(const UpdateStretch<T>& s) {
  if (s.row.skip) {
    skip(s);
  } else if (s.streams.has(Stream::kAverage)) {
    update_unskipped<Averaging::kOn>(s);
  } else {
    update_unskipped<Averaging::kOff>(s);
  }
}

}  // namespace
}  // namespace nadam_xla::cpu
