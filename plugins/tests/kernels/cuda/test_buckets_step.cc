// LSHBucketsStep on the emulated device.
#include <cstdlib>

#include "buckets_step_cases.h"
#include "control.h"

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 20;
  const reformer::test::BucketsStepFunctions functions = {reformer_cuda_lsh_buckets_step_workspace,
                                                          reformer_cuda_lsh_buckets_step};
  reformer::test::Random random(2);
  for (int i = 0; i < cases; ++i) {
    reformer::cuda::emulation::set_seed(static_cast<uint32_t>(i));
    reformer::test::check_buckets_steps(random, functions, 1);
  }
  reformer::test::check_buckets_lengths(functions, false);
}
