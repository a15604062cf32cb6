// The emulated device notices what a real one punishes at random, or not at all.
#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "check.h"
#include "child.h"
#include "control.h"
#include "kernel_runs.h"
#include "kernels/cuda/device/device.h"
#include "kernels/cuda/device/warp.cuh"

namespace reformer::cuda {
namespace {

using emulation::set_seed;
using test::survives;

__global__ void skip_barrier(unsigned limit) {
  if (threadIdx.x < limit) __syncthreads();
}
__global__ void meet_elsewhere() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void skip_collective() {
  if (threadIdx.x % 2 == 0) __shfl_xor_sync(kFullWarp, 1, 2);
}
__global__ void name_half_a_warp() { __ballot_sync(0xFFFF, 1); }
__global__ void read_element(Global<const float> data, int64_t index, Global<float> target) {
  if (threadIdx.x == 0) target[0] = data[index];
}
__global__ void load_at(Global<const float> data, int64_t index) { load_vector(data + index); }
__global__ void write_shared(size_t byte) {
  if (threadIdx.x == 0) dynamic_shared()[byte] = 1;
}
__global__ void leave_copies(Global<const float> data) {
  copy_async_16(dynamic_shared() + 16 * threadIdx.x, data, true);
  commit_copies();
}
__global__ void do_nothing() {}

void check_refusals() {
  CHECK(survives([] { return run(skip_barrier, 1, 64, 0, 64u); }), "a barrier of all threads");
  CHECK(!survives([] { return run(skip_barrier, 1, 64, 0, 40u); }), "a thread exits early");
  CHECK(!survives([] { return run(meet_elsewhere, 1, 64, 0); }), "two barriers at once");
  CHECK(!survives([] { return run(skip_collective, 1, 32, 0); }), "a lane stays away");
  CHECK(!survives([] { return run(name_half_a_warp, 1, 32, 0); }), "half a warp");
  CHECK(!survives([] { return run(do_nothing, 1, 48, 0); }), "48 threads");
  CHECK(!survives([] { return run(do_nothing, 1, 2048, 0); }), "2048 threads");
  CHECK(!survives([] { return run(do_nothing, 1, 32, 64 * 1024 + 16); }),
        "more than 64 KB of shared memory");
  CHECK(survives([] { return run(write_shared, 1, 32, 40, size_t{39}); }), "the last byte");
  CHECK(!survives([] { return run(write_shared, 1, 32, 40, size_t{40}); }), "behind the last byte");
}

void check_bounds() {
  std::vector<float> data = {1, 2, 3, 4, 5};
  std::vector<float> target(1);
  const Global<const float> all = view(data);
  const auto reads = [&](int64_t index) {
    return survives([&] { return run(read_element, 1, 32, 0, all, index, view(target)); });
  };
  CHECK(reads(0) && reads(4), "elements of the array");
  CHECK(!reads(5) && !reads(-1), "elements outside of the array");
  const auto loads = [&](int64_t index) {
    return survives([&] { return run(load_at, 1, 32, 0, all, index); });
  };
  CHECK(loads(0), "a vector");
  CHECK(!loads(1), "a vector that is not aligned");
  CHECK(!loads(2), "a vector that ends outside");
  CHECK(!survives([&] { return run(leave_copies, 1, 32, 512, all); }), "copies nobody waits for");
}

__global__ void read_fresh(Global<int32_t> seen) {
  int32_t* shared = reinterpret_cast<int32_t*>(dynamic_shared());
  seen[blockIdx.x * blockDim.x + threadIdx.x] = shared[threadIdx.x];
  shared[threadIdx.x] = 5;
}

void check_poison() {
  std::vector<int32_t> seen(96, 0);
  CHECK(run(read_fresh, 3, 32, 128, view(seen)), "launch");
  for (const int32_t value : seen) CHECK(value == -1, "a block found %d", value);
}

__global__ void copy_through_shared(Global<const float> source, Global<float> target, bool wait,
                                    bool valid) {
  float* shared = reinterpret_cast<float*>(dynamic_shared());
  const unsigned vector = threadIdx.x * 4;
  copy_async_16(shared + vector, source + vector, valid);
  commit_copies();
  if (wait) wait_copies<0>();
  __syncthreads();
  target[threadIdx.x] = shared[127 - threadIdx.x];
  __syncthreads();
  wait_copies<0>();
}

void check_copies() {
  std::vector<float> source(128);
  for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<float>(i);
  std::vector<float> target(32);
  const Global<const float> from = view(source);
  CHECK(run(copy_through_shared, 1, 32, 512, from, view(target), true, true), "launch");
  for (size_t i = 0; i < target.size(); ++i) CHECK(target[i] == source[127 - i], "element %zu", i);
  CHECK(run(copy_through_shared, 1, 32, 512, from, view(target), true, false), "launch");
  for (const float value : target) CHECK(value == 0, "a copy that is not valid brought %g", value);
  CHECK(run(copy_through_shared, 1, 32, 512, from, view(target), false, true), "launch");
  for (const float value : target) CHECK(std::isnan(value), "%g before it was waited for", value);
  // On Turing a copy is done at once.
  emulation::emulate_turing(true);
  CHECK(run(copy_through_shared, 1, 32, 512, from, view(target), false, true), "launch");
  emulation::emulate_turing(false);
  for (size_t i = 0; i < target.size(); ++i) CHECK(target[i] == source[127 - i], "element %zu", i);
}

__global__ void note_order(Global<int32_t> count, Global<int32_t> order) {
  order[atomicAdd(&count[0], 1)] = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
}

std::vector<int32_t> find_order(uint32_t seed) {
  std::vector<int32_t> count(1, 0);
  std::vector<int32_t> order(256, -1);
  set_seed(seed);
  CHECK(run(note_order, 4, 64, 0, view(count), view(order)), "launch");
  return order;
}

void check_order() {
  const std::vector<int32_t> order = find_order(1);
  CHECK(order == find_order(1), "a seed determines the order");
  CHECK(order != find_order(2), "another seed gives another order");
  CHECK(std::set<int32_t>(order.begin(), order.end()).size() == 256, "every thread runs once");
}

__global__ void reverse(Global<int32_t> target) {
  int32_t* shared = reinterpret_cast<int32_t*>(dynamic_shared());
  shared[threadIdx.x] = static_cast<int32_t>(threadIdx.x);
  __syncthreads();
  target[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

void check_omission() {
  std::vector<int32_t> expected;
  for (int32_t i = 63; i >= 0; --i) expected.push_back(i);
  std::vector<int32_t> target(64);
  const std::vector<std::string> before = emulation::met_barriers();
  CHECK(run(reverse, 1, 64, 256, view(target)) && target == expected, "with its barrier");
  const std::vector<std::string> met = emulation::met_barriers();
  std::string name;
  std::set_difference(met.begin(), met.end(), before.begin(), before.end(), &name);
  emulation::omit_barrier(name);
  CHECK(run(reverse, 1, 64, 256, view(target)) && target != expected, "without its barrier %s",
        name.c_str());
  emulation::omit_barrier("");
}

void check_launch() {
  CHECK(launch(do_nothing, 0, 32, 0, nullptr) == REFORMER_OK, "no blocks");
  CHECK(launch(do_nothing, int64_t{1} << 31, 32, 0, nullptr) == REFORMER_ERROR_TOO_LARGE, "2^31");
  emulation::refuse_launch_after(1);
  CHECK(launch(do_nothing, 1, 32, 0, nullptr) == REFORMER_OK, "the one before");
  CHECK(launch(do_nothing, 1, 32, 0, nullptr) == REFORMER_ERROR_LAUNCH, "the refused one");
  CHECK(launch(do_nothing, 1, 32, 0, nullptr) == REFORMER_OK, "the one after");
}

}  // namespace
}  // namespace reformer::cuda

int main() {
  using namespace reformer::cuda;
  check_refusals();
  check_bounds();
  check_poison();
  check_copies();
  check_order();
  check_omission();
  check_launch();
  return FINISH_TEST();
}
