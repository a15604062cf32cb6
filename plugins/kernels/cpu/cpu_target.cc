#include "kernels/cpu/cpu_target.h"

#include <algorithm>
#include <atomic>

namespace reformer {
namespace {

CpuTarget detect_target() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  // The features Highway's AVX2 and AVX3 targets are compiled with (hwy/highway.h, HWY_TARGET_STR).
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  if (avx2 && avx512) return CpuTarget::kAvx512;
  if (avx2) return CpuTarget::kAvx2;
#endif
  return CpuTarget::kFallback;
}

std::atomic<CpuTarget>& chosen_target() {
  static std::atomic<CpuTarget> target{detect_target()};
  return target;
}

}  // namespace

CpuTarget cpu_target() { return chosen_target().load(std::memory_order_relaxed); }

void set_cpu_target(CpuTarget highest) {
  chosen_target().store(std::min(highest, detect_target()));
}

const char* cpu_target_name() {
  switch (cpu_target()) {
    case CpuTarget::kAvx512:
      return "AVX-512";
    case CpuTarget::kAvx2:
      return "AVX2";
    case CpuTarget::kFallback:
      break;
  }
#if defined(__aarch64__)
  return "NEON";
#else
  return "scalar";
#endif
}

}  // namespace reformer
