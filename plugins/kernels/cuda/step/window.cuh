// How a row is cut into chunks, and which ranks its new token's window has.
#pragma once

#include <cstdint>

#include "kernels/cuda/step/step.h"

namespace reformer::cuda {

// A row with its new token. 32 bits suffice: a length and a padding_multiple have 31 each.
struct StepRow {
  uint32_t length;        // L, at least 1
  uint32_t chunk_length;  // C, or L when dense
  uint32_t round_chunks;  // chunks of a round
  uint32_t rounds;        // 1 when dense
  uint32_t before;
  bool wraps;
  bool dense;
};

template <typename T>
__device__ __forceinline__ StepRow cut_row(const StepArguments<T>& arguments, uint32_t length) {
  uint32_t padded = length;
  if (length > arguments.padding_threshold) {
    const uint32_t multiple = arguments.padding_multiple;
    padded = (length + multiple - 1) / multiple * multiple;
  }
  if (padded <= arguments.dense_threshold) return {length, length, 1, 1, 0, true, true};
  return {length,
          arguments.chunk_length,
          padded / arguments.chunk_length,
          static_cast<uint32_t>(arguments.rounds),
          arguments.before,
          arguments.wraps,
          false};
}

// Ranks [begin, end) of a round's sorted tokens.
struct RankRange {
  uint32_t round;
  uint32_t begin;
  uint32_t end;
};

// The ranges of a window, one after another: chunks that follow one another go together, in pieces
// of at most kMostKeys. Virtual padding has no weight: the token itself, at least, has more.
template <uint32_t kMostKeys>
class WindowRanges {
 public:
  __device__ __forceinline__ WindowRanges(const StepRow& row, uint32_t round, uint32_t chunk)
      : row_(row), own_round_(round), own_chunk_(chunk) {
    // Without a wrap there is one round, and nothing before its first chunk.
    const uint64_t chunks = row.wraps ? uint64_t{row.round_chunks} * row.rounds : chunk;
    const uint32_t back = row.before < chunks ? row.before : static_cast<uint32_t>(chunks);
    repeats_ = row.wraps ? row.before - back : 0;
    left_ = back + 1;
    uint32_t rounds_back = back / row.round_chunks;
    const uint32_t chunks_back = back % row.round_chunks;
    chunk_ = chunk;
    if (chunks_back > chunk) {
      chunk_ += row.round_chunks;
      ++rounds_back;
    }
    chunk_ -= chunks_back;
    round_ = rounds_back > round ? round + row.rounds - rounds_back : round - rounds_back;
  }

  __device__ __forceinline__ bool next(RankRange* piece) {
    while (rest_.begin >= rest_.end) {
      if (!start_range()) return false;
    }
    const uint32_t count = min(rest_.end - rest_.begin, kMostKeys);
    *piece = {rest_.round, rest_.begin, rest_.begin + count};
    rest_.begin += count;
    return true;
  }

 private:
  __device__ __forceinline__ bool start_range() {
    if (repeats_ > 0) {  // a neighbour farther away than there are chunks is the chunk itself
      --repeats_;
      const uint32_t begin = own_chunk_ * row_.chunk_length;
      rest_ = {own_round_, begin, begin + row_.chunk_length};
    } else if (left_ > 0) {
      const uint32_t begin = chunk_ * row_.chunk_length;
      rest_ = {round_, begin, begin};
      do {
        rest_.end += row_.chunk_length;
        if (++chunk_ == row_.round_chunks) {
          chunk_ = 0;
          round_ = round_ + 1 == row_.rounds ? 0 : round_ + 1;
        }
      } while (--left_ > 0 && chunk_ != 0);
    } else {
      return false;
    }
    rest_.end = min(rest_.end, row_.length);
    return true;
  }

  StepRow row_;
  uint32_t own_round_, own_chunk_;
  uint32_t repeats_;        // how often the token's own chunk is still to come, before the others
  uint32_t left_;           // chunks to come after that, the next of them is
  uint32_t round_, chunk_;  // chunk chunk_ of round round_
  RankRange rest_{0, 0, 0};
};

}  // namespace reformer::cuda
