#include "kernels/cpu/linear/products.h"

#include <atomic>
#include <cstdlib>
#include <string_view>

#include "kernels/cpu/cpu_target.h"
#include "kernels/cpu/linear/dense.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace reformer {
namespace {

// What a target multiplies each type with; null: it does not.
struct TargetProducts {
  ProductsTarget target;
  std::string_view name;  // in REFORMER_CPU_PRODUCTS
  const Products* int8;
  const Products* bfloat16;
};

// Of the kernels' own instruction sets: int8's say less of float32 (AVX-512 without VNNI).
constexpr Products kAvx2Float32 = {"AVX2", REFORMER_FLOAT32, RowFormat::kAsWeight, nullptr};
constexpr Products kAvx512Float32 = {"AVX-512", REFORMER_FLOAT32, RowFormat::kAsWeight, nullptr};

#if defined(__x86_64__) && defined(__GNUC__)
constexpr Products kAvx2Int8 = {"AVX2", REFORMER_INT8, RowFormat::kWide, multiply_int8_avx2};
constexpr Products kAvxVnniInt8 = {"AVX-VNNI", REFORMER_INT8, RowFormat::kBiased,
                                   multiply_int8_avx_vnni};
constexpr Products kAvx512Int8 = {"AVX512-VNNI", REFORMER_INT8, RowFormat::kBiased,
                                  multiply_int8_avx512};
constexpr Products kAvx512BFloat16 = {"AVX512-BF16", REFORMER_BFLOAT16, RowFormat::kAsWeight,
                                      multiply_bfloat16_avx512};
constexpr Products kAmxInt8 = {"AMX", REFORMER_INT8, RowFormat::kAsWeight, multiply_int8_amx, true};
constexpr Products kAmxBFloat16 = {"AMX", REFORMER_BFLOAT16, RowFormat::kAsWeight,
                                   multiply_bfloat16_amx, true};
constexpr TargetProducts kTargets[] = {
    {ProductsTarget::kNone, "none", nullptr, nullptr},
    {ProductsTarget::kAvx2, "avx2", &kAvx2Int8, nullptr},
    {ProductsTarget::kAvxVnni, "avx-vnni", &kAvxVnniInt8, nullptr},
    {ProductsTarget::kAvx512, "avx512", &kAvx512Int8, &kAvx512BFloat16},
    {ProductsTarget::kAmx, "amx", &kAmxInt8, &kAmxBFloat16}};

// Linux keeps the tiles from a process until it asks for them (Documentation/arch/x86/xstate.rst).
bool ask_for_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kRequestPermission = 0x1023;
  constexpr int kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool has_target(ProductsTarget target) {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  unsigned eax1 = 0;
  __builtin_cpu_init();
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return target == ProductsTarget::kNone;
  const unsigned edx0 = edx;
  if (eax >= 1) __get_cpuid_count(7, 1, &eax1, &ebx, &ecx, &edx);
  switch (target) {
    case ProductsTarget::kAmx: {
      constexpr unsigned kAmx = 1u << 22 | 1u << 24 | 1u << 25;  // bf16, tile, int8
      return (edx0 & kAmx) == kAmx && ask_for_tiles();
    }
    case ProductsTarget::kAvx512:
      return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    case ProductsTarget::kAvx2:
      return __builtin_cpu_supports("avx2");
    case ProductsTarget::kAvxVnni:
      return __builtin_cpu_supports("avx2") && (eax1 & 1u << 4) != 0;
    case ProductsTarget::kNone:
      break;
  }
  return true;
}

bool has_avx512_bfloat16() { return __builtin_cpu_supports("avx512bf16"); }
#else
constexpr TargetProducts kTargets[] = {{ProductsTarget::kNone, "none", nullptr, nullptr}};
bool has_target(ProductsTarget target) { return target == ProductsTarget::kNone; }
bool has_avx512_bfloat16() { return false; }
#endif

struct Choice {
  std::atomic<const Products*> int8{nullptr};
  std::atomic<const Products*> bfloat16{nullptr};
  std::atomic<bool> has_float32{false};

  Choice() {
    const char* wanted = std::getenv("REFORMER_CPU_PRODUCTS");
    for (const TargetProducts& target : kTargets) {
      const bool is_wanted = wanted != nullptr && target.name == wanted;
      if (!has_target(target.target)) continue;
      take(target, is_wanted);
      if (is_wanted) return;
    }
  }

  // Where float32 has as many products a cycle as AVX512-BF16, that is for tests only.
  void take(const TargetProducts& target, bool whatever_its_speed) {
    int8 = target.int8;
    has_float32 = target.target != ProductsTarget::kNone;
    const bool is_fast = target.target == ProductsTarget::kAmx;
    const bool is_there = target.target != ProductsTarget::kAvx512 || has_avx512_bfloat16();
    bfloat16 = is_there && (is_fast || whatever_its_speed) ? target.bfloat16 : nullptr;
  }
};

Choice& chosen() {
  static Choice choice;
  return choice;
}

}  // namespace

const Products* select_products(int32_t weight_dtype) {
  switch (weight_dtype) {
    case REFORMER_INT8:
      return chosen().int8.load();
    case REFORMER_BFLOAT16:
      return chosen().bfloat16.load();
    default:
      if (!chosen().has_float32 || !has_dense()) return nullptr;
      return cpu_target() == CpuTarget::kAvx512 ? &kAvx512Float32 : &kAvx2Float32;
  }
}

bool set_products_target(ProductsTarget target) {
  for (const TargetProducts& known : kTargets) {
    if (known.target != target || !has_target(target)) continue;
    chosen().take(known, true);
    return true;
  }
  return false;
}

void set_products(const Products* int8, const Products* bfloat16) {
  chosen().int8 = int8;
  chosen().bfloat16 = bfloat16;
}

}  // namespace reformer
