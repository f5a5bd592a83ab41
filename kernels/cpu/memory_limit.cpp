#include "kernels/cpu/memory_limit.h"

#include <algorithm>
#include <thread>

namespace nadam_xla::cpu {
namespace {

#if defined(NADAM_XLA_X86_64) && defined(__GNUC__) && !defined(__clang__)
__attribute__((target_clones("arch=skylake-avx512", "avx2", "default")))
#endif
void read_modify_write(float* params, const float* grads, float* mu, float* nu,
                       const std::int64_t length) {
  constexpr std::int64_t kBlock = 64;
  constexpr std::int64_t kAhead = 512;
  std::int64_t begin = 0;
  const auto pass_over = [&](const std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
      const float g = grads[i];
      params[i] = params[i] * 0.5F + g;
      mu[i] = mu[i] * 0.5F + g;
      nu[i] = nu[i] * 0.5F + g;
    }
    begin = end;
  };
  // With the same prefetching as the update's loop: without it this limit would be too low.
  while (begin + kBlock <= length) {
    for (std::int64_t i = begin + kAhead; i < begin + kAhead + kBlock; i += 16) {
      __builtin_prefetch(params + i);
      __builtin_prefetch(grads + i);
      __builtin_prefetch(mu + i);
      __builtin_prefetch(nu + i);
    }
    pass_over(begin + kBlock);
  }
  pass_over(length);
}

}  // namespace

MemoryLimit::MemoryLimit(const std::int64_t elements, const std::int64_t threads)
    : params_(elements), grads_(elements, 1.0F), mu_(elements), nu_(elements), threads_(threads) {}

void MemoryLimit::run(const std::int64_t passes) {
  // Each thread keeps its own part in all passes: no sharing, no waiting between them.
  const auto size = static_cast<std::int64_t>(params_.size());
  const std::int64_t part = (size / threads_ + 63) / 64 * 64;
  const auto work = [&](const std::int64_t thread) {
    const std::int64_t begin = std::min(size, thread * part);
    const std::int64_t end = thread + 1 == threads_ ? size : std::min(size, begin + part);
    for (std::int64_t pass = 0; pass < passes; ++pass) {
      read_modify_write(params_.data() + begin, grads_.data() + begin, mu_.data() + begin,
                        nu_.data() + begin, end - begin);
    }
  };
  std::vector<std::thread> others;
  for (std::int64_t thread = 1; thread < threads_; ++thread) others.emplace_back(work, thread);
  work(0);
  for (std::thread& other : others) other.join();
}

}  // namespace nadam_xla::cpu
