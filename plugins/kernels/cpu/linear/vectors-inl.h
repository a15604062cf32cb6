// The products of vector instructions, whose width and dot product `Isa` says. Included inside the
// attributes that allow them.

// Sums of kRows rows and kVectors vectors of a panel's outputs, in registers.
template <typename Isa, size_t kRows>
HWY_INLINE void multiply_block(const ProductsJob& job, const uint8_t* rows, const uint8_t* panel,
                               uint8_t* sums) {
  typename Isa::Vector sum[kRows][Isa::kVectors];
  HWY_UNROLL(16)
  for (size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(4)
    for (size_t v = 0; v < Isa::kVectors; ++v) sum[r][v] = Isa::zero();
  }
  for (size_t step = 0; step < job.steps; ++step) {
    typename Isa::Operand outputs[Isa::kVectors];
    HWY_UNROLL(4)
    for (size_t v = 0; v < Isa::kVectors; ++v) outputs[v] = Isa::load(panel + v * Isa::kBytes);
    HWY_UNROLL(16)
    for (size_t r = 0; r < kRows; ++r) {
      const auto row = Isa::broadcast(rows + r * job.row_bytes + step * Isa::kRowWordBytes);
      HWY_UNROLL(4)
      for (size_t v = 0; v < Isa::kVectors; ++v) {
        sum[r][v] = Isa::add_products(sum[r][v], row, outputs[v]);
      }
    }
    panel += kPanelStepBytes;
  }
  HWY_UNROLL(16)
  for (size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(4)
    for (size_t v = 0; v < Isa::kVectors; ++v) {
      Isa::store(sums + r * kPanelStepBytes + v * Isa::kBytes, sum[r][v]);
    }
  }
}

// Turns a row count known at run time into the kernel built for it.
template <typename Isa, size_t kRows>
HWY_INLINE void multiply_rows(size_t count, const ProductsJob& job, const uint8_t* rows,
                              const uint8_t* panel, uint8_t* sums) {
  if constexpr (kRows > 1) {
    if (count < kRows) {
      multiply_rows<Isa, kRows - 1>(count, job, rows, panel, sums);
      return;
    }
  }
  multiply_block<Isa, kRows>(job, rows, panel, sums);
}

// All rows, in blocks of nearly equal height. How many a block has changes no bit of any of them.
template <typename Isa>
HWY_INLINE void multiply_all(const ProductsJob& job) {
  constexpr size_t kBlockBytes = Isa::kVectors * Isa::kBytes;
  for (size_t column = 0; column < kPanelStepBytes; column += kBlockBytes) {
    const uint8_t* rows = job.rows;
    uint8_t* sums = static_cast<uint8_t*>(job.sums) + column;
    size_t left = job.num_rows;
    for (size_t blocks = (left + Isa::kRows - 1) / Isa::kRows; blocks > 0; --blocks) {
      const size_t count = (left + blocks - 1) / blocks;
      multiply_rows<Isa, Isa::kRows>(count, job, rows, job.panel + column, sums);
      rows += count * job.row_bytes;
      sums += count * kPanelStepBytes;
      left -= count;
    }
  }
}
