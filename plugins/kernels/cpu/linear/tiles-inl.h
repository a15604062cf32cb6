// The products of tiles of 16 rows of 64 bytes, which `Tiles` holds: AMX, or a test's stand-in for
// it. Included in a namespace of its own.

// Bytes of a row that are multiplied before the next rows' turn: so much of a panel, 32 rows of
// these, stays in the nearest cache.
constexpr size_t kTileChunk = 1024;

// One chunk, from byte `begin` on: two tiles of rows by the panel's two of outputs, so that every
// tile that is read is used twice. `kPair` is false where the second one's rows are all behind the
// last.
template <typename Tiles, bool kPair>
HWY_INLINE void multiply_tiles(const ProductsJob& job, const uint8_t* rows, size_t begin,
                               size_t end, uint8_t* sums) {
  constexpr size_t kTileRows = 16;
  constexpr size_t kHalf = kPanelStepBytes / 2;
  const uint8_t* more_rows = rows + kTileRows * job.row_bytes;
  uint8_t* more_sums = sums + kTileRows * kPanelStepBytes;
  const uint8_t* panel = job.panel + begin / kWordBytes * kPanelStepBytes;
  if (begin == 0) {
    Tiles::template zero<0>();
    Tiles::template zero<1>();
    if constexpr (kPair) {
      Tiles::template zero<2>();
      Tiles::template zero<3>();
    }
  } else {
    Tiles::template load<0>(sums, kPanelStepBytes);
    Tiles::template load<1>(sums + kHalf, kPanelStepBytes);
    if constexpr (kPair) {
      Tiles::template load<2>(more_sums, kPanelStepBytes);
      Tiles::template load<3>(more_sums + kHalf, kPanelStepBytes);
    }
  }
  for (size_t at = begin; at < end; at += kRowMultiple) {
    Tiles::template load<4>(rows + at, job.row_bytes);
    Tiles::template load<6>(panel, kPanelStepBytes);
    Tiles::template load<7>(panel + kHalf, kPanelStepBytes);
    Tiles::template add_products<0, 4, 6>();
    Tiles::template add_products<1, 4, 7>();
    if constexpr (kPair) {
      Tiles::template load<5>(more_rows + at, job.row_bytes);
      Tiles::template add_products<2, 5, 6>();
      Tiles::template add_products<3, 5, 7>();
    }
    panel += kTileRows * kPanelStepBytes;
  }
  Tiles::template store<0>(sums, kPanelStepBytes);
  Tiles::template store<1>(sums + kHalf, kPanelStepBytes);
  if constexpr (kPair) {
    Tiles::template store<2>(more_sums, kPanelStepBytes);
    Tiles::template store<3>(more_sums + kHalf, kPanelStepBytes);
  }
}

template <typename Tiles>
HWY_INLINE void multiply_all_tiles(const ProductsJob& job) {
  const size_t bytes = job.steps * kWordBytes;
  Tiles::configure();
  for (size_t begin = 0; begin < bytes; begin += kTileChunk) {
    const size_t end = bytes - begin < kTileChunk ? bytes : begin + kTileChunk;
    for (size_t row = 0; row < job.num_rows; row += kRowBlock) {
      const uint8_t* rows = job.rows + row * job.row_bytes;
      uint8_t* sums = static_cast<uint8_t*>(job.sums) + row * kPanelStepBytes;
      if (job.num_rows - row > kRowBlock / 2) {
        multiply_tiles<Tiles, true>(job, rows, begin, end, sums);
      } else {
        multiply_tiles<Tiles, false>(job, rows, begin, end, sums);
      }
    }
  }
  Tiles::release();
}
