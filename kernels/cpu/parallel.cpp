#include "kernels/cpu/parallel.h"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <thread>

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
// never touches `body_`, which is gone by then.
class SharedWork {
 public:
  SharedWork(std::int64_t chunks, const std::function<void(std::int64_t)>& body)
      : chunks_(chunks), body_(body) {
    std::fegetenv(&mode_);
  }

  void take_chunks() {
    std::int64_t done = 0;
    for (std::int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < chunks_; ++done) {
      body_(i);
    }
    if (done != 0) report(done);
  }

  void help() {
    if (next_.load(std::memory_order_relaxed) >= chunks_) return;
    const AdoptedFloatingPointMode mode(mode_);
    take_chunks();
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

  static void pause() {
#if defined(NADAM_XLA_X86_64)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
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
  std::fenv_t mode_;
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
  const auto work = std::make_shared<SharedWork>(chunks, body);
  try {
    for (std::int64_t i = 0; i < helpers; ++i) pool.schedule([work] { work->help(); });
  } catch (const std::bad_alloc&) {
    // Some may be at work on `body` already: this thread must not leave, and does the rest itself.
  }
  work->take_chunks();
  work->wait_for_chunks_in_progress();
}

}  // namespace nadam_xla::cpu
