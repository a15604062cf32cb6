// The order in which one round of hashing lists its positions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace reformer {

constexpr size_t kSortDigits = 4096;  // counters: 12 bits of the bucket a pass

// Writes positions 0..length-1 ordered by (bucket, position), then length..padded_length-1, the
// virtual padding. Returns false, with `order` undefined, when a bucket is negative.
// buckets [length], order [padded_length], spare [length], counters [kSortDigits].
bool sort_positions(const int32_t* buckets, int64_t length, int64_t padded_length, int32_t* order,
                    int32_t* spare, int32_t* counters);

// Sorts the positions below `length` within each chunk; they stand before all others.
// order [length], spare [length].
void order_chunks(int64_t length, int64_t chunk_length, int32_t* order, int32_t* spare);

}  // namespace reformer
