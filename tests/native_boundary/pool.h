// Stand-ins for the thread pool that XLA lends to a call.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace nadam_xla::native_boundary {

// When a pool runs its tasks.
enum class When {
  kAtOnce,     // within schedule()
  kOnThreads,  // on threads of its own
  kLate,       // once the call is over and its memory freed
  kNever,      // at the end of the process, which must own them until then
  kRefused,    // not at all, and says so: XLA's headers then run a task at once
};
inline constexpr int kWhens = 5;

class Pool {
 public:
  using Task = std::function<void()>;

  Pool(const When when, const std::int64_t threads) : when_(when), threads_(threads) {}
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  std::int64_t threads() const { return threads_; }
  // Whether the task was taken.
  bool schedule(Task task);

 private:
  const When when_;
  const std::int64_t threads_;
  std::mutex mutex_;
  std::vector<Task> late_;
};

// The threads that all pools share, for they outlive a call, as those of a process do.
class Threads {
 public:
  static Threads& of_process();
  void add(Pool::Task task);

 private:
  Threads();
  ~Threads();
  void work();

  std::mutex mutex_;
  std::condition_variable added_;
  std::deque<Pool::Task> tasks_;
  bool is_over_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace nadam_xla::native_boundary
