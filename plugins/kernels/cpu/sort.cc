#include "kernels/cpu/sort.h"

#include <algorithm>

namespace reformer {
namespace {

constexpr int kDigitBits = 12;
static_assert(kSortDigits == size_t{1} << kDigitBits, "counters cover one digit");

// One stable counting pass by the digit at `shift`; `source` null means 0, 1, 2, ...
void count_pass(const int32_t* buckets, int64_t length, int shift, const int32_t* source,
                int32_t* target, int32_t* counters) {
  const int32_t mask = static_cast<int32_t>(kSortDigits - 1);
  std::fill(counters, counters + kSortDigits, 0);
  for (int64_t i = 0; i < length; ++i) ++counters[(buckets[i] >> shift) & mask];
  int32_t start = 0;
  for (size_t digit = 0; digit < kSortDigits; ++digit) {
    const int32_t count = counters[digit];
    counters[digit] = start;
    start += count;
  }
  for (int64_t i = 0; i < length; ++i) {
    const int32_t position = source == nullptr ? static_cast<int32_t>(i) : source[i];
    target[counters[(buckets[position] >> shift) & mask]++] = position;
  }
}

}  // namespace

bool sort_positions(const int32_t* buckets, int64_t length, int64_t padded_length, int32_t* order,
                    int32_t* spare, int32_t* counters) {
  int32_t low = 0;
  int32_t high = 0;
  for (int64_t i = 0; i < length; ++i) {
    low = std::min(low, buckets[i]);
    high = std::max(high, buckets[i]);
  }
  if (low < 0) return false;
  // Hashed buckets fit one digit nearly always; pinned ones may take any int32.
  int passes = 1;
  while (passes < 3 && (high >> (kDigitBits * passes)) != 0) ++passes;
  const int32_t* source = nullptr;
  for (int pass = 0; pass < passes; ++pass) {
    int32_t* target = (passes - 1 - pass) % 2 == 0 ? order : spare;
    count_pass(buckets, length, kDigitBits * pass, source, target, counters);
    source = target;
  }
  for (int64_t i = length; i < padded_length; ++i) order[i] = static_cast<int32_t>(i);
  return true;
}

void order_chunks(int64_t length, int64_t chunk_length, int32_t* order, int32_t* spare) {
  int32_t* chunk_starts = spare;  // of each position's chunk
  for (int64_t start = 0; start < length; start += chunk_length) {
    const int64_t end = std::min(start + chunk_length, length);
    for (int64_t i = start; i < end; ++i) chunk_starts[order[i]] = static_cast<int32_t>(start);
    order[start] = static_cast<int32_t>(end - start - 1);
  }
  // From the last position on, so that a chunk's first place is filled last: until then it says
  // which one is next.
  for (int64_t position = length - 1; position >= 0; --position) {
    int32_t* chunk = order + chunk_starts[position];
    const int32_t place = chunk[0];
    chunk[place] = static_cast<int32_t>(position);
    if (place > 0) chunk[0] = place - 1;
  }
}

}  // namespace reformer
