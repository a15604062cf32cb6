// The kernel that adds up rounds, on the emulated device, against double precision.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "check.h"
#include "compare.h"
#include "control.h"
#include "draw.h"
#include "kernels/cuda/attention/combine.h"

namespace reformer::test {
namespace {

struct Combine {
  int64_t batch, length, heads, head_size, rounds;
  std::vector<float> partial;  // [B, R, L, H*D]
  std::vector<float> lse;      // [B, H, R, L]
};

Combine draw_combine(Random& random, int32_t dtype, bool only_self) {
  Combine call;
  call.batch = draw_int(random, 1, 3);
  call.length = draw_int(random, 1, 90);
  call.heads = draw_int(random, 1, 3);
  call.head_size = draw_from(random, {1, 3, 8, 16, 20, 64, 256});
  call.rounds = draw_int(random, 2, 8);
  const int64_t rows = call.batch * call.heads * call.rounds * call.length;
  call.partial = draw_values(random, dtype, rows * call.head_size, 1.0f);
  call.lse = draw_values(random, REFORMER_FLOAT32, rows, 3.0f);
  // Tokens that see only themselves: float32 steps of 2^-7, where rounding shows.
  if (only_self) {
    for (float& lse : call.lse) lse += -1e5f;
  }
  return call;
}

std::vector<float> combine_reference(const Combine& call) {
  const int64_t width = call.heads * call.head_size;
  std::vector<float> output;
  for (int64_t i = 0; i < call.batch * call.length * width; ++i) {
    const int64_t batch = i / width / call.length;
    const int64_t position = i / width % call.length;
    const int64_t head = i % width / call.head_size;
    std::vector<double> lses;
    std::vector<double> values;
    for (int64_t r = 0; r < call.rounds; ++r) {
      const int64_t row = (batch * call.heads + head) * call.rounds + r;
      lses.push_back(
          static_cast<double>(call.lse[static_cast<size_t>(row * call.length + position)]));
      const int64_t token = (batch * call.rounds + r) * call.length + position;
      values.push_back(
          static_cast<double>(call.partial[static_cast<size_t>(token * width + i % width)]));
    }
    const double highest = *std::max_element(lses.begin(), lses.end());
    double sum = 0;
    for (const double lse : lses) sum += std::exp(lse - highest);
    const float total = static_cast<float>(highest + std::log(sum));
    double result = 0;
    for (size_t r = 0; r < lses.size(); ++r) {
      result += std::exp(lses[r] - static_cast<double>(total)) * values[r];
    }
    output.push_back(static_cast<float>(result));
  }
  return output;
}

template <typename T>
void check_combine(Random& random, int32_t dtype, bool only_self) {
  const Combine call = draw_combine(random, dtype, only_self);
  std::vector<char> partial = encode(dtype, call.partial);
  std::vector<char> output(partial.size() / static_cast<size_t>(call.rounds), -1);
  cuda::CombineArguments<T> arguments;
  arguments.partial = cuda::make_global(reinterpret_cast<const T*>(partial.data()),
                                        static_cast<int64_t>(call.partial.size()));
  arguments.lse = cuda::make_global(call.lse.data(), static_cast<int64_t>(call.lse.size()));
  arguments.output = cuda::make_global(reinterpret_cast<T*>(output.data()),
                                       call.batch * call.length * call.heads * call.head_size);
  arguments.batch = call.batch;
  arguments.length = call.length;
  arguments.heads = call.heads;
  arguments.head_size = call.head_size;
  arguments.rounds = call.rounds;
  arguments.vector_rows =
      call.head_size * static_cast<int64_t>(sizeof(T)) % 16 == 0 && draw_int(random, 0, 3) > 0;
  CHECK(cuda::launch_combine(arguments, nullptr) == REFORMER_OK, "the combination was refused");
  Attention sizes;
  sizes.dtype = dtype;
  const double error = measure_error(sizes, decode(dtype, output), combine_reference(call));
  CHECK(error <= 2e-6, "B %lld, L %lld, H %lld, D %lld, R %lld, dtype %d: error %g",
        static_cast<long long>(call.batch), static_cast<long long>(call.length),
        static_cast<long long>(call.heads), static_cast<long long>(call.head_size),
        static_cast<long long>(call.rounds), dtype, error);
}

}  // namespace
}  // namespace reformer::test

int main(int argc, char** argv) {
  using namespace reformer::test;
  const int cases = argc > 1 ? std::atoi(argv[1]) : 40;
  Random random(4);
  for (int i = 0; i < cases; ++i) {
    const bool only_self = i % 4 == 0;
    check_combine<float>(random, REFORMER_FLOAT32, only_self);
    check_combine<reformer::cuda::float16>(random, REFORMER_FLOAT16, only_self);
    check_combine<reformer::cuda::bfloat16>(random, REFORMER_BFLOAT16, only_self);
  }
  return FINISH_TEST();
}
