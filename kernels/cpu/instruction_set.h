// Which build of the loops runs on this machine.
#pragma once

#include <string>
#include <vector>

#include "kernels/cpu/loops.h"

namespace nadam_xla::cpu {

// The widest instruction set that both this machine and the environment variable NADAM_XLA_MAX_ISA
// (one of the names below; unset or empty means no limit) allow; chosen once in a process. All of
// them give the same bits. Throws std::invalid_argument for a name that this machine cannot run.
const InstructionSet& instruction_set();

// The names of those that this machine can run, narrowest first.
std::vector<std::string> available_instruction_sets();

template <typename T>
UpdateLoop<T> update_loop();

template <typename T>
SumSquaresLoop<T> sum_squares_loop();

}  // namespace nadam_xla::cpu
