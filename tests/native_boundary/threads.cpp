// Valid calls, several at once, each with a pool of its own that runs tasks at once, on threads,
// late or never. For ThreadSanitizer, which also sees what is touched after a call is over.
//
//   threads CALLS

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "kernels/cpu/parallel.h"
#include "tests/native_boundary/calls.h"
#include "tests/native_boundary/handlers.h"

namespace nadam_xla::native_boundary {
namespace {

constexpr int kCallers = 3;

class CpuPool final : public cpu::Pool {
 public:
  explicit CpuPool(native_boundary::Pool& pool) : pool_(pool) {}
  std::int64_t threads() const override { return pool_.threads(); }
  void schedule(std::function<void()> task) const override {
    if (!pool_.schedule(task)) task();
  }

 private:
  native_boundary::Pool& pool_;
};

When any_when(Random& random) {
  return random.once_in(2) ? When::kOnThreads : static_cast<When>(random.below(kWhens));
}

// Each chunk once, and all of it seen by the caller afterwards. Returns whether that is so.
bool run_chunks_once(Random& random) {
  const std::int64_t chunks = random.below(40);
  std::vector<int> runs(static_cast<std::size_t>(chunks));
  Pool pool(any_when(random), 1 + random.below(8));
  const auto body = [&runs](const std::int64_t i) { ++runs[static_cast<std::size_t>(i)]; };
  cpu::run_chunks(chunks, body, CpuPool(pool));
  for (const int times : runs) {
    if (times != 1) return false;
  }
  return true;
}

bool run_call(Random& random) {
  const auto target = static_cast<Target>(random.below(kTargets));
  Pool pool(any_when(random), 1 + random.below(8));
  const Call call = valid_call(target, Platform::kCpu, random);
  return !run(kCpuHandlers[static_cast<int>(target)], call, pool);
}

}  // namespace
}  // namespace nadam_xla::native_boundary

int main(const int argc, char** const argv) {
  using namespace nadam_xla::native_boundary;
  const std::int64_t calls = argc > 1 ? std::atoll(argv[1]) : 1000;
  std::atomic<std::int64_t> next{0}, wrong{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < kCallers; ++i) {
    callers.emplace_back([&] {
      for (std::int64_t call = next++; call < calls; call = next++) {
        Random random(static_cast<std::uint64_t>(call) * 0x9e3779b97f4a7c15);
        if (!run_chunks_once(random)) ++wrong;
        if (!run_call(random)) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  std::printf("%lld calls from %d threads, and as many runs of chunks: %lld wrong\n",
              static_cast<long long>(calls), kCallers, static_cast<long long>(wrong.load()));
  return wrong == 0 ? 0 : 1;
}
