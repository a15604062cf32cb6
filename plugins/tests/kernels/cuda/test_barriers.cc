// Every barrier in the CUDA kernels is needed, and the tests would notice were it missing: each is
// left out in turn, in a process of its own, and at least one check must then fail.
//
// Usage: test_cuda_barriers FOLDER [NAME], the folder of the kernels' sources, and optionally one
// barrier ("sort/sort.cu:57") to try alone.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "attention_cases.h"
#include "check.h"
#include "child.h"
#include "control.h"
#include "cuda_backend.h"
#include "hash_cases.h"
#include "norm_cases.h"
#include "sort_cases.h"
#include "step_cases.h"

namespace reformer::test {
namespace {

// All barriers and waits that the sources call, as met_barriers() spells them.
std::vector<std::string> find_barriers(const std::string& folder) {
  const char* const calls[] = {"__syncthreads(", "__syncwarp(", "wait_copies<"};
  std::set<std::string> found;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    std::ifstream file(entry.path());
    std::string line;
    for (int number = 1; std::getline(file, line); ++number) {
      const std::string code = line.substr(0, line.find("//"));
      const bool waits = std::any_of(std::begin(calls), std::end(calls), [&](const char* call) {
        return code.find(call) != std::string::npos;
      });
      if (!waits) continue;
      found.insert(std::filesystem::relative(entry.path(), folder).string() + ":" +
                   std::to_string(number));
    }
  }
  return {found.begin(), found.end()};
}

// The small suite: enough tiles, rows and warps that every barrier has something to order.
class Suite {
 public:
  Suite() {
    Random random(21);
    const int32_t f32 = REFORMER_FLOAT32, f16 = REFORMER_FLOAT16, bf16 = REFORMER_BFLOAT16;
    add(random, f32, 160, 48, {40, 20});
    add(random, f16, 160, 64, {40, 20});
    add(random, bf16, 160, 20, {40, 20});
    add_sort(random, 3600, INT32_MAX);
    add(random, {1, 700, 1, 4, 1, 4, 1, 0, 1 << 20}, f32, true);
    add(random, {1, 192, 1, 64, 2, 64, 1, 0, 9}, f16, true);
    add(random, {1, 192, 1, 32, 2, 64, 1, 0, 9}, f32, true);
    add(random, {1, 100, 1, 256, 1, 50, 1, 0, 9}, bf16, true);
    add(random, {1, 260, 1, 8, 1, 130, 1, 1, 9}, bf16, false);
    add(random, {1, 100, 1, 128, 1, 50, 1, 0, 9}, f32, false);
    add(random, {1, 100, 1, 256, 1, 50, 1, 0, 9}, f32, false);
    add_step(random, {1, 500, 1, 8, 2, 32, 1, 0, 400}, f32);
    add_step(random, {1, 500, 1, 40, 1, 64, 1, 0, 6}, f16);
    for (const int64_t size : {1100, 2000, 8200}) {
      norms_.push_back(fill_norm(random, f16, 2, size, 3.0f));
    }
  }

  // Whether all checks hold; stops at the first that does not.
  bool holds() const {
    for (const uint32_t seed : {1u, 2u}) {
      for (const SortCase& sort : sorts_) {
        if (!test::holds(sort, SortPath::kBlock, seed)) return false;
        if (!test::holds(sort, SortPath::kLong, seed)) return false;
      }
      for (const HashCase& hash : hashes_) {
        if (!hash.holds(seed)) return false;
      }
      for (const Norm& norm : norms_) {
        if (measure_on_device(norm, seed) > 1) return false;
      }
      for (const AttentionCase& attention : attentions_) {
        if (!attention.holds(seed)) return false;
      }
      for (const StepCase& step : steps_) {
        if (!step.holds(seed)) return false;
      }
    }
    return true;
  }

 private:
  void add(Random& random, int32_t dtype, int64_t length, int64_t head_size,
           const std::vector<int32_t>& factors) {
    hashes_.emplace_back(fill_hash(random, dtype, length, head_size, 2, factors));
  }
  void add(Random& random, const Shape& shape, int32_t dtype, bool lsh) {
    attentions_.emplace_back(fill_attention(random, shape, dtype, lsh, lsh));
  }
  // The last token of the first chunk, whose window wraps into another round, and of the whole.
  void add_step(Random& random, const Shape& shape, int32_t dtype) {
    Attention call = fill_attention(random, shape, dtype, true, true);
    call.mask.assign(call.mask.size(), 1);
    steps_.emplace_back(call, last_tokens(call), 0);
    std::fill(call.buckets.begin(), call.buckets.end(), shape.highest_bucket);
    for (size_t i = 0; i < call.buckets.size(); i += 5) call.buckets[i] = 0;
    steps_.emplace_back(call, last_tokens(call), 0);
  }
  void add_sort(Random& random, int64_t length, int64_t highest) {
    SortCase call{1, length, {}};
    for (int64_t i = 0; i < length; ++i) {
      call.buckets.push_back(static_cast<int32_t>(draw_int(random, 0, highest)));
    }
    sorts_.push_back(call);
  }

  std::vector<SortCase> sorts_;
  std::vector<HashCase> hashes_;
  std::vector<Norm> norms_;
  std::vector<AttentionCase> attentions_;
  std::vector<StepCase> steps_;
};

void check_barrier(const Suite& suite, const std::string& name) {
  const bool unnoticed = survives([&] {
    cuda::emulation::omit_barrier(name);
    return suite.holds();
  });
  std::printf("%-32s %s\n", name.c_str(), unnoticed ? "NOT NOTICED" : "noticed");
  CHECK(!unnoticed, "nothing fails without the barrier at %s: it is not needed, or not tested",
        name.c_str());
}

}  // namespace
}  // namespace reformer::test

int main(int argc, char** argv) {
  using namespace reformer::test;
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s FOLDER [BARRIER]\n", argv[0]);
    return 2;
  }
  const Suite suite;
  if (argc > 2) {
    check_barrier(suite, argv[2]);
    return FINISH_TEST();
  }
  CHECK(suite.holds(), "the suite fails with all barriers in place");
  const std::vector<std::string> barriers = find_barriers(argv[1]);
  CHECK(!barriers.empty(), "no barriers in %s", argv[1]);
  const std::vector<std::string> met = reformer::cuda::emulation::met_barriers();
  std::vector<std::string> different;
  std::set_symmetric_difference(barriers.begin(), barriers.end(), met.begin(), met.end(),
                                std::back_inserter(different));
  for (const std::string& name : different) {
    CHECK(false, "%s: a barrier in the sources that the suite does not meet, or the reverse",
          name.c_str());
  }
  for (const std::string& name : barriers) check_barrier(suite, name);
  return FINISH_TEST();
}
