// Gathers rows by position, and packs and caches tiles of keys and values. Compiled per target.
#if defined(REFORMER_KEY_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFORMER_KEY_TILES_INL_H_
#undef REFORMER_KEY_TILES_INL_H_
#else
#define REFORMER_KEY_TILES_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/attend.h"
#include "kernels/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {

// Rows of one pair's head in a tensor T [B, L, H*D].
struct HeadRows {
  const AttentionSizes& sizes;
  int64_t batch;
  int64_t head;

  size_t offset(int64_t position) const {  // elements
    const int64_t row = (batch * sizes.length + position) * sizes.heads + head;
    return static_cast<size_t>(row * sizes.head_size);
  }
};

template <typename T>
void gather_rows_of(const T* tensor, const HeadRows& head, const int32_t* positions, size_t count,
                    float* target) {
  const size_t size = static_cast<size_t>(head.sizes.head_size);
  const size_t row = round_up(size, kLanes);
  for (size_t i = 0; i < count; ++i, target += row) {
    if (positions[i] < head.sizes.length) {
      load_row(tensor + head.offset(positions[i]), size, target);
    } else {
      std::fill(target, target + row, 0.0f);  // virtual padding
    }
  }
}

// target [count, padded D] in float32.
HWY_INLINE void gather_rows(int32_t dtype, const void* tensor, const HeadRows& head,
                            const int32_t* positions, size_t count, float* target) {
  dispatch_dtype<hwy::float16_t, hwy::bfloat16_t>(dtype, [&](auto element) HWY_ATTR {
    gather_rows_of(static_cast<const decltype(element)*>(tensor), head, positions, count, target);
  });
}

// Positions `first` .. `first + count` of the order that `pair` has, or of the identity.
HWY_INLINE void list_positions(const AttendJob& job, int64_t pair, int64_t first, size_t count,
                               int32_t* positions) {
  if (job.order == nullptr) {
    for (size_t i = 0; i < count; ++i)
      positions[i] = static_cast<int32_t>(first) + static_cast<int32_t>(i);
    return;
  }
  const int64_t group_pair = pair - job.first_pair;
  const int32_t* order =
      job.order + group_pair * job.sizes.rounds * job.sizes.padded_length + first;
  std::copy(order, order + count, positions);
}

// keys [D, kTileKeys]: each column k becomes k / (sqrt(mean(k^2) + eps) * sqrt(D)), or for local
// attention k / sqrt(D).
HWY_INLINE void scale_keys(const AttendJob& job, size_t columns, float* keys) {
  const F32 df;
  const size_t size = static_cast<size_t>(job.sizes.head_size);
  const VF root = hn::Set(df, std::sqrt(static_cast<float>(size)));
  const VF inverse_size = hn::Set(df, 1.0f / static_cast<float>(size));
  const VF epsilon = hn::Set(df, job.key_norm_epsilon);
  for (size_t j = 0; j < columns; j += hn::Lanes(df)) {
    VF norm = root;
    if (job.shared_query_key) {
      VF squares = hn::Zero(df);
      for (size_t i = 0; i < size; ++i) {
        const VF key = hn::Load(df, keys + i * kTileKeys + j);
        squares = hn::MulAdd(key, key, squares);
      }
      norm = hn::Mul(root, hn::Sqrt(hn::MulAdd(squares, inverse_size, epsilon)));
    }
    const VF scale = hn::Div(hn::Set(df, 1.0f), norm);
    for (size_t i = 0; i < size; ++i) {
      float* key = keys + i * kTileKeys + j;
      hn::Store(hn::Mul(hn::Load(df, key), scale), df, key);
    }
  }
}

HWY_INLINE void mark_visible(const AttendJob& job, int64_t batch, KeyTile& tile) {
  const size_t columns = round_up(tile.count, kLanes);
  tile.min_visible = kMaskedKey;
  for (size_t i = 0; i < columns; ++i) {
    const bool real = i < tile.count;
    if (!real) tile.positions[i] = -1;  // equal to no query's position
    const int32_t position = tile.positions[i];
    const bool seen =
        real && position < job.sizes.length && job.mask[batch * job.sizes.length + position] != 0;
    tile.visible[i] = seen ? position : kMaskedKey;
    tile.fill[i] = real ? kMaskedLogit : -std::numeric_limits<float>::infinity();
    // Where a token has a logit of its own it sees itself even masked, wherever the window lists
    // it.
    const bool sees_itself = job.self_logit != kNoSelfLogit && real && position < job.sizes.length;
    tile.seen_from[i] = sees_itself ? position : tile.visible[i];
    tile.min_visible = std::min(tile.min_visible, tile.seen_from[i]);
  }
}

// Keys of the tile up to the last one that a query at `limit` or before it may see, in whole
// vectors.
HWY_INLINE size_t count_seen(const KeyTile& tile, int32_t limit) {
  if (tile.min_visible > limit) return 0;
  const I32 di;
  const auto last = hn::Set(di, limit);
  for (size_t end = round_up(tile.count, kLanes); end > kLanes; end -= kLanes) {
    for (size_t j = end - kLanes; j < end; j += hn::Lanes(di)) {
      if (!hn::AllTrue(di, hn::Gt(hn::Load(di, tile.seen_from + j), last))) {
        return std::min(tile.count, end);
      }
    }
  }
  return std::min(tile.count, kLanes);
}

// Fills `tile` with entries first .. first + count of the pair's order.
HWY_NOINLINE void pack_tile(const AttendJob& job, int64_t pair, int64_t first, size_t count,
                            float* rows, KeyTile& tile) {
  const HeadRows head{job.sizes, pair / job.sizes.heads, pair % job.sizes.heads};
  const size_t size = static_cast<size_t>(job.sizes.head_size);
  const size_t row = round_up(size, kLanes);
  const size_t columns = round_up(count, kLanes);
  tile.count = count;
  list_positions(job, pair, first, count, tile.positions);
  gather_rows(job.dtype, job.key, head, tile.positions, count, rows);
  std::fill(rows + count * row, rows + columns * row, 0.0f);
  transpose(rows, row, columns, size, tile.keys, kTileKeys);
  scale_keys(job, columns, tile.keys);
  gather_rows(job.dtype, job.value, head, tile.positions, count, tile.values);
  mark_visible(job, head.batch, tile);
}

// Tile `index` of a chunk: from the cache, or packed over the one longest unused. The cache holds a
// whole segment at least, so no tile of the segment being collected is lost.
HWY_INLINE KeyTile& fetch_tile(const AttendJob& job, int64_t pair, int64_t chunk, int64_t index,
                               AttendScratch& scratch) {
  const AttentionSizes& sizes = job.sizes;
  const int64_t tile_keys = static_cast<int64_t>(kTileKeys);
  const int64_t per_chunk = divide_up(sizes.chunk_length, tile_keys);
  const int64_t chunks = sizes.rounds * (sizes.padded_length / sizes.chunk_length);
  const int64_t tag = (pair * chunks + chunk) * per_chunk + index;
  KeyTile* oldest = scratch.tiles;
  for (size_t i = 0; i < scratch.num_tiles; ++i) {
    KeyTile& tile = scratch.tiles[i];
    if (tile.tag == tag) {
      tile.stamp = scratch.clock++;
      return tile;
    }
    if (tile.stamp < oldest->stamp) oldest = &tile;
  }
  oldest->tag = tag;
  oldest->stamp = scratch.clock++;
  const int64_t count = std::min(tile_keys, sizes.chunk_length - index * tile_keys);
  pack_tile(job, pair, chunk * sizes.chunk_length + index * tile_keys, static_cast<size_t>(count),
            scratch.rows, *oldest);
  return *oldest;
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#endif  // include guard
