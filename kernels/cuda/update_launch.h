// The launches of an update, and what one of their threads does. No thread waits for another, so
// that tests can run all of them on the host, one after the other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/launch_plan.h"
#include "kernels/cuda/pack.h"
#include "kernels/update_call.h"
#include "kernels/update_rule.h"

namespace nadam_xla::cuda {

inline constexpr std::int32_t kUpdateThreads = 256;  // of a block
inline constexpr int kUpdateUnroll = 2;  // packs of each stream that a thread has in flight

// The elements of a block's stretch: 16 KiB of each stream, two rounds of its threads.
template <typename T>
inline constexpr std::int32_t kUpdateChunk = 2 * kUpdateThreads * kUpdateUnroll * kWidest<T>;

template <typename T>
struct UpdateLeaf {
  Streams<T> streams;  // `length` counts the elements of one batch entry
  std::int64_t row;    // in a batch entry's part of the table
};

// The parameters of a launch.
template <typename T, std::size_t kCapacity>
struct UpdateLaunch {
  const T* coefficients;  // [batch][rows][row_length(layout)]
  RowLayout layout;
  bool has_params;
  std::int64_t rows;
  std::int32_t leaves;
  std::int32_t first_blocks[kCapacity];
  UpdateLeaf<T> leaf[kCapacity];
};

template <typename T, std::size_t kBytes>
inline constexpr std::size_t kUpdateCapacity =
    leaves_in(kBytes, sizeof(UpdateLaunch<T, 1>), sizeof(UpdateLeaf<T>));

template <typename T>
LaunchPlan plan_of(const UpdateCall<T>& call, const std::size_t capacity) {
  LaunchPlan plan(call.batch, kUpdateChunk<T>, capacity);
  for (std::size_t i = 0; i < call.leaves.size(); ++i) {
    const std::int64_t length = call.leaves[i].length;
    if (call.batch * length != 0) plan.add_leaf(i, length);
  }
  return plan;
}

// `planned` must have kCapacity leaves at most.
template <std::size_t kCapacity, typename T>
UpdateLaunch<T, kCapacity> launch_of(const UpdateCall<T>& call, const PlannedLaunch& planned) {
  UpdateLaunch<T, kCapacity> launch;
  launch.coefficients = call.coefficients;
  launch.layout = call.layout;
  launch.has_params = call.has_params;
  launch.rows = call.rows;
  launch.leaves = static_cast<std::int32_t>(planned.leaves.size());
  for (std::size_t place = 0; place < planned.leaves.size(); ++place) {
    const auto [index, first_block] = planned.leaves[place];
    launch.first_blocks[place] = first_block;
    launch.leaf[place] = {call.leaves[index], call.row_of(static_cast<std::int64_t>(index))};
  }
  return launch;
}

// Updates `count` packs of kPack elements each, the first at element `begin`.
template <int kPack, Returns kReturns, typename T>
NADAM_XLA_INLINE void update_packs(const Row<T>& row, const Streams<T>& s, const std::int32_t begin,
                                   const std::int32_t count, const std::int32_t thread) {
  for (std::int32_t first = thread; first < count; first += kUpdateThreads * kUpdateUnroll) {
    Pack<T, kPack> p[kUpdateUnroll];
    Pack<T, kPack> g[kUpdateUnroll];
    Pack<T, kPack> m[kUpdateUnroll];
    Pack<T, kPack> v[kUpdateUnroll];
    // All loads come before the first use: what is in flight together hides the memory's latency.
    NADAM_XLA_UNROLL
    for (int u = 0; u < kUpdateUnroll; ++u) {
      const std::int32_t pack = first + u * kUpdateThreads;
      const std::int32_t i = begin + pack * kPack;
      if (pack < count) {
        p[u] = load<kPack>(s.params + i);
        g[u] = load<kPack>(s.grads + i);
        m[u] = load<kPack>(s.mu + i);
        v[u] = load<kPack>(s.nu + i);
      }
    }
    NADAM_XLA_UNROLL
    for (int u = 0; u < kUpdateUnroll; ++u) {
      const std::int32_t pack = first + u * kUpdateThreads;
      const std::int32_t i = begin + pack * kPack;
      if (pack < count) {
        NADAM_XLA_UNROLL
        for (int k = 0; k < kPack; ++k) {
          const Updated<T> to = update_rule(row, p[u].at[k], g[u].at[k], m[u].at[k], v[u].at[k]);
          p[u].at[k] = kReturns == Returns::kParams ? to.params : to.change;
          m[u].at[k] = to.mu;
          v[u].at[k] = to.nu;
        }
        store(s.updated + i, p[u]);
        store(s.mu_out + i, m[u]);
        store(s.nu_out + i, v[u]);
      }
    }
  }
}

template <Returns kReturns, typename T>
NADAM_XLA_INLINE void skip(const Streams<T>& s, const std::int32_t thread) {
  for (std::int64_t i = thread; i < s.length; i += kUpdateThreads) {
    if (kReturns == Returns::kChange) s.updated[i] = T(0);
    if (kReturns == Returns::kParams && s.updated != s.params) s.updated[i] = s.params[i];
    if (s.mu_out != s.mu) s.mu_out[i] = s.mu[i];
    if (s.nu_out != s.nu) s.nu_out[i] = s.nu[i];
  }
}

template <typename T>
NADAM_XLA_INLINE PackedParts parts_of(const Streams<T>& s, const std::int32_t length) {
  const std::int32_t misaligned = misalignment(s.params);
  const bool alike = misalignment(s.grads) == misaligned && misalignment(s.mu) == misaligned &&
                     misalignment(s.nu) == misaligned && misalignment(s.updated) == misaligned &&
                     misalignment(s.mu_out) == misaligned && misalignment(s.nu_out) == misaligned;
  return alike ? packed_parts<T>(misaligned, length) : PackedParts{length, 0, 0};
}

// All that one thread of one block does.
template <Returns kReturns, typename T, std::size_t kCapacity>
NADAM_XLA_INLINE void run_update_thread(const UpdateLaunch<T, kCapacity>& launch,
                                        const std::int32_t block, const std::int32_t thread) {
  const std::int32_t place = leaf_of(block, launch.first_blocks, launch.leaves);
  const UpdateLeaf<T>& leaf = launch.leaf[place];
  const std::int64_t length = leaf.streams.length;
  const Stretch stretch = stretch_of(block - launch.first_blocks[place], length, kUpdateChunk<T>);
  const Streams<T> streams =
      part_of(leaf.streams, stretch.entry * length + stretch.begin, stretch.length);
  const std::int64_t row_index = stretch.entry * launch.rows + leaf.row;
  const T* const coefficients = launch.coefficients + row_index * row_length(launch.layout);
  const Row<T> row = read_row(coefficients, launch.layout, launch.has_params);
  if (row.skip) {
    skip<kReturns>(streams, thread);
    return;
  }
  const PackedParts parts = parts_of(streams, stretch.length);
  const std::int32_t tail = stretch.length - parts.tail;
  update_packs<kWidest<T>, kReturns>(row, streams, parts.head, parts.packs, thread);
  update_packs<1, kReturns>(row, streams, 0, parts.head, thread);
  update_packs<1, kReturns>(row, streams, tail, parts.tail, thread);
}

}  // namespace nadam_xla::cuda
