// REFORMER_SELECT(function): of the versions that Highway compiled of a function in namespace
// reformer, the fastest that this machine can run. Include behind hwy/highway.h.
#pragma once

#include "hwy/highway.h"
#include "kernels/cpu/cpu_target.h"

#if HWY_TARGETS & HWY_AVX3
#define REFORMER_AVX512_OR(function) cpu_target() >= CpuTarget::kAvx512 ? &N_AVX3::function:
#else
#define REFORMER_AVX512_OR(function)
#endif
#if HWY_TARGETS & HWY_AVX2
#define REFORMER_AVX2_OR(function) cpu_target() >= CpuTarget::kAvx2 ? &N_AVX2::function:
#else
#define REFORMER_AVX2_OR(function)
#endif
#define REFORMER_SELECT(function) \
  (REFORMER_AVX512_OR(function) REFORMER_AVX2_OR(function) & HWY_STATIC_DISPATCH(function))
