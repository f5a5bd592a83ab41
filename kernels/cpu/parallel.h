// Work shared with the threads of a pool that this code does not own.
#pragma once

#include <cstdint>
#include <functional>

namespace nadam_xla::cpu {

// A pool lent by the caller. schedule() may run the task at once, later on another thread, or after
// everything it was meant to help with is over. Tasks that run may schedule others, on several
// threads at once.
class Pool {
 public:
  virtual ~Pool() = default;
  virtual std::int64_t threads() const = 0;
  virtual void schedule(std::function<void()> task) const = 0;
};

// Calls body(0) ... body(chunks - 1), once each, on this thread and on any of the pool's that are
// free, and returns when all have returned. `body` must not throw.
//
// It never waits for a task that it scheduled: many calls may run on the pool's threads at once,
// and a call that waited for a task which no free thread can start would deadlock. The caller takes
// chunks until none is left, and then waits only for those that a helper is already working on.
//
// It schedules no more than two tasks itself; each that finds work schedules two more.
void run_chunks(std::int64_t chunks, const std::function<void(std::int64_t)>& body,
                const Pool& pool);

}  // namespace nadam_xla::cpu
