#include "tests/native_boundary/pool.h"

#include <list>
#include <utility>

namespace nadam_xla::native_boundary {
namespace {

constexpr int kThreads = 3;

// Those that a pool never ran. They are run when the process ends, which frees what they own. There
// may be millions: a vector that grows for them would be taken for memory that the call took.
class Abandoned {
 public:
  ~Abandoned() {
    for (Pool::Task& task : tasks_) task();
  }
  void add(Pool::Task task) {
    const std::lock_guard<std::mutex> lock(mutex_);
    tasks_.push_back(std::move(task));
  }

 private:
  std::mutex mutex_;
  std::list<Pool::Task> tasks_;
};

Abandoned& abandoned() {
  static Abandoned tasks;
  return tasks;
}

}  // namespace

Pool::~Pool() {
  for (Task& task : late_) task();
}

bool Pool::schedule(Task task) {
  switch (when_) {
    case When::kAtOnce:
      task();
      return true;
    case When::kOnThreads:
      Threads::of_process().add(std::move(task));
      return true;
    case When::kLate: {
      const std::lock_guard<std::mutex> lock(mutex_);
      late_.push_back(std::move(task));
      return true;
    }
    case When::kNever:
      abandoned().add(std::move(task));
      return true;
    default:
      return false;
  }
}

Threads& Threads::of_process() {
  static Threads threads;
  return threads;
}

Threads::Threads() {
  for (int i = 0; i < kThreads; ++i) threads_.emplace_back([this] { work(); });
}

Threads::~Threads() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    is_over_ = true;
  }
  added_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Threads::add(Pool::Task task) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  added_.notify_one();
}

void Threads::work() {
  for (;;) {
    std::unique_lock<std::mutex> lock(mutex_);
    added_.wait(lock, [this] { return is_over_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    const Pool::Task task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
  }
}

}  // namespace nadam_xla::native_boundary
