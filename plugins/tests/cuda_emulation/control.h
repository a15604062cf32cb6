// What a test may ask of the emulation.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace reformer::cuda::emulation {

// Determines the order in which blocks and threads run, from the next launch on.
void set_seed(uint32_t seed);

// Makes the device one of compute capability 7.5, or of 8.0 as it is at first.
void emulate_turing(bool yes);

// Leaves out one barrier or wait, "folder/file.cu:line" as met_barriers() spells it; "" for none.
void omit_barrier(const std::string& name);

// All barriers and waits that were met so far, sorted.
std::vector<std::string> met_barriers();

// The stream of the last launch, copy or fill.
void* last_stream();

// Kernels launched so far, and how often the host waited for the device to read from it.
int count_launches();
int count_read_backs();

// Makes the launch after `launches` more be refused, as a device out of resources does; copies and
// fills count as launches.
void refuse_launch_after(int launches);

}  // namespace reformer::cuda::emulation
