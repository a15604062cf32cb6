// The instruction sets that the kernels are compiled for and this processor runs.
#pragma once

#include <vector>

#include "kernels/cpu/cpu_target.h"

namespace reformer::test {

inline std::vector<CpuTarget> runnable_targets() {
  std::vector<CpuTarget> targets;
  for (const CpuTarget target : {CpuTarget::kFallback, CpuTarget::kAvx2, CpuTarget::kAvx512}) {
    set_cpu_target(target);
    if (cpu_target() == target) targets.push_back(target);
  }
  return targets;
}

}  // namespace reformer::test
