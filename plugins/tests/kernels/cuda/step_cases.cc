#include "step_cases.h"

#include <algorithm>

#include "attention_cases.h"
#include "check.h"
#include "compare.h"
#include "control.h"

namespace reformer::test {
namespace {

// Steps are float32 throughout; of a whole operator's, the weights and rounds are rounded to T.
constexpr double kStepTolerance = 2e-5;

bool caches_are_right(const Step& step, bool in_place) {
  if (in_place) {
    return step.keys == step.next_keys && step.values == step.next_values &&
           step.buckets == step.next_buckets;
  }
  return step.present_keys == step.next_keys && step.present_values == step.next_values &&
         step.present_buckets == step.next_buckets;
}

}  // namespace

const StepFunctions kCudaStep = {
    reformer_cuda_lsh_attention_step_workspace, reformer_cuda_lsh_attention_step,
    reformer_cuda_local_attention_step_workspace, reformer_cuda_local_attention_step};

StepCase::StepCase(const Attention& whole, const StepRows& rows, int64_t room)
    : whole_(whole), rows_(rows), room_(room) {
  const Step step(whole_, rows_, room_);
  for (int64_t b = 0; b < whole_.batch; ++b) expected_.push_back(step_reference(step, b));
}

double StepCase::measure(uint32_t seed, bool in_place) const {
  cuda::emulation::set_seed(seed);
  Step step(whole_, rows_, room_);
  const reformer_status status = step.run(kCudaStep, 1, in_place);
  CHECK(status == REFORMER_OK, "%s", step.error);
  if (!caches_are_right(step, in_place)) return 1e9;
  const std::vector<float> output = step.read_output();
  const size_t row_size = output.size() / static_cast<size_t>(whole_.batch);
  double worst = 0;
  for (size_t b = 0; b < expected_.size(); ++b) {
    const auto begin = output.begin() + static_cast<std::ptrdiff_t>(b * row_size);
    const auto end = begin + static_cast<std::ptrdiff_t>(row_size);
    std::vector<float> expected = expected_[b];
    expected.resize(row_size, 0.0f);
    const double allowed = rows_.fresh[b] > 1 ? attention_tolerance(whole_) : kStepTolerance;
    worst = std::max(worst, measure_error(whole_, {begin, end}, expected) / allowed);
    if (std::any_of(begin + static_cast<std::ptrdiff_t>(expected_[b].size()), end,
                    [](float value) { return value != 0; })) {
      return 1e9;
    }
  }
  return worst;
}

void check_step(const Attention& whole, const StepRows& rows, int64_t room, uint32_t seed,
                const std::string& label) {
  const StepCase step(whole, rows, room);
  for (const bool in_place : {false, true}) {
    const double share = step.measure(seed, in_place);
    CHECK(share <= 1,
          "%s (%s, dtype %d, B %lld, H %lld, L %lld, Q %lld, D %lld, R %lld, C %lld, before %lld, "
          "offset %lld, in place %d): %g of what is allowed",
          label.c_str(), whole.lsh ? "LSH" : "local", whole.dtype,
          static_cast<long long>(whole.batch), static_cast<long long>(whole.heads),
          static_cast<long long>(whole.length), static_cast<long long>(rows.tokens),
          static_cast<long long>(whole.head_size), static_cast<long long>(whole.rounds),
          static_cast<long long>(whole.chunking.chunk_length),
          static_cast<long long>(whole.chunking.num_chunks_before),
          static_cast<long long>(whole.offset), in_place ? 1 : 0, share);
  }
}

}  // namespace reformer::test
