#include "kernels/cpu/parallel.h"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>

namespace nadam_xla::cpu {
namespace {

// The caller's treatment of denormals and its rounding mode, lent to this thread: which thread
// takes a chunk must not show in the result.
class AdoptedFloatingPointMode {
 public:
  explicit AdoptedFloatingPointMode(const std::fenv_t& mode) {
    std::fegetenv(&own_);
    std::fesetenv(&mode);
  }
  ~AdoptedFloatingPointMode() { std::fesetenv(&own_); }
  AdoptedFloatingPointMode(const AdoptedFloatingPointMode&) = delete;
  AdoptedFloatingPointMode& operator=(const AdoptedFloatingPointMode&) = delete;

 private:
  std::fenv_t own_;
};

// Outlives the call: a helper that starts late still finds it, sees that no chunk is left, and
// never touches `body_` and `pool_`, which are gone by then.
class SharedWork : public std::enable_shared_from_this<SharedWork> {
 public:
  SharedWork(const std::int64_t chunks, const std::int64_t helpers,
             const std::function<void(std::int64_t)>& body, const Pool& pool)
      : chunks_(chunks), body_(body), pool_(pool), asleep_(helpers) {
    std::fegetenv(&mode_);
  }

  // Takes chunks until none is left. The first one is taken before others are woken: as long as it
  // is not reported, the call cannot end, and the pool is there.
  void take_chunks() {
    const std::int64_t first = next_.fetch_add(1, std::memory_order_relaxed);
    if (first >= chunks_) return;
    wake_helpers();
    const AdoptedFloatingPointMode mode(mode_);
    std::int64_t done = 0;
    for (std::int64_t i = first; i < chunks_; i = next_.fetch_add(1, std::memory_order_relaxed)) {
      body_(i);
      ++done;
    }
    report(done);
  }

  void wait_for_chunks_in_progress() {
    // A chunk takes less time than falling asleep and being woken.
    for (int i = 0; i < kSpins; ++i) {
      if (all_done()) return;
      pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    woken_.wait(lock, [this] { return all_done(); });
  }

 private:
  static constexpr int kSpins = 2000;
  static constexpr int kWokenByEach = 2;

  static void pause() {
#if defined(NADAM_XLA_X86_64)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb" : : : "memory");  // what comes nearest to it: "yield" waits for nothing
#endif
  }

  // Each that is woken wakes others: were it one thread's task, the last of a hundred would come
  // when the work is over.
  void wake_helpers() {
    try {
      for (int i = 0; i < kWokenByEach; ++i) {
        if (next_.load(std::memory_order_relaxed) >= chunks_) return;
        if (asleep_.fetch_sub(1, std::memory_order_relaxed) <= 0) return;
        pool_.schedule([work = shared_from_this()] { work->take_chunks(); });
      }
    } catch (const std::bad_alloc&) {
      // Others may be at work on `body_` already: this thread must not leave, and does their part.
    }
  }

  bool all_done() const { return done_.load(std::memory_order_acquire) == chunks_; }

  void report(std::int64_t done) {
    if (done_.fetch_add(done, std::memory_order_acq_rel) + done != chunks_) return;
    // Under the lock, so that a caller about to sleep cannot miss it.
    const std::lock_guard<std::mutex> lock(mutex_);
    woken_.notify_one();
  }

  const std::int64_t chunks_;
  const std::function<void(std::int64_t)>& body_;
  const Pool& pool_;
  std::fenv_t mode_;
  std::atomic<std::int64_t> asleep_;
  std::atomic<std::int64_t> next_{0};
  std::atomic<std::int64_t> done_{0};
  std::mutex mutex_;
  std::condition_variable woken_;
};

}  // namespace

void run_chunks(std::int64_t chunks, const std::function<void(std::int64_t)>& body,
                const Pool& pool) {
  const std::int64_t helpers = chunks <= 1 ? 0 : std::min(pool.threads(), chunks) - 1;
  if (helpers <= 0) {
    for (std::int64_t i = 0; i < chunks; ++i) body(i);
    return;
  }
  const auto work = std::make_shared<SharedWork>(chunks, helpers, body, pool);
  work->take_chunks();
  work->wait_for_chunks_in_progress();
}

}  // namespace nadam_xla::cpu
