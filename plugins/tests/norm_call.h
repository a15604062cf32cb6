// ResidualNorm and FinalNorm: random calls, and how far a kernel's results are from the contract.
#pragma once

#include <cstdint>
#include <vector>

#include "draw.h"
#include "reformer_kernels.h"

namespace reformer::test {

// One call. The values of `update` are those that T can hold.
struct Norm {
  int32_t dtype = REFORMER_FLOAT32;
  bool is_final = false;
  int64_t batch = 1, length = 1, size = 1;
  std::vector<float> other_stream, stream, update;  // [B, L, N]; the first is FinalNorm's
  std::vector<float> scale, bias;                   // [N], or [2 N]
  float epsilon = 1e-12f;
  int64_t offset = 0;     // elements by which every tensor starts behind a multiple of 16 bytes
  bool in_place = false;  // stream_out is stream, and normed is update; not FinalNorm's

  int64_t width() const { return is_final ? 2 * size : size; }
};

struct Normed {
  std::vector<float> stream_out, normed;  // no stream_out of FinalNorm
  bool operator==(const Normed& other) const {
    return stream_out == other.stream_out && normed == other.normed;
  }
};

// The functions of one backend.
struct NormFunctions {
  reformer_status (*workspace)(const reformer_residual_norm_params*, uint64_t*);
  reformer_status (*run)(const reformer_residual_norm_params*);
};
constexpr NormFunctions kCpuNorm = {reformer_cpu_residual_norm_workspace,
                                    reformer_cpu_residual_norm};

// Rows around `center`: far from zero, only a mean that is taken off before squaring keeps digits.
Norm fill_norm(Random& random, int32_t dtype, int64_t rows, int64_t size, float center,
               bool is_final = false);
// Either operator; rows of up to a few thousand elements, in memory of their own or in place.
Norm draw_norm(Random& random);

// Calls the kernel; CHECKs that it succeeds and needs no workspace.
Normed run_norm(const Norm& call, int32_t workers, const NormFunctions& functions);

// The largest error, as a share of what float32 arithmetic and the rounding to T may make; infinity
// when a sum is not the float32 sum.
double measure_norm(const Norm& call, const Normed& got);

}  // namespace reformer::test
