// LSHBucketsStep on the CPU.
#include <cstdlib>

#include "buckets_step_cases.h"

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 100;
  reformer::test::Random random(1);
  for (int i = 0; i < cases; ++i) {
    reformer::test::check_buckets_steps(random, reformer::test::kCpuBucketsStep, 1 + i % 3);
  }
  reformer::test::check_buckets_lengths(reformer::test::kCpuBucketsStep, true);
}
