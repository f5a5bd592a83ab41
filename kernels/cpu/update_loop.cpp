// Compiled once for each instruction set, with NADAM_XLA_ISA naming it (see CMakeLists.txt).
//
// Nothing here may have external linkage except the table at the end, and nothing from the standard
// library may be instantiated here: the linker keeps one copy of an inline function, and the copy
// built for AVX-512 would then run on a machine without it.
#include "kernels/cpu/update_loop.h"

#include "kernels/update_rule.h"

namespace nadam_xla::cpu {
namespace {

template <typename T>
void copy(const T* from, T* to, std::int64_t length) {
  if (from == to) return;
  for (std::int64_t i = 0; i < length; ++i) to[i] = from[i];
}

template <typename T>
void skip(const Streams<T>& s, Returns returns) {
  if (returns == Returns::kParams) {
    copy(s.params, s.updated, s.length);
  } else {
    for (std::int64_t i = 0; i < s.length; ++i) s.updated[i] = T(0);
  }
  copy(s.mu, s.mu_out, s.length);
  copy(s.nu, s.nu_out, s.length);
}

template <typename T, Returns kReturns>
void update(const Row<T>& row, const Streams<T>& streams) {
  const Streams<T> s = streams;
  // An output may be its own input, so the compiler cannot prove the iterations independent; they
  // are, and without this promise it emits scalar code, three times slower.
#pragma omp simd
  for (std::int64_t i = 0; i < s.length; ++i) {
    const Updated<T> to = update_rule(row, s.params[i], s.grads[i], s.mu[i], s.nu[i]);
    s.updated[i] = kReturns == Returns::kParams ? to.params : to.change;
    s.mu_out[i] = to.mu;
    s.nu_out[i] = to.nu;
  }
}

template <typename T>
void update_stretch(const T* coefficients, const Streams<T>& streams, Returns returns) {
  const Row<T> row = read_row(coefficients);
  if (row.skip) {
    skip(streams, returns);
  } else if (returns == Returns::kParams) {
    update<T, Returns::kParams>(row, streams);
  } else {
    update<T, Returns::kChange>(row, streams);
  }
}

}  // namespace

#define NADAM_XLA_STRINGIZE_(x) #x
#define NADAM_XLA_STRINGIZE(x) NADAM_XLA_STRINGIZE_(x)

namespace NADAM_XLA_ISA {
extern const InstructionSet kInstructionSet = {NADAM_XLA_STRINGIZE(NADAM_XLA_ISA),
                                               &update_stretch<float>, &update_stretch<double>};
}

}  // namespace nadam_xla::cpu
