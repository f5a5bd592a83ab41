#include "kernels/cpu/parallel.h"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <memory>
#include <mutex>

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
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [this] { return done_ == chunks_; });
  }

 private:
  void report(std::int64_t done) {
    const std::lock_guard<std::mutex> lock(mutex_);
    done_ += done;
    if (done_ == chunks_) all_done_.notify_one();
  }

  const std::int64_t chunks_;
  const std::function<void(std::int64_t)>& body_;
  std::fenv_t mode_;
  std::atomic<std::int64_t> next_{0};
  std::mutex mutex_;
  std::condition_variable all_done_;
  std::int64_t done_ = 0;  // guarded by mutex_
};

}  // namespace

void run_chunks(std::int64_t chunks, const std::function<void(std::int64_t)>& body,
                const Pool& pool) {
  const std::int64_t helpers = std::min(pool.threads(), chunks) - 1;
  if (helpers <= 0) {
    for (std::int64_t i = 0; i < chunks; ++i) body(i);
    return;
  }
  const auto work = std::make_shared<SharedWork>(chunks, body);
  for (std::int64_t i = 0; i < helpers; ++i) pool.schedule([work] { work->help(); });
  work->take_chunks();
  work->wait_for_chunks_in_progress();
}

}  // namespace nadam_xla::cpu
