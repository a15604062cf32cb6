#include "reference.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace reformer::test {
namespace {

// One head of one batch entry of an attention call.
struct Head {
  const Attention& call;
  int64_t batch;
  int64_t head;
  int64_t padded;  // Lp
  int64_t chunk;
  int64_t rounds;
  bool dense;

  double at(const std::vector<float>& tensor, int64_t position, int64_t d) const {
    if (position >= call.length) return 0;  // virtual padding
    const int64_t row = (batch * call.length + position) * call.heads + head;
    return static_cast<double>(tensor[static_cast<size_t>(row * call.head_size + d)]);
  }
  bool visible(int64_t position) const {
    return position < call.length &&
           call.mask[static_cast<size_t>(batch * call.length + position)] != 0;
  }
};

// The order of all rounds' positions: R * Lp of them.
std::vector<int64_t> sort_reference(const Head& head) {
  const Attention& call = head.call;
  std::vector<int64_t> all;
  for (int64_t round = 0; round < head.rounds; ++round) {
    std::vector<int64_t> order(static_cast<size_t>(head.padded));
    std::iota(order.begin(), order.end(), 0);
    if (call.lsh && !head.dense) {
      const int64_t row = (head.batch * call.heads + head.head) * call.rounds + round;
      const int32_t* buckets = call.buckets.data() + row * call.length;
      const auto bucket = [&](int64_t p) {
        return p < call.length ? int64_t{buckets[p]} : int64_t{1} << 40;
      };
      std::stable_sort(order.begin(), order.end(),
                       [&](int64_t a, int64_t b) { return bucket(a) < bucket(b); });
    }
    all.insert(all.end(), order.begin(), order.end());
  }
  return all;
}

double logit_reference(const Head& head, int64_t query, int64_t key) {
  const Attention& call = head.call;
  if (query == key && std::isfinite(call.own_logit())) {
    return static_cast<double>(call.own_logit());
  }
  if (!head.visible(key) || (call.chunking.is_causal && key > query)) return -1e9;
  const std::vector<float>& keys = call.lsh ? call.query : call.key;
  const double size = static_cast<double>(call.head_size);
  double dot = 0;
  double squares = 0;
  for (int64_t d = 0; d < call.head_size; ++d) {
    const double k = head.at(keys, key, d);
    dot += head.at(call.query, query, d) * k;
    squares += k * k;
  }
  if (call.lsh) dot /= std::sqrt(squares / size + static_cast<double>(call.epsilon));
  return dot / std::sqrt(size);
}

// One round's output row and its logsumexp, rounded to float32.
float attend_reference(const Head& head, int64_t query, const std::vector<int64_t>& keys,
                       std::vector<double>& row) {
  std::vector<double> logits;
  for (const int64_t key : keys) logits.push_back(logit_reference(head, query, key));
  const double highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit - highest);
  const float lse = static_cast<float>(highest + std::log(sum));
  row.assign(static_cast<size_t>(head.call.head_size), 0.0);
  for (size_t j = 0; j < keys.size(); ++j) {
    const double weight = std::exp(logits[j] - static_cast<double>(lse));
    for (int64_t d = 0; d < head.call.head_size; ++d) {
      row[static_cast<size_t>(d)] += weight * head.at(head.call.value, keys[j], d);
    }
  }
  return lse;
}

// Every round's row and logsumexp of every position of one head: rows[position][round].
void run_head(const Head& head, std::vector<std::vector<std::vector<double>>>& rows,
              std::vector<std::vector<float>>& lses) {
  const std::vector<int64_t> order = sort_reference(head);
  const int64_t chunks = head.rounds * head.padded / head.chunk;
  const int64_t before = head.dense ? 0 : head.call.chunking.num_chunks_before;
  const int64_t after = head.dense ? 0 : head.call.chunking.num_chunks_after;
  rows.assign(static_cast<size_t>(head.call.length), {});
  lses.assign(static_cast<size_t>(head.call.length), {});
  for (int64_t c = 0; c < chunks; ++c) {
    std::vector<int64_t> keys;
    for (int64_t w = -before; w <= after; ++w) {
      if (!head.call.wraps && (c + w < 0 || c + w >= chunks)) continue;
      const int64_t neighbour = (((c + (std::abs(w) > chunks ? 0 : w)) % chunks) + chunks) % chunks;
      for (int64_t i = 0; i < head.chunk; ++i) {
        keys.push_back(order[static_cast<size_t>(neighbour * head.chunk + i)]);
      }
    }
    for (int64_t i = 0; i < head.chunk; ++i) {
      const int64_t query = order[static_cast<size_t>(c * head.chunk + i)];
      if (query >= head.call.length) continue;
      std::vector<double> row;
      lses[static_cast<size_t>(query)].push_back(attend_reference(head, query, keys, row));
      rows[static_cast<size_t>(query)].push_back(row);
    }
  }
}

double combine_reference(const std::vector<std::vector<double>>& rows,
                         const std::vector<float>& lses, size_t d) {
  const float highest = *std::max_element(lses.begin(), lses.end());
  double sum = 0;
  for (const float lse : lses)
    sum += std::exp(static_cast<double>(lse) - static_cast<double>(highest));
  const float total = static_cast<float>(static_cast<double>(highest) + std::log(sum));
  double out = 0;
  for (size_t r = 0; r < lses.size(); ++r) {
    out += std::exp(static_cast<double>(lses[r]) - static_cast<double>(total)) * rows[r][d];
  }
  return out;
}

}  // namespace

std::vector<float> attention_reference(const Attention& call) {
  std::vector<float> output(call.value.size());
  const reformer_chunking& chunking = call.chunking;
  int64_t padded = call.length;
  if (call.length > chunking.padding_threshold) {
    while (padded % chunking.padding_multiple != 0) ++padded;
  }
  const bool dense = padded <= (call.lsh ? call.most_dense() : chunking.chunk_length);
  if (dense) padded = call.length;
  const int64_t chunk = dense ? call.length : chunking.chunk_length;
  const int64_t rounds = call.lsh && !dense ? call.rounds : 1;
  for (int64_t b = 0; b < call.batch; ++b) {
    for (int64_t h = 0; h < call.heads; ++h) {
      std::vector<std::vector<std::vector<double>>> rows;
      std::vector<std::vector<float>> lses;
      run_head({call, b, h, padded, chunk, rounds, dense}, rows, lses);
      for (int64_t l = 0; l < call.length; ++l) {
        for (int64_t d = 0; d < call.head_size; ++d) {
          const int64_t at = ((b * call.length + l) * call.heads + h) * call.head_size + d;
          const size_t p = static_cast<size_t>(l);
          output[static_cast<size_t>(at)] =
              static_cast<float>(combine_reference(rows[p], lses[p], static_cast<size_t>(d)));
        }
      }
    }
  }
  return output;
}

std::vector<double> rotate_reference(const Hash& call, int64_t batch, int64_t head, int64_t round,
                                     int64_t token) {
  const int64_t columns = call.rotation_size();
  std::vector<double> rotated(static_cast<size_t>(columns), 0.0);
  for (int64_t d = 0; d < call.head_size; ++d) {
    const int64_t x = ((batch * call.length + token) * call.heads + head) * call.head_size + d;
    const int64_t row = ((head * call.head_size + d) * call.rounds + round) * columns;
    for (int64_t s = 0; s < columns; ++s) {
      rotated[static_cast<size_t>(s)] +=
          static_cast<double>(call.query_key[static_cast<size_t>(x)]) *
          static_cast<double>(call.rotations[static_cast<size_t>(row + s)]);
    }
  }
  return rotated;
}

int32_t bucket_reference(const Hash& call, int64_t batch, int64_t head, int64_t round,
                         int64_t token) {
  const std::vector<double> rotated = rotate_reference(call, batch, head, round, token);
  int32_t bucket = 0;
  int32_t stride = 1;
  size_t start = 0;
  for (const int32_t factor : call.all_factors()) {
    const size_t half = static_cast<size_t>(factor / 2);
    std::vector<double> candidates(rotated.begin() + static_cast<std::ptrdiff_t>(start),
                                   rotated.begin() + static_cast<std::ptrdiff_t>(start + half));
    for (size_t s = 0; s < half; ++s) candidates.push_back(-candidates[s]);
    const auto best = std::max_element(candidates.begin(), candidates.end());
    bucket += stride * static_cast<int32_t>(best - candidates.begin());
    stride *= factor;
    start += half;
  }
  return call.mask[static_cast<size_t>(batch * call.length + token)] != 0 ? bucket : stride;
}

}  // namespace reformer::test
