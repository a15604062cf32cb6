#include "kernels/cpu/hash.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/hash.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/matmul-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/select_version.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {

// Tokens `first` .. `first + count` of one head.
struct TokenBlock {
  int64_t batch;
  int64_t head;
  int64_t first;
  size_t count;
};

// Asks for the token kAhead behind token `index` of the block, or of the next head's, which are
// hashed next: a head's rows are too far apart for the hardware to foresee.
template <typename T>
HWY_INLINE void prefetch_ahead(const HashSizes& sizes, const TokenBlock& block, const T* tokens,
                               size_t stride, size_t index) {
  constexpr size_t kAhead = 32;
  const size_t size = static_cast<size_t>(sizes.head_size);
  const size_t ahead = index + kAhead;
  if (ahead < block.count) {
    prefetch_row(tokens + ahead * stride, size);
  } else if (block.head + 1 < sizes.heads && ahead < 2 * block.count) {
    prefetch_row(tokens + (ahead - block.count) * stride + size, size);
  }
}

// scratch.tokens: the block's tokens as columns, zeros behind the last one up to whole vectors.
template <typename T>
void load_tokens(const HashJob& job, const TokenBlock& block, const T* query_key,
                 const HashScratch& scratch) {
  const HashSizes& sizes = job.sizes;
  const size_t size = static_cast<size_t>(sizes.head_size);
  const size_t row = round_up(size, kLanes);
  const size_t stride = static_cast<size_t>(sizes.heads) * size;
  const int64_t first = block.batch * sizes.length + block.first;
  const T* tokens = query_key + (first * sizes.heads + block.head) * sizes.head_size;
  for (size_t start = 0; start < block.count; start += kLanes) {
    const size_t rows = std::min(kLanes, block.count - start);
    for (size_t i = 0; i < rows; ++i) prefetch_ahead(sizes, block, tokens, stride, start + i);
    float* target = scratch.tokens + start;
    if constexpr (std::is_same_v<T, float>) {
      if (rows == kLanes && size % 4 == 0) {  // a transposition reads whole blocks of 4
        transpose(tokens + start * stride, stride, kLanes, size, target, kHashTokens);
        continue;
      }
    }
    for (size_t i = 0; i < rows; ++i) {
      load_row(tokens + (start + i) * stride, size, scratch.rows + i * row);
    }
    std::fill(scratch.rows + rows * row, scratch.rows + kLanes * row, 0.0f);
    transpose(scratch.rows, row, kLanes, size, target, kHashTokens);
  }
}

// Takes rotated coordinates first .. first + count, in rows of `rotated`, into the running maximum
// of y and of -y. Comparing strictly keeps the lowest index on ties.
HWY_INLINE void update_extremes(size_t first, size_t count, size_t columns,
                                const HashScratch& scratch) {
  const F32 df;
  const I32 di;
  for (size_t t = 0; t < columns; t += hn::Lanes(df)) {
    VF highest = hn::Load(df, scratch.highest + t);
    VF lowest = hn::Load(df, scratch.lowest + t);
    auto highest_at = hn::Load(di, scratch.highest_at + t);
    auto lowest_at = hn::Load(di, scratch.lowest_at + t);
    for (size_t s = 0; s < count; ++s) {
      const VF y = hn::Load(df, scratch.rotated + s * kHashTokens + t);
      const auto index = hn::Set(di, static_cast<int32_t>(first + s));
      highest_at = hn::IfThenElse(hn::RebindMask(di, hn::Gt(y, highest)), index, highest_at);
      lowest_at = hn::IfThenElse(hn::RebindMask(di, hn::Lt(y, lowest)), index, lowest_at);
      highest = hn::Max(highest, y);
      lowest = hn::Min(lowest, y);
    }
    hn::Store(highest, df, scratch.highest + t);
    hn::Store(lowest, df, scratch.lowest + t);
    hn::Store(highest_at, di, scratch.highest_at + t);
    hn::Store(lowest_at, di, scratch.lowest_at + t);
  }
}

// bucket += stride * argmax(y, -y); the positive half comes first, so it wins ties.
HWY_INLINE void add_factor(int32_t half, int32_t stride, size_t columns,
                           const HashScratch& scratch) {
  const F32 df;
  const I32 di;
  for (size_t t = 0; t < columns; t += hn::Lanes(df)) {
    const VF highest = hn::Load(df, scratch.highest + t);
    const VF lowest = hn::Load(df, scratch.lowest + t);
    const auto positive = hn::RebindMask(di, hn::Ge(highest, hn::Neg(lowest)));
    const auto negative_at = hn::Add(hn::Load(di, scratch.lowest_at + t), hn::Set(di, half));
    const auto choice = hn::IfThenElse(positive, hn::Load(di, scratch.highest_at + t), negative_at);
    const auto bucket = hn::Load(di, scratch.bucket + t);
    hn::Store(hn::Add(bucket, hn::Mul(choice, hn::Set(di, stride))), di, scratch.bucket + t);
  }
}

// One round's buckets of the block's tokens, into scratch.bucket.
HWY_INLINE void hash_round(const HashJob& job, const TokenBlock& block, int64_t round,
                           const HashScratch& scratch) {
  const HashSizes& sizes = job.sizes;
  const size_t columns = round_up(block.count, kLanes);
  const size_t all_rounds = static_cast<size_t>(sizes.rounds * sizes.rotation_size);
  const float* rotations = job.rotations +
                           block.head * sizes.head_size * static_cast<int64_t>(all_rounds) +
                           round * sizes.rotation_size;
  const Nothing nothing;
  std::fill(scratch.bucket, scratch.bucket + columns, 0);
  int32_t stride = 1;
  for (int32_t f = 0; f < job.num_factors; ++f) {
    const size_t half = static_cast<size_t>(job.factors[f] / 2);
    const float infinity = std::numeric_limits<float>::infinity();
    std::fill(scratch.highest, scratch.highest + columns, -infinity);
    std::fill(scratch.lowest, scratch.lowest + columns, infinity);
    std::fill(scratch.highest_at, scratch.highest_at + columns, 0);
    std::fill(scratch.lowest_at, scratch.lowest_at + columns, 0);
    for (size_t s = 0; s < half; s += kHashColumns) {
      const size_t count = std::min(kHashColumns, half - s);
      multiply<false>(count, columns, static_cast<size_t>(sizes.head_size),
                      {rotations + s, 1, all_rounds}, scratch.tokens, kHashTokens, scratch.rotated,
                      kHashTokens, nothing);
      update_extremes(s, count, columns, scratch);
    }
    add_factor(static_cast<int32_t>(half), stride, columns, scratch);
    stride *= job.factors[f];
    rotations += half;
  }
}

HWY_INLINE void write_buckets(const HashJob& job, const TokenBlock& block, int64_t round,
                              const HashScratch& scratch) {
  const HashSizes& sizes = job.sizes;
  const int32_t* mask = job.mask + block.batch * sizes.length + block.first;
  const int64_t row = (block.batch * sizes.heads + block.head) * sizes.rounds + round;
  int32_t* buckets = job.buckets + row * sizes.length + block.first;
  for (size_t t = 0; t < block.count; ++t) {
    buckets[t] = mask[t] != 0 ? scratch.bucket[t] : sizes.masked_bucket;
  }
}

// Takes rotated coordinates first .. first + count of a round into the records: the largest size of
// y so far in `highest`, whether that y is negative in `highest_at`, the word at hand in `bucket`.
// A y of that very size comes before a -y, whose index is higher. write(word) after a word's last.
template <typename Write>
HWY_INLINE void update_records(size_t first, size_t count, bool last, size_t columns,
                               const HashScratch& scratch, const Write& write) {
  const F32 df;
  const I32 di;
  for (size_t s = 0; s < count; ++s) {
    const size_t place = (first + s) % REFORMER_RECORD_COLUMNS;
    const auto one = hn::Set(di, int32_t{1} << 2 * place);
    for (size_t t = 0; t < columns; t += hn::Lanes(df)) {
      const VF y = hn::Load(df, scratch.rotated + s * kHashTokens + t);
      const VF size = hn::Abs(y);
      const VF best = hn::Load(df, scratch.highest + t);
      const auto sign = hn::Load(di, scratch.highest_at + t);  // 1 where negative
      const auto is_negative = hn::RebindMask(di, hn::Lt(y, hn::Zero(df)));
      const auto ties = hn::And(hn::RebindMask(di, hn::Eq(size, best)),
                                hn::AndNot(is_negative, hn::Eq(sign, hn::Set(di, 1))));
      const auto moves = hn::Or(hn::RebindMask(di, hn::Gt(size, best)), ties);
      const auto digit = hn::IfThenElse(is_negative, hn::Add(one, one), one);
      const auto word = place == 0 ? hn::Zero(di) : hn::Load(di, scratch.bucket + t);
      hn::Store(hn::Or(word, hn::IfThenElseZero(moves, digit)), di, scratch.bucket + t);
      hn::Store(hn::IfThenElse(moves, hn::IfThenElseZero(is_negative, hn::Set(di, 1)), sign), di,
                scratch.highest_at + t);
      hn::Store(hn::Max(size, best), df, scratch.highest + t);
    }
    if (place + 1 == REFORMER_RECORD_COLUMNS || (last && s + 1 == count)) {
      write((first + s) / REFORMER_RECORD_COLUMNS);
    }
  }
}

HWY_INLINE void record_round(const RecordJob& job, const TokenBlock& block, int64_t round,
                             const HashScratch& scratch) {
  const HashSizes& sizes = job.hash.sizes;
  const size_t columns = round_up(block.count, kLanes);
  const size_t all = static_cast<size_t>(sizes.rotation_size);
  const size_t all_rounds = static_cast<size_t>(sizes.rounds) * all;
  const int64_t head = job.shares_rotations ? 0 : block.head;
  const float* rotations = job.hash.rotations +
                           head * sizes.head_size * static_cast<int64_t>(all_rounds) +
                           round * sizes.rotation_size;
  const int64_t pair = block.batch * sizes.heads + block.head;
  int32_t* records = job.records + (pair * sizes.rounds + round) * job.words * job.capacity +
                     job.lengths[block.batch] + block.first;
  const Nothing nothing;
  std::fill(scratch.highest, scratch.highest + columns, -1.0f);
  std::fill(scratch.highest_at, scratch.highest_at + columns, 0);
  for (size_t s = 0; s < all; s += kHashColumns) {
    const size_t count = std::min(kHashColumns, all - s);
    multiply<false>(count, columns, static_cast<size_t>(sizes.head_size),
                    {rotations + s, 1, all_rounds}, scratch.tokens, kHashTokens, scratch.rotated,
                    kHashTokens, nothing);
    update_records(s, count, s + count == all, columns, scratch, [&](size_t word) {
      std::copy(scratch.bucket, scratch.bucket + block.count,
                records + static_cast<int64_t>(word) * job.capacity);
    });
  }
}

void record_blocks(const RecordJob& job, HashScratch& scratch, int64_t begin, int64_t end) {
  const HashSizes& sizes = job.hash.sizes;
  const int64_t block_tokens = static_cast<int64_t>(kHashTokens);
  for (int64_t index = begin; index < end; ++index) {
    const int64_t token_block = index / sizes.heads;
    TokenBlock block;
    block.batch = token_block / hash_blocks_per_entry(sizes);
    block.head = index % sizes.heads;
    block.first = token_block % hash_blocks_per_entry(sizes) * block_tokens;
    const int64_t left = job.new_lengths[block.batch] - block.first;
    if (left <= 0) continue;
    block.count = static_cast<size_t>(std::min(block_tokens, left));
    dispatch_dtype<hwy::float16_t, hwy::bfloat16_t>(job.hash.dtype, [&](auto element) HWY_ATTR {
      load_tokens(job.hash, block, static_cast<const decltype(element)*>(job.hash.query_key),
                  scratch);
    });
    for (int64_t round = 0; round < sizes.rounds; ++round) {
      record_round(job, block, round, scratch);
    }
  }
}

void hash_blocks(const HashJob& job, HashScratch& scratch, int64_t begin, int64_t end) {
  const HashSizes& sizes = job.sizes;
  const int64_t block_tokens = static_cast<int64_t>(kHashTokens);
  for (int64_t index = begin; index < end; ++index) {
    // Heads innermost: they share the tokens' pages.
    const int64_t token_block = index / sizes.heads;
    TokenBlock block;
    block.batch = token_block / hash_blocks_per_entry(sizes);
    block.head = index % sizes.heads;
    block.first = token_block % hash_blocks_per_entry(sizes) * block_tokens;
    block.count = static_cast<size_t>(std::min(block_tokens, sizes.length - block.first));
    dispatch_dtype<hwy::float16_t, hwy::bfloat16_t>(job.dtype, [&](auto element) HWY_ATTR {
      load_tokens(job, block, static_cast<const decltype(element)*>(job.query_key), scratch);
    });
    for (int64_t round = 0; round < sizes.rounds; ++round) {
      hash_round(job, block, round, scratch);
      write_buckets(job, block, round, scratch);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace reformer {

HashFunction select_hash() { return REFORMER_SELECT(hash_blocks); }

RecordFunction select_records() { return REFORMER_SELECT(record_blocks); }

}  // namespace reformer
#endif  // HWY_ONCE
