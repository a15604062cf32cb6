// The products of tiles of 16 rows of 64 bytes, which `Tiles` holds: AMX, or a test's stand-in for
// it. Included in a namespace of its own.

// Two tiles of rows by the panel's two of outputs: every tile that is read is used twice. `kPair`
// is false where the second one's rows are all behind the last.
template <typename Tiles, bool kPair>
HWY_INLINE void multiply_tiles(const ProductsJob& job, const uint8_t* rows, uint8_t* sums) {
  constexpr size_t kTileRows = 16;
  const uint8_t* more_rows = rows + kTileRows * job.row_bytes;
  const uint8_t* panel = job.panel;
  Tiles::template zero<0>();
  Tiles::template zero<1>();
  if constexpr (kPair) {
    Tiles::template zero<2>();
    Tiles::template zero<3>();
  }
  for (size_t at = 0; at < job.steps * kWordBytes; at += kRowMultiple) {
    Tiles::template load<4>(rows + at, job.row_bytes);
    Tiles::template load<6>(panel, kPanelStepBytes);
    Tiles::template load<7>(panel + kPanelStepBytes / 2, kPanelStepBytes);
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
  Tiles::template store<1>(sums + kPanelStepBytes / 2, kPanelStepBytes);
  if constexpr (kPair) {
    uint8_t* more_sums = sums + kTileRows * kPanelStepBytes;
    Tiles::template store<2>(more_sums, kPanelStepBytes);
    Tiles::template store<3>(more_sums + kPanelStepBytes / 2, kPanelStepBytes);
  }
}

template <typename Tiles>
HWY_INLINE void multiply_all_tiles(const ProductsJob& job) {
  Tiles::configure();
  for (size_t row = 0; row < job.num_rows; row += kRowBlock) {
    const uint8_t* rows = job.rows + row * job.row_bytes;
    uint8_t* sums = static_cast<uint8_t*>(job.sums) + row * kPanelStepBytes;
    if (job.num_rows - row > kRowBlock / 2) {
      multiply_tiles<Tiles, true>(job, rows, sums);
    } else {
      multiply_tiles<Tiles, false>(job, rows, sums);
    }
  }
  Tiles::release();
}
