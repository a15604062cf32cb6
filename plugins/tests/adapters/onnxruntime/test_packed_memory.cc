// Packed weights are held once, whoever takes and drops them, in any thread.
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "adapters/onnxruntime/packed_memory.h"
#include "check.h"

namespace reformer::test {
namespace {

using onnxruntime::count_shared;
using onnxruntime::PackedMemory;
using Shared = std::shared_ptr<const PackedMemory>;

// `bytes` of zeros, but for the last one.
Shared share(size_t bytes, int last) {
  auto packed = std::make_unique<PackedMemory>(bytes);
  auto* data = static_cast<unsigned char*>(packed->data());
  std::memset(data, 0, bytes);
  data[bytes - 1] = static_cast<unsigned char>(last);
  return onnxruntime::share_packed(std::move(packed));
}

bool holds(const PackedMemory& packed, size_t bytes, int last) {
  const auto* data = static_cast<const unsigned char*>(packed.data());
  return packed.size() == bytes && data[0] == 0 && data[bytes - 1] == last;
}

void check_sharing() {
  const Shared one = share(5000, 1);
  CHECK(share(5000, 1) == one, "the same bytes are held twice");
  // The beginning is the same, and so is the hash.
  const Shared other = share(5000, 2);
  const Shared longer = share(5001, 1);
  CHECK(other != one && longer != one && longer != other, "other bytes are shared");
  CHECK(holds(*one, 5000, 1) && holds(*other, 5000, 2) && holds(*longer, 5001, 1), "bytes changed");
  CHECK(count_shared() == 3, "%zu blocks, expected 3", count_shared());
}

// Threads that take and drop few kinds of blocks, so that often the last holder of one lets go
// while another looks for it.
void take_and_drop(unsigned seed, int turns, int* wrong) {
  std::mt19937 random(seed);
  std::vector<Shared> held(3);
  for (int i = 0; i < turns; ++i) {
    const int kind = static_cast<int>(random() % 4);
    const size_t bytes = 2000 + static_cast<size_t>(kind / 2);
    const Shared taken = share(bytes, kind);
    *wrong += !holds(*taken, bytes, kind);
    held[random() % held.size()] = random() % 2 == 0 ? taken : nullptr;
  }
}

void check_threads(int turns) {
  constexpr unsigned kThreads = 4;
  int wrong[kThreads] = {};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) {
    threads.emplace_back(take_and_drop, i, turns, &wrong[i]);
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : wrong) CHECK(count == 0, "%d blocks held other bytes", count);
}

}  // namespace
}  // namespace reformer::test

int main() {
  using namespace reformer::test;
  check_sharing();
  CHECK(count_shared() == 0, "%zu blocks are left", count_shared());
  check_threads(3000);
  CHECK(count_shared() == 0, "%zu blocks are left by threads", count_shared());
  return FINISH_TEST();
}
