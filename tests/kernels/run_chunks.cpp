// Chunks shared among threads, below the update and all else, for test_run_chunks.py: under
// ThreadSanitizer, which also sees what is touched once it is freed. A call that never ends is for
// the caller's time limit.

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "kernels/cpu/parallel.h"
#include "tests/native_boundary/pool.h"
#include "tests/native_boundary/random.h"

namespace nadam_xla::native_boundary {
namespace {

using Body = std::function<void(std::int64_t)>;
constexpr std::int64_t kNoLimit = INT64_MAX;
constexpr int kThreadsOfProcess = 3;
constexpr std::chrono::seconds kPatience(5);

// What happens when this thread is about to sleep until a condition; whether that is then all, as
// POSIX allows: to be woken for nothing.
thread_local const std::function<bool()>* before_sleep = nullptr;

// Counts what is scheduled. From the `limit`-th task on there is no memory for one.
class CountingPool final : public cpu::Pool {
 public:
  CountingPool(const When when, const std::int64_t threads, const std::int64_t limit = kNoLimit)
      : pool_(when, threads), limit_(limit) {}
  std::int64_t threads() const override { return pool_.threads(); }
  void schedule(std::function<void()> task) const override {
    if (scheduled_.fetch_add(1) >= limit_) throw std::bad_alloc();
    if (!pool_.schedule(task)) task();
  }
  std::int64_t scheduled() const { return scheduled_; }

 private:
  mutable native_boundary::Pool pool_;
  mutable std::atomic<std::int64_t> scheduled_{0};
  const std::int64_t limit_;
};

// Each chunk once, and all of it seen by the caller afterwards, when body and pool are gone.
// Returns how many tasks were scheduled, or -1.
std::int64_t run_once(const std::int64_t chunks, const When when, const std::int64_t threads,
                      const std::int64_t limit = kNoLimit) {
  std::vector<int> runs(static_cast<std::size_t>(chunks));
  std::atomic<int> beyond{0};
  const auto pool = std::make_unique<CountingPool>(when, threads, limit);
  const auto body = std::make_unique<Body>([&](const std::int64_t i) {
    if (i < 0 || i >= chunks) {
      ++beyond;
    } else {
      ++runs[static_cast<std::size_t>(i)];
    }
  });
  cpu::run_chunks(chunks, *body, *pool);
  if (beyond != 0) return -1;
  for (const int times : runs) {
    if (times != 1) return -1;
  }
  return pool->scheduled();
}

// Waits, but not for ever. Returns whether it holds.
bool comes_true(const std::function<bool()>& holds) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

std::int64_t helpers(const std::int64_t chunks, const std::int64_t threads) {
  return std::max<std::int64_t>(0, std::min(chunks, threads) - 1);
}

bool each_chunk_runs_once_with_no_more_tasks_than_help() {
  Random random(1);
  for (int call = 0; call < 2000; ++call) {
    const std::int64_t chunks = random.below(40), threads = random.below(9);
    const auto when = static_cast<When>(random.below(kWhens));
    const std::int64_t scheduled = run_once(chunks, when, threads);
    if (scheduled < 0 || scheduled > helpers(chunks, threads)) return false;
  }
  return true;
}

bool several_calls_at_once_each_run_their_chunks() {
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (std::uint64_t caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&wrong, caller] {
      Random random(caller);
      for (int call = 0; call < 1000; ++call) {
        if (run_once(random.below(40), When::kOnThreads, 1 + random.below(8)) < 0) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  return wrong == 0;
}

// Only those that find work schedule others.
bool the_caller_schedules_two_tasks() {
  for (const std::int64_t chunks : {0, 1, 2, 3, 4, 1000}) {
    for (const std::int64_t threads : {0, 1, 2, 3, 8}) {
      const std::int64_t expected = std::min<std::int64_t>(2, helpers(chunks, threads));
      if (run_once(chunks, When::kLate, threads) != expected) return false;
    }
  }
  return true;
}

// A caller, or a helper, of which others must not be left behind.
bool without_memory_for_tasks_the_others_do_the_work() {
  for (int limit = 0; limit < 4; ++limit) {
    for (const When when : {When::kAtOnce, When::kOnThreads, When::kLate}) {
      if (run_once(20, when, 8, limit) < 0) return false;
    }
  }
  return true;
}

// Each chunk waits for all others, so as many threads must come, though the caller wakes but two.
bool every_thread_comes() {
  constexpr int kAll = kThreadsOfProcess + 1;
  std::atomic<int> arrived{0}, missed{0};
  const CountingPool pool(When::kOnThreads, kAll);
  cpu::run_chunks(
      kAll,
      [&](std::int64_t) {
        ++arrived;
        if (!comes_true([&] { return arrived == kAll; })) ++missed;
      },
      pool);
  return missed == 0;
}

// On a thread of its own each, which has a rounding mode of its own before and after.
class PoolOfModes final : public cpu::Pool {
 public:
  std::int64_t threads() const override { return kTasks + 1; }
  void schedule(std::function<void()> task) const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    threads_.emplace_back([this, task = std::move(task)] {
      for (const int own : {FE_DOWNWARD, FE_TOWARDZERO, FE_TONEAREST}) {
        std::fesetround(own);
        task();
        if (std::fegetround() != own) ++wrong_;
      }
    });
  }
  // Of the threads, how many had another mode afterwards.
  int join() {
    for (std::thread& thread : threads_) thread.join();
    return wrong_;
  }

  static constexpr int kTasks = 2;

 private:
  mutable std::mutex mutex_;
  mutable std::vector<std::thread> threads_;
  mutable std::atomic<int> wrong_{0};
};

bool the_caller_s_rounding_mode_is_lent_and_given_back() {
  std::atomic<int> arrived{0}, wrong{0};
  PoolOfModes pool;
  std::fesetround(FE_UPWARD);
  cpu::run_chunks(
      PoolOfModes::kTasks + 1,
      [&](std::int64_t) {
        if (std::fegetround() != FE_UPWARD) ++wrong;
        ++arrived;
        if (!comes_true([&] { return arrived == PoolOfModes::kTasks + 1; })) ++wrong;
      },
      pool);
  if (std::fegetround() != FE_UPWARD) ++wrong;
  std::fesetround(FE_TONEAREST);
  return pool.join() == 0 && wrong == 0;
}

// Two chunks: the caller's, and a helper's, which ends only when the caller is about to sleep.
// Returns whether the caller has waited for it.
bool sleeps_until_a_helper_ends(const std::function<bool()>& asleep) {
  const CountingPool pool(When::kOnThreads, 2);
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<bool> is_helped{false}, is_asleep{false}, has_ended{false};
  const std::function<bool()> sleep = [&] {
    is_asleep = true;
    return asleep();
  };
  before_sleep = &sleep;
  cpu::run_chunks(
      2,
      [&](std::int64_t) {
        if (std::this_thread::get_id() == caller) {
          comes_true([&] { return is_helped.load(); });
        } else {
          is_helped = true;
          comes_true([&] { return is_asleep.load(); });
          has_ended = true;
        }
      },
      pool);
  before_sleep = nullptr;
  return has_ended;
}

// Between its last look at what is done and its sleep: the helper must not report there unheard.
bool a_caller_that_falls_asleep_is_woken() {
  return sleeps_until_a_helper_ends([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return false;
  });
}

bool a_caller_that_is_woken_for_nothing_sleeps_on() {
  int times = 0;
  return sleeps_until_a_helper_ends([&times] { return ++times <= 100; }) && times > 0;
}

struct Check {
  const char* name;
  bool (*holds)();
};

#define NADAM_XLA_CHECK(name) {#name, &name}

constexpr Check kChecks[] = {
    NADAM_XLA_CHECK(every_thread_comes),
    NADAM_XLA_CHECK(the_caller_schedules_two_tasks),
    NADAM_XLA_CHECK(without_memory_for_tasks_the_others_do_the_work),
    NADAM_XLA_CHECK(the_caller_s_rounding_mode_is_lent_and_given_back),
    NADAM_XLA_CHECK(each_chunk_runs_once_with_no_more_tasks_than_help),
    NADAM_XLA_CHECK(several_calls_at_once_each_run_their_chunks),
    NADAM_XLA_CHECK(a_caller_that_falls_asleep_is_woken),
    NADAM_XLA_CHECK(a_caller_that_is_woken_for_nothing_sleeps_on),
};

}  // namespace
}  // namespace nadam_xla::native_boundary

// In the place of the one that the C++ library calls.
extern "C" int pthread_cond_wait(pthread_cond_t* const condition, pthread_mutex_t* const mutex) {
  using Wait = int (*)(pthread_cond_t*, pthread_mutex_t*);
  static const Wait wait = reinterpret_cast<Wait>(dlsym(RTLD_NEXT, "pthread_cond_wait"));
  const auto* const before = nadam_xla::native_boundary::before_sleep;
  if (before != nullptr && (*before)()) return 0;
  return wait(condition, mutex);
}

int main() {
  int wrong = 0;
  for (const auto& check : nadam_xla::native_boundary::kChecks) {
    std::printf("%s: ", check.name);
    std::fflush(stdout);
    const bool holds = check.holds();
    std::printf("%s\n", holds ? "holds" : "DOES NOT HOLD");
    if (!holds) ++wrong;
  }
  return wrong == 0 ? 0 : 1;
}
