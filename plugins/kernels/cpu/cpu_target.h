// Which of the compiled instruction sets this machine can run.
#pragma once

namespace reformer {

enum class CpuTarget { kFallback = 0, kAvx2 = 1, kAvx512 = 2 };

// The best one, asked of the processor once; set_cpu_target lowers it.
CpuTarget cpu_target();

// For tests: use at most this one. Not while kernels run.
void set_cpu_target(CpuTarget highest);

const char* cpu_target_name();

}  // namespace reformer
