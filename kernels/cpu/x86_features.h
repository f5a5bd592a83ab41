// Which vector instructions an x86-64 machine can run: its CPU has them, and its operating system
// saves their registers.
#pragma once

namespace nadam_xla::cpu {

bool has_avx2_and_fma();

// Of AVX-512 what the loops are compiled with: F, VL, BW and DQ.
bool has_avx512();

}  // namespace nadam_xla::cpu
