// Tries the handlers with calls as programs make them, of which half have one thing wrong.
//
//   fuzz --calls N | --seconds S  [--seed K] [--first I]
//   fuzz --instruction-sets       prints those of this machine, one of which NADAM_XLA_MAX_ISA
//   names
//
// Call number I of seed K is the same on every machine: where one fails, its number is printed, and
// `--seed K --first I --calls 1` runs it alone.

#include <sanitizer/common_interface_defs.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "kernels/cpu/instruction_set.h"
#include "tests/native_boundary/calls.h"
#include "tests/native_boundary/counted_memory.h"
#include "tests/native_boundary/cuda_on_host.h"
#include "tests/native_boundary/fixed_calls.h"
#include "tests/native_boundary/handlers.h"

namespace nadam_xla::native_boundary {
namespace {

constexpr XLA_FFI_Handler* kCudaHandlers[kTargets] = {
    nadam_xla_update_v1_cuda_on_host,       nadam_xla_update_v2_cuda_on_host,
    nadam_xla_update_entry_v1_cuda_on_host, nadam_xla_update_rows_v1_cuda_on_host,
    nadam_xla_sum_squares_v1_cuda_on_host,
};

struct Options {
  std::uint64_t seed = 1;
  std::int64_t first = 0, calls = std::numeric_limits<std::int64_t>::max();
  double seconds = std::numeric_limits<double>::infinity();
};

// For the report of a sanitizer, which ends the process.
std::uint64_t seed_now = 0;
std::int64_t call_now = 0;

void print_call() {
  std::fprintf(stderr, "\nIt was call %lld of seed %llu.\n", static_cast<long long>(call_now),
               static_cast<unsigned long long>(seed_now));
}

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  print_call();
  std::exit(1);
}

struct Counts {
  std::int64_t taken[kTargets][2] = {}, refused[kTargets][2] = {};
};

void run_one(Random random, Counts& counts) {
  const auto target = static_cast<Target>(random.below(kTargets));
  const auto platform = random.once_in(3) ? Platform::kCuda : Platform::kCpu;
  const auto when = static_cast<When>(random.below(kWhens));
  Pool pool(when, random.one_of({0, 1, 2, 3, 8, 64}));
  Call call = valid_call(target, platform, random);
  Expected expected = Expected::kSuccess;
  const std::int64_t wrongs = random.below(10) < 4   ? 0
                              : random.below(6) == 0 ? 2 + random.below(4)
                                                     : 1;
  for (std::int64_t i = 0; i < wrongs; ++i) expected = make_wrong(call, random);
  if (wrongs > 1) expected = Expected::kEither;

  const int number = static_cast<int>(target);
  const bool is_cuda = platform == Platform::kCuda;
  const std::int64_t before = bytes_allocated();
  const auto error = run((is_cuda ? kCudaHandlers : kCpuHandlers)[number], call, pool);
  const std::int64_t allocated = bytes_allocated() - before;
  const std::string name = std::string(kNames[number]) + ": ";
  if (error && error->compare(0, name.size(), name) != 0) {
    fail("The error does not begin with '" + name + "': " + *error);
  }
  if (error && expected == Expected::kSuccess) fail("A call as it should be is refused: " + *error);
  if (!error && expected == Expected::kError) {
    fail(std::string("A wrong call of ") + kNames[number] + " is taken");
  }
  if (allocated > most_bytes(call)) {
    fail(name + "it took " + std::to_string(allocated) + " bytes of memory, where " +
         std::to_string(most_bytes(call)) + " should do");
  }
  ++(error ? counts.refused : counts.taken)[number][is_cuda];
}

Options options_of(const int argc, char** const argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--calls") options.calls = std::atoll(argv[i + 1]);
    if (name == "--seconds") options.seconds = std::atof(argv[i + 1]);
    if (name == "--seed") options.seed = std::strtoull(argv[i + 1], nullptr, 10);
    if (name == "--first") options.first = std::atoll(argv[i + 1]);
  }
  return options;
}

int run_all(const Options& options) {
  __sanitizer_set_death_callback(print_call);
  std::signal(SIGABRT, [](int) { print_call(); });
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [begin] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  Counts counts;
  seed_now = options.seed;
  std::int64_t done = 0;
  for (; done < options.calls && seconds() < options.seconds; ++done) {
    call_now = options.first + done;
    Random numbers(options.seed * 0x9e3779b97f4a7c15 + static_cast<std::uint64_t>(call_now));
    run_one(Random(numbers.bits()), counts);
  }
  std::printf("%lld calls in %.0f s, seed %llu, loops for %s; taken and refused:\n",
              static_cast<long long>(done), seconds(),
              static_cast<unsigned long long>(options.seed), cpu::instruction_set().name);
  for (int target = 0; target < kTargets; ++target) {
    for (int cuda = 0; cuda < 2; ++cuda) {
      std::printf("  %-26s %-13s %9lld %9lld\n", kNames[target], cuda ? "CUDA's threads" : "CPU",
                  static_cast<long long>(counts.taken[target][cuda]),
                  static_cast<long long>(counts.refused[target][cuda]));
    }
  }
  return 0;
}

}  // namespace
}  // namespace nadam_xla::native_boundary

// UndefinedBehaviorSanitizer calls no death callback, so that its report ends in a signal.
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1"; }

int main(const int argc, char** const argv) {
  using namespace nadam_xla::native_boundary;
  if (argc == 2 && std::string(argv[1]) == "--instruction-sets") {
    for (const std::string& name : nadam_xla::cpu::available_instruction_sets()) {
      std::printf("%s\n", name.c_str());
    }
    return 0;
  }
  if (run_fixed_calls() != 0) return 1;
  std::fflush(stdout);
  return run_all(options_of(argc, argv));
}
