// Linear's products: rows of int8 or bfloat16 by a panel of the weight, on the instructions that
// this processor has for them. float32's are in dense.h.
//
// Both types look alike to the instructions: they take words of 4 bytes, 4 int8 or 2 bfloat16
// numbers that lie behind each other along K, and add a word's products to a sum of 32 bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "reformer_kernels.h"

namespace reformer {

constexpr size_t kPanelColumns = 32;  // outputs multiplied together
constexpr size_t kWordBytes = 4;
// Rows of words are padded with zeros to this many bytes: a tile's row.
constexpr size_t kRowMultiple = 64;
// Kernels may read rows, and write sums, up to a multiple of this many.
constexpr size_t kRowBlock = 32;
constexpr size_t kPanelStepBytes = kPanelColumns * kWordBytes;  // one word of every output

// What a number of a row becomes.
enum class RowFormat {
  kAsWeight,  // int8 or bfloat16
  kBiased,    // uint8, 128 more than the number it stands for
  kWide,      // int16: a row has twice the bytes of its weight
};

struct ProductsJob {
  const uint8_t* rows;   // [num_rows up to kRowBlock's multiple][row_bytes]
  size_t row_bytes;      // from row to row
  size_t num_rows;       // >= 1
  const uint8_t* panel;  // [steps][kPanelColumns][kWordBytes]
  size_t steps;          // words of an output, a multiple of kRowMultiple / kWordBytes
  void* sums;            // [num_rows up to kRowBlock's multiple][kPanelColumns] int32 or float
};

using MultiplyFunction = void (*)(const ProductsJob& job);

struct Products {
  const char* name;
  int32_t weight_dtype;  // REFORMER_INT8, REFORMER_BFLOAT16 or REFORMER_FLOAT32
  RowFormat row_format;
  MultiplyFunction multiply;  // null for float32, which run_dense multiplies
  bool sets_tiles = false;    // every call does, which takes time
};

// From slow to fast; each has what those before it have.
enum class ProductsTarget { kNone, kAvx2, kAvxVnni, kAvx512, kAmx };

// The best ones here for a weight of that dtype; null where there are none, and for bfloat16 where
// float32 was measured to be as fast (plugins/README.md).
const Products* select_products(int32_t weight_dtype);

// For tests: exactly these, for bfloat16 too; false where this processor has not got them. Not
// while kernels run. The environment variable REFORMER_CPU_PRODUCTS, none, avx2, avx-vnni,
// avx512 or amx, does the same for a process; reformer_export refuses other values.
bool set_products_target(ProductsTarget target);
// For tests: these, whatever they are.
void set_products(const Products* int8, const Products* bfloat16);

#if defined(__x86_64__) && defined(__GNUC__)
void multiply_int8_avx2(const ProductsJob& job);
void multiply_int8_avx_vnni(const ProductsJob& job);
void multiply_int8_avx512(const ProductsJob& job);
void multiply_bfloat16_avx512(const ProductsJob& job);
void multiply_int8_amx(const ProductsJob& job);
void multiply_bfloat16_amx(const ProductsJob& job);
#endif

}  // namespace reformer
