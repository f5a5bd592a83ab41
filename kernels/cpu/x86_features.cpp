// The CPU itself is asked. __builtin_cpu_supports needs a part of libgcc, and the wheels are built
// with zig, whose runtime library has no such part.
#include "kernels/cpu/x86_features.h"

#include <cpuid.h>

#include <cstdint>

namespace nadam_xla::cpu {
namespace {

// What the operating system saves of the registers, as bits of XCR0.
constexpr std::uint32_t kSavesAvx = 0b110;
constexpr std::uint32_t kSavesAvx512 = 0b1110'0110;

struct Features {
  std::uint32_t leaf1_ecx = 0;
  std::uint32_t leaf7_ebx = 0;
  std::uint32_t saved = 0;
};

std::uint32_t saved_registers() {
  std::uint32_t low;
  std::uint32_t high;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

Features features() {
  Features found;
  std::uint32_t eax, ebx, ecx, edx;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return found;
  found.leaf1_ecx = ecx;
  if ((ecx & bit_OSXSAVE) != 0) found.saved = saved_registers();
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0) found.leaf7_ebx = ebx;
  return found;
}

constexpr bool has_all(const std::uint32_t bits, const std::uint32_t wanted) {
  return (bits & wanted) == wanted;
}

}  // namespace

bool has_avx2_and_fma() {
  const Features found = features();
  return has_all(found.saved, kSavesAvx) && has_all(found.leaf1_ecx, bit_AVX | bit_FMA) &&
         has_all(found.leaf7_ebx, bit_AVX2);
}

bool has_avx512() {
  const Features found = features();
  return has_all(found.saved, kSavesAvx512) &&
         has_all(found.leaf7_ebx, bit_AVX512F | bit_AVX512VL | bit_AVX512BW | bit_AVX512DQ);
}

}  // namespace nadam_xla::cpu
