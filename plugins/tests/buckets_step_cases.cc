#include "buckets_step_cases.h"

#include <algorithm>
#include <vector>

#include "check.h"
#include "operands.h"

namespace reformer::test {
namespace {

constexpr int32_t kGarbage = 7;

struct Sequences {
  int64_t batch, heads, size, rounds, columns, capacity, multiple;
  bool shared;  // rotations
  int32_t dtype;
  std::vector<float> vectors;    // [B, P, H*D], of whole sequences
  std::vector<float> rotations;  // [H or 1, D, R, S]
  std::vector<int32_t> records;  // [B, H, R*W, P]

  int64_t words() const {
    return (columns + REFORMER_RECORD_COLUMNS - 1) / REFORMER_RECORD_COLUMNS;
  }
};

std::vector<float> draw_integers(Random& random, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& x : values) x = static_cast<float>(draw_int(random, -2, 2));
  return values;
}

Sequences draw_sequences(Random& random) {
  Sequences made{};
  made.batch = draw_int(random, 1, 3);
  made.heads = draw_int(random, 1, 3);
  made.size = draw_int(random, 1, 20);
  made.rounds = draw_int(random, 1, 3);
  made.columns = draw_from(random, {1, 2, 14, 15, 16, 31, 33, 64, 65, 90});
  made.capacity = draw_int(random, 6, 150);
  made.multiple = draw_int(random, 1, 7);
  made.shared = draw_int(random, 0, 2) == 0;
  made.dtype = static_cast<int32_t>(draw_int(random, REFORMER_FLOAT32, REFORMER_BFLOAT16));
  made.vectors = draw_integers(random, made.batch * made.capacity * made.heads * made.size);
  made.rotations = draw_integers(
      random, (made.shared ? 1 : made.heads) * made.size * made.rounds * made.columns);
  made.records.assign(
      static_cast<size_t>(made.batch * made.heads * made.rounds * made.words() * made.capacity),
      kGarbage);
  return made;
}

// argmax of (y, -y) over the first `columns` columns, the lowest index on ties.
int32_t bucket_of(const Sequences& all, int64_t b, int64_t h, int64_t r, int64_t token,
                  int64_t columns) {
  float best = 0;
  int64_t bucket = -1;
  for (int64_t half = 0; half < 2; ++half) {
    for (int64_t s = 0; s < columns; ++s) {
      float y = 0;
      for (int64_t d = 0; d < all.size; ++d) {
        const int64_t plane = ((all.shared ? 0 : h) * all.size + d) * all.rounds + r;
        y += all.vectors[static_cast<size_t>(
                 ((b * all.capacity + token) * all.heads + h) * all.size + d)] *
             all.rotations[static_cast<size_t>(plane * all.columns + s)];
      }
      if (half == 1) y = -y;
      if (bucket < 0 || y > best) {
        best = y;
        bucket = half * columns + s;
      }
    }
  }
  return static_cast<int32_t>(bucket);
}

struct Results {
  reformer_status status;
  std::vector<int32_t> new_buckets, buckets;
};

// One call, which leaves its records in `all` unless it is refused.
Results call_step(Sequences& all, std::vector<int32_t> held, std::vector<int32_t> fresh,
                  int64_t tokens, const BucketsStepFunctions& functions, int32_t workers,
                  bool in_place) {
  const int64_t width = all.heads * all.size;
  std::vector<float> query(static_cast<size_t>(all.batch * tokens * width), 3.0f);
  for (int64_t b = 0; b < all.batch; ++b) {
    const size_t row = static_cast<size_t>(b);
    if (held[row] < 0 || fresh[row] > tokens || held[row] + fresh[row] > all.capacity) continue;
    std::copy_n(all.vectors.begin() + (b * all.capacity + held[row]) * width, fresh[row] * width,
                query.begin() + b * tokens * width);
  }
  std::vector<char> bytes = encode(all.dtype, query);
  std::vector<int32_t> present(all.records.size(), -1);
  const int64_t lines = all.batch * all.heads * all.rounds;
  Results results{REFORMER_OK, std::vector<int32_t>(static_cast<size_t>(lines * tokens), -5),
                  std::vector<int32_t>(static_cast<size_t>(lines * all.capacity), -5)};
  const auto integers = [](std::vector<int32_t>& values, std::initializer_list<int64_t> shape) {
    reformer_tensor tensor{values.data(), REFORMER_INT32, static_cast<int32_t>(shape.size()), {}};
    std::copy(shape.begin(), shape.end(), tensor.dims);
    return tensor;
  };
  char error[256] = "";
  reformer_lsh_buckets_step_params params{};
  params.struct_size = sizeof(params);
  params.abi_version = REFORMER_ABI_VERSION;
  params.num_heads = static_cast<int32_t>(all.heads);
  params.padding_multiple = all.multiple;
  params.query_key = {bytes.data(), all.dtype, 3, {all.batch, tokens, width}};
  params.rotations = {all.rotations.data(),
                      REFORMER_FLOAT32,
                      4,
                      {all.shared ? 1 : all.heads, all.size, all.rounds, all.columns}};
  const int64_t record_lines = all.rounds * all.words();
  params.past_records = integers(all.records, {all.batch, all.heads, record_lines, all.capacity});
  params.present_records = params.past_records;
  if (!in_place) params.present_records.data = present.data();
  params.lengths = integers(held, {all.batch});
  params.new_lengths = integers(fresh, {all.batch});
  params.new_buckets = integers(results.new_buckets, {all.batch, all.heads, all.rounds, tokens});
  params.buckets = integers(results.buckets, {all.batch, all.heads, all.rounds, all.capacity});
  params.execution.num_workers = workers;
  params.execution.error = error;
  params.execution.error_size = sizeof(error);
  uint64_t size = 0;
  CHECK(functions.measure(&params, &size) == REFORMER_OK, "%s", error);
  std::vector<char> workspace(size);
  params.execution.workspace = workspace.data();
  params.execution.workspace_size = size;
  results.status = functions.run(&params);
  if (!in_place && results.status == REFORMER_OK) all.records = present;
  return results;
}

void check_call(const Sequences& all, const std::vector<int32_t>& held,
                const std::vector<int32_t>& fresh, int64_t tokens, const Results& got) {
  for (int64_t line = 0; line < all.batch * all.heads * all.rounds; ++line) {
    const int64_t r = line % all.rounds;
    const int64_t h = line / all.rounds % all.heads;
    const int64_t b = line / (all.rounds * all.heads);
    const int64_t begin = held[static_cast<size_t>(b)];
    const int64_t count = fresh[static_cast<size_t>(b)];
    const int64_t total = count == 0 ? 0 : begin + count;
    const int64_t columns = std::min((total + all.multiple - 1) / all.multiple, all.columns);
    for (int64_t i = 0; i < all.capacity; ++i) {
      const int32_t expected = i < total ? bucket_of(all, b, h, r, i, columns) : 0;
      const int32_t bucket = got.buckets[static_cast<size_t>(line * all.capacity + i)];
      CHECK(bucket == expected, "token %d of %d has bucket %d, expected %d of %d columns",
            static_cast<int>(i), static_cast<int>(total), bucket, expected,
            static_cast<int>(columns));
    }
    for (int64_t i = 0; i < tokens; ++i) {
      const int32_t expected =
          i < count ? got.buckets[static_cast<size_t>(line * all.capacity + begin + i)] : 0;
      const int32_t bucket = got.new_buckets[static_cast<size_t>(line * tokens + i)];
      CHECK(bucket == expected, "new token %d has bucket %d, expected %d", static_cast<int>(i),
            bucket, expected);
    }
  }
}

}  // namespace

const BucketsStepFunctions kCpuBucketsStep = {reformer_cpu_lsh_buckets_step_workspace,
                                              reformer_cpu_lsh_buckets_step};

void check_buckets_steps(Random& random, const BucketsStepFunctions& functions, int32_t workers) {
  Sequences all = draw_sequences(random);
  const size_t rows = static_cast<size_t>(all.batch);
  std::vector<int32_t> held(rows, 0), fresh(rows);
  for (int32_t& count : fresh) count = static_cast<int32_t>(draw_int(random, 0, all.capacity - 4));
  int64_t tokens = *std::max_element(fresh.begin(), fresh.end()) + draw_int(random, 0, 2);
  for (int call = 0; call < 5; ++call) {
    const bool in_place = draw_int(random, 0, 1) == 1;
    const Results got = call_step(all, held, fresh, tokens, functions, workers, in_place);
    CHECK(got.status == REFORMER_OK, "status %d", got.status);
    check_call(all, held, fresh, tokens, got);
    for (size_t b = 0; b < rows; ++b) held[b] += fresh[b];
    for (int32_t& count : fresh) count = draw_int(random, 0, 3) != 0 ? 1 : 0;
    tokens = 1;
  }
}

void check_buckets_lengths(const BucketsStepFunctions& functions, bool refuses) {
  Random random(3);
  Sequences all = draw_sequences(random);
  const size_t rows = static_cast<size_t>(all.batch);
  const int32_t capacity = static_cast<int32_t>(all.capacity);
  const int32_t wrong[][2] = {{-1, 1}, {0, -1}, {0, 5}, {2, 2}, {capacity, 1}};
  for (const auto& lengths : wrong) {
    const std::vector<int32_t> before = all.records;
    const std::vector<int32_t> held(rows, lengths[0]), fresh(rows, lengths[1]);
    const Results got = call_step(all, held, fresh, 4, functions, 1, true);
    CHECK(got.status == (refuses ? REFORMER_ERROR_LENGTHS : REFORMER_OK), "status %d", got.status);
    CHECK(all.records == before, "records were written at lengths %d and %d", lengths[0],
          lengths[1]);
    if (!refuses) check_call(all, held, std::vector<int32_t>(rows, 0), 4, got);
  }
}

}  // namespace reformer::test
