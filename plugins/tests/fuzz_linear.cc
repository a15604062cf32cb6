// Fuzz target for Linear: whatever the parameters say, packing and running return a status and stay
// inside the memory they were given.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "fuzz_bytes.h"
#include "reformer_kernels.h"

using reformer::test::Bytes;

namespace {

constexpr int64_t kRows = 3, kSize = 70, kOutputs = 33;
constexpr size_t kArena = 1 << 16;  // bytes behind every tensor: more than any accepted shape needs

struct Arena {
  std::vector<std::vector<uint8_t>> blocks;
  reformer_tensor take(Bytes& bytes, int32_t dtype, std::initializer_list<int64_t> dims) {
    blocks.emplace_back(kArena, static_cast<uint8_t>(bytes.byte() % 128));
    reformer_tensor tensor{};
    const uint8_t choice = bytes.byte();
    tensor.data = choice == 255 ? nullptr : blocks.back().data() + (choice == 254 ? 1 : 0);
    tensor.dtype = static_cast<int32_t>(bytes.number(dtype));
    tensor.rank = static_cast<int32_t>(bytes.number(static_cast<int64_t>(dims.size())));
    std::transform(dims.begin(), dims.end(), tensor.dims,
                   [&](int64_t size) { return bytes.number(size); });
    return tensor;
  }
};

// Would the call read or write beyond the arena? Such shapes are for the size queries only.
bool fits_arena(const reformer_tensor& tensor) {
  uint64_t size = 4;
  for (int32_t i = 0; i < std::min(tensor.rank, REFORMER_MAX_RANK); ++i) {
    if (tensor.dims[i] < 0 || tensor.dims[i] > static_cast<int64_t>(kArena)) return false;
    size *= static_cast<uint64_t>(tensor.dims[i]);
    if (size > kArena - 8) return false;
  }
  return true;
}

// Memory of exactly `size` bytes at a multiple of 64, so that a sanitizer sees what lies beyond.
struct Aligned {
  explicit Aligned(uint64_t size) : bytes(size + 63) {}
  void* data() {
    const auto address = reinterpret_cast<uintptr_t>(bytes.data());
    return bytes.data() + (64 - address % 64) % 64;
  }
  std::vector<uint8_t> bytes;
};

constexpr uint64_t kMostBytes = 1 << 26;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t length) {
  Bytes bytes(data, length);
  Arena arena;
  char error[64];
  reformer_linear_params params{};
  const int32_t dtype = bytes.byte() % 3;
  params.struct_size = static_cast<uint32_t>(bytes.number(sizeof(params)));
  params.abi_version = static_cast<uint32_t>(bytes.number(REFORMER_ABI_VERSION));
  params.activation = static_cast<int32_t>(bytes.number(1));
  params.x = arena.take(bytes, dtype, {kRows, kSize});
  constexpr int32_t kWeights[] = {REFORMER_BFLOAT16, REFORMER_FLOAT32, REFORMER_INT8,
                                  REFORMER_INT8};
  const int32_t weight = kWeights[bytes.byte() % 4];
  params.weight = arena.take(bytes, weight, {kOutputs, kSize});
  if (weight == REFORMER_INT8) params.scales = arena.take(bytes, REFORMER_FLOAT32, {kOutputs});
  if (bytes.byte() % 2 == 0) params.bias = arena.take(bytes, dtype, {kOutputs});
  params.y = arena.take(bytes, dtype, {kRows, kOutputs});
  params.execution.num_workers = static_cast<int32_t>(bytes.number(2));
  params.execution.error = bytes.byte() == 255 ? nullptr : error;
  params.execution.error_size = bytes.byte() % (sizeof(error) + 1);
  const bool runnable = fits_arena(params.x) && fits_arena(params.weight) &&
                        fits_arena(params.scales) && fits_arena(params.bias) &&
                        fits_arena(params.y);
  uint64_t size = 0;
  const bool is_packed = bytes.byte() % 2 == 0;
  Aligned packed(0);
  if (reformer_cpu_linear_packed_size(&params, &size) == REFORMER_OK && runnable && is_packed &&
      size < kMostBytes) {
    packed = Aligned(size);
    params.packed = packed.data();
    params.packed_size = bytes.byte() == 255 && size > 0 ? size - 1 : size;
    reformer_cpu_linear_pack(&params);
    if (bytes.byte() == 255) params.weight.dims[0] += 1;
  }
  size = 0;
  const reformer_status status = reformer_cpu_linear_workspace(&params, &size);
  if (status != REFORMER_OK || !runnable || size > kMostBytes) return 0;
  std::vector<uint8_t> workspace(size + 1);
  params.execution.workspace = bytes.byte() == 255 ? nullptr : workspace.data() + 1;
  params.execution.workspace_size = bytes.byte() == 255 && size > 0 ? size - 1 : size;
  reformer_cpu_linear(&params);
  return 0;
}
