// Warp intrinsics: every lane comes with its part, the last one computes all results.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/element_types.h"
#include "scheduler.h"

namespace reformer::cuda {

namespace emulation {

inline void demand_full_warp(unsigned mask, Site site, const char* name) {
  if (mask != kFullWarp) fail(site, "%s of lanes %08x, expected all of them", name, mask);
}

template <typename T>
struct ShuffleInput {
  T value;
  int source_lane;  // where the lane's result comes from
};

template <typename T>
T shuffle(Site site, const char* name, T value, int source_lane) {
  const ShuffleInput<T> input{value, source_lane};
  T result{};
  warp_collective(site, name, &input, &result, [](const void* const* in, void* const* out) {
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const int from = static_cast<const ShuffleInput<T>*>(in[lane])->source_lane;
      *static_cast<T*>(out[lane]) = static_cast<const ShuffleInput<T>*>(in[from])->value;
    }
  });
  return result;
}

inline int running_lane() { return static_cast<int>(place.thread_index.x) % kWarpSize; }

}  // namespace emulation

inline void __syncwarp(unsigned mask = kFullWarp, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
  const emulation::Site site{file, line};
  emulation::demand_full_warp(mask, site, "__syncwarp");
  if (!emulation::is_omitted(site)) {
    emulation::warp_collective(site, "__syncwarp", nullptr, nullptr, nullptr);
  }
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source_lane, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
  const emulation::Site site{file, line};
  emulation::demand_full_warp(mask, site, "__shfl_sync");
  return emulation::shuffle(site, "__shfl_sync", value, source_lane & (kWarpSize - 1));
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  const emulation::Site site{file, line};
  emulation::demand_full_warp(mask, site, "__shfl_xor_sync");
  const int source = emulation::running_lane() ^ lane_mask;
  return emulation::shuffle(site, "__shfl_xor_sync", value, source & (kWarpSize - 1));
}

// A lane without a source keeps its own value.
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, const char* file = __builtin_FILE(),
                 int line = __builtin_LINE()) {
  const emulation::Site site{file, line};
  emulation::demand_full_warp(mask, site, "__shfl_up_sync");
  const int lane = emulation::running_lane();
  const int source = lane - static_cast<int>(delta);
  return emulation::shuffle(site, "__shfl_up_sync", value, source < 0 ? lane : source);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, const char* file = __builtin_FILE(),
                   int line = __builtin_LINE()) {
  const emulation::Site site{file, line};
  emulation::demand_full_warp(mask, site, "__shfl_down_sync");
  const int lane = emulation::running_lane();
  const int source = lane + static_cast<int>(delta);
  return emulation::shuffle(site, "__shfl_down_sync", value, source >= kWarpSize ? lane : source);
}

// Bit l: whether lane l's predicate is not 0.
inline unsigned __ballot_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
  const emulation::Site site{file, line};
  emulation::demand_full_warp(mask, site, "__ballot_sync");
  unsigned result = 0;
  emulation::warp_collective(site, "__ballot_sync", &predicate, &result,
                             [](const void* const* in, void* const* out) {
                               unsigned bits = 0;
                               for (int lane = 0; lane < kWarpSize; ++lane) {
                                 const bool set = *static_cast<const int*>(in[lane]) != 0;
                                 bits |= static_cast<unsigned>(set) << lane;
                               }
                               for (int lane = 0; lane < kWarpSize; ++lane) {
                                 *static_cast<unsigned*>(out[lane]) = bits;
                               }
                             });
  return result;
}

inline int __any_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}

inline int __all_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, file, line) == kFullWarp;
}

// Bit l: whether lane l has the same value.
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, const char* file = __builtin_FILE(),
                          int line = __builtin_LINE()) {
  const emulation::Site site{file, line};
  emulation::demand_full_warp(mask, site, "__match_any_sync");
  unsigned result = 0;
  emulation::warp_collective(
      site, "__match_any_sync", &value, &result, [](const void* const* in, void* const* out) {
        for (int lane = 0; lane < kWarpSize; ++lane) {
          unsigned bits = 0;
          for (int other = 0; other < kWarpSize; ++other) {
            const bool same = *static_cast<const T*>(in[lane]) == *static_cast<const T*>(in[other]);
            bits |= static_cast<unsigned>(same) << other;
          }
          *static_cast<unsigned*>(out[lane]) = bits;
        }
      });
  return result;
}

}  // namespace reformer::cuda
