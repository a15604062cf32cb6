// Runs a grid on the CPU: every CUDA thread of a block is a fiber, one block after the other,
// blocks and threads in a shuffled order that a seed determines.
//
// A thread runs until it waits for others; then the one that became ready last goes on, so that one
// warp gets as far ahead of the others as barriers let it. A missing barrier then shows in both
// ways: what the others have not written yet is read, what they have not read yet is overwritten.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "barrier_sites.h"
#include "kernels/cuda/device/element_types.h"

namespace reformer::cuda::emulation {

// As CUDA's dim3 and uint3; only x is used.
struct Index {
  unsigned x = 0;
};

// Sizes of the launch, and the running thread's place in it.
struct Place {
  Index grid, block, block_index, thread_index;
};
extern Place place;

// Whether the device has compute capability 7.5 rather than 8.0: see warp.cuh.
extern bool turing;

// Prints what went wrong, where and in which thread, and aborts.
[[noreturn, gnu::format(printf, 2, 3)]] void fail(Site site, const char* format, ...);

// Runs `kernel` for every thread of the grid. False when a test wants the launch refused.
bool run_grid(unsigned grid, unsigned block, size_t shared_bytes, void* stream,
              const std::function<void()>& kernel);

// Whether the host may enqueue something else on `stream` than a kernel: likewise.
bool accepts_work(void* stream);
// The host waits for the device.
void note_read_back();

// The running block's shared memory.
char* shared_memory();

// Waits for all threads of the block.
void block_barrier(Site site);

// What a warp's lanes bring to a collective and take from it. The pointers stay good until the last
// lane has come.
using CombineLanes = void (*)(const void* const* inputs, void* const* outputs);

// Waits for all 32 lanes, which must come to the same collective at the same place; the last one
// runs `combine`.
void warp_collective(Site site, const char* name, const void* input, void* output,
                     CombineLanes combine);

// Starts an asynchronous copy of 16 bytes to `target`, in the running thread's open group.
void start_copy(void* target, const Vector16& bytes);
void close_copy_group();
// Delivers all but the thread's latest `pending` groups.
void finish_copies(int pending);

}  // namespace reformer::cuda::emulation
