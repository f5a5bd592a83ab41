#include "kernels/cpu/memory_limit.h"

#include <algorithm>
#include <functional>
#include <thread>
#include <utility>

namespace nadam_xla::cpu {
namespace {

constexpr std::int64_t kBlock = 64;   // elements
constexpr std::int64_t kVector = 16;  // words
constexpr std::int64_t kAhead = 512;  // words
constexpr int kGrads = 1;

// Adds the gradients of a block to a block of another stream, or the first of them to more words.
#if defined(NADAM_XLA_X86_64) && defined(__GNUC__) && !defined(__clang__)
__attribute__((target_clones("arch=skylake-avx512", "avx2", "default")))
#endif
void read_modify_write(std::uint32_t* const to, const std::int64_t words,
                       const std::uint32_t* const grads, const std::int64_t words_of_grads) {
  // With the same prefetching as the update's loop: without it this limit would be too low.
  for (std::int64_t i = 0; i < words; i += kVector) __builtin_prefetch(to + kAhead + i);
  for (std::int64_t i = 0; i < words; i += kVector) {
    const std::uint32_t* const from = grads + i % words_of_grads;
#pragma omp simd
    for (std::int64_t k = 0; k < kVector; ++k) to[i + k] = (to[i + k] >> 1) + from[k];
  }
}

void run_on(const std::int64_t threads, const std::function<void(std::int64_t)>& work) {
  std::vector<std::thread> others;
  for (std::int64_t thread = 1; thread < threads; ++thread) others.emplace_back(work, thread);
  work(0);
  for (std::thread& other : others) other.join();
}

}  // namespace

MemoryLimit::MemoryLimit(const std::int64_t elements, const std::int64_t threads,
                         const std::array<int, 5>& sizes)
    : blocks_((elements + kBlock - 1) / kBlock), threads_(threads) {
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    words_[i] = kBlock * sizes[i] / static_cast<std::int64_t>(sizeof(std::uint32_t));
    streams_[i].resize(blocks_ * words_[i]);
  }
}

void MemoryLimit::run(const std::int64_t passes) {
  // Each thread keeps its own part in all passes: no sharing, no waiting between them.
  const std::int64_t part = (blocks_ + threads_ - 1) / threads_;
  const auto work = [&](const std::int64_t thread) {
    const std::int64_t begin = std::min(blocks_, thread * part);
    const std::int64_t end = std::min(blocks_, begin + part);
    for (std::int64_t pass = 0; pass < passes; ++pass) {
      for (std::int64_t block = begin; block < end; ++block) {
        const std::uint32_t* const grads = streams_[kGrads].data() + block * words_[kGrads];
        for (std::int64_t i = 0; i < words_[kGrads]; i += kVector) {
          __builtin_prefetch(grads + kAhead + i);
        }
        for (std::size_t i = 0; i < streams_.size(); ++i) {
          if (i == kGrads || words_[i] == 0) continue;
          read_modify_write(streams_[i].data() + block * words_[i], words_[i], grads,
                            words_[kGrads]);
        }
      }
    }
  };
  run_on(threads_, work);
}

RowsLimit::RowsLimit(const std::int64_t height, const std::int64_t columns,
                     std::vector<std::int32_t> rows, const std::int64_t threads)
    : columns_(columns), threads_(threads), rows_(std::move(rows)) {
  grads_.resize(rows_.size() * columns);
  for (auto& table : tables_) table.resize(height * columns);
}

void RowsLimit::run(const std::int64_t passes) {
  const auto count = static_cast<std::int64_t>(rows_.size());
  const std::int64_t part = (count + threads_ - 1) / threads_;
  run_on(threads_, [&](const std::int64_t thread) {
    const std::int64_t begin = std::min(count, thread * part);
    for (std::int64_t pass = 0; pass < passes; ++pass) {
      run_part(begin, std::min(count, begin + part));
    }
  });
}

void RowsLimit::run_part(const std::int64_t begin, const std::int64_t end) {
  constexpr std::int64_t kRowsAhead = 8;
  for (std::int64_t i = begin; i < end; ++i) {
    for (auto& table : tables_) {
      if (i + kRowsAhead < end) {
        const std::uint32_t* const later = table.data() + rows_[i + kRowsAhead] * columns_;
        for (std::int64_t k = 0; k < columns_; k += kVector) __builtin_prefetch(later + k);
      }
      std::uint32_t* const row = table.data() + rows_[i] * columns_;
      const std::uint32_t* const grads = grads_.data() + i * columns_;
#pragma omp simd
      for (std::int64_t k = 0; k < columns_; ++k) row[k] = (row[k] >> 1) + grads[k];
    }
  }
}

}  // namespace nadam_xla::cpu
