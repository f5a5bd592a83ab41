// Compiled once for each instruction set, with NADAM_XLA_ISA naming it (see CMakeLists.txt).
//
// Nothing here may have external linkage except the table at the end, and nothing from the standard
// library may be instantiated here: the linker keeps one copy of an inline function, and the copy
// built for AVX-512 would then run on a machine without it.
#include "kernels/cpu/loops.h"

#include "kernels/cpu/blockwise_loop.h"
#include "kernels/cpu/sum_squares_loop.h"
#include "kernels/cpu/update_stretch.h"

namespace nadam_xla::cpu {

#define NADAM_XLA_STRINGIZE_(x) #x
#define NADAM_XLA_STRINGIZE(x) NADAM_XLA_STRINGIZE_(x)

namespace NADAM_XLA_ISA {
extern const InstructionSet kInstructionSet = {NADAM_XLA_STRINGIZE(NADAM_XLA_ISA),
                                               &update_stretch<float>,
                                               &update_stretch<double>,
                                               &update_blockwise,
                                               &sum_squares_of_stretch<float>,
                                               &sum_squares_of_stretch<double>};
}

}  // namespace nadam_xla::cpu
