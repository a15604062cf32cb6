// Which instruction sets Highway compiles the kernels for. Include before any Highway header.
//
// The fallback of each architecture is always built (scalar code on x86, NEON on aarch64). Vectors
// of unknown size (SVE) cannot be array elements, which the matrix kernel needs; the sets between
// the fallback and AVX2 are on no machine worth tuning for.
#pragma once

#ifndef HWY_DISABLED_TARGETS
#if defined(REFORMER_WITHOUT_AVX512)  // on x86
#define HWY_DISABLED_TARGETS (~(HWY_AVX2 | HWY_SCALAR | HWY_EMU128))
#elif defined(__x86_64__) || defined(_M_X64)
#define HWY_DISABLED_TARGETS (~(HWY_AVX2 | HWY_AVX3 | HWY_SCALAR | HWY_EMU128))
#else
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#endif
#endif

// Highway is used as headers only: its debug assertions would need its library.
#ifndef HWY_IS_DEBUG_BUILD
#define HWY_IS_DEBUG_BUILD 0
#endif
