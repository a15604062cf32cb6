// Shares a loop among the host's threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "reformer_kernels.h"

namespace reformer {

// Calls run(worker) once for each of `workers`, on the host's threads where it has some.
template <typename Run>
void run_workers(const reformer_execution& execution, int64_t workers, Run& run) {
  if (workers <= 1 || execution.parallel_for == nullptr) {
    run(0);
    return;
  }
  const reformer_task task = [](void* argument, int64_t worker) {
    (*static_cast<Run*>(argument))(worker);
  };
  execution.parallel_for(execution.parallel_context, workers, task, &run);
}

// Calls body(worker, begin, end) for consecutive ranges of at most `grain` items that together
// cover [0, total). A worker takes its next range when it is done with the last, so a slow thread
// holds nobody up; worker < num_workers picks the scratch memory.
template <typename Body>
void parallel_ranges(const reformer_execution& execution, int64_t total, int64_t grain,
                     const Body& body) {
  std::atomic<int64_t> next{0};
  auto run = [&](int64_t worker) {
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= total) return;
      body(worker, begin, std::min(begin + grain, total));
    }
  };
  const int64_t ranges = (total + grain - 1) / grain;
  run_workers(execution, std::min<int64_t>(execution.num_workers, ranges), run);
}

// Calls body(worker, ranges), once a worker. ranges.next() gives it one range of at most `grain`
// items after another; those of all workers cover [0, total). They come from the worker's own
// share, where they lie side by side, so that what one leaves in its cache is there for the next;
// then from what the others have not begun.
template <typename Body>
void parallel_shares(const reformer_execution& execution, int64_t total, int64_t grain,
                     const Body& body) {
  constexpr int64_t kMostShares = 64;
  struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t end;
  };
  struct Ranges {
    Share* shares;
    int64_t count;
    int64_t grain;
    int64_t at;        // the share it takes from
    int64_t done = 0;  // shares that had nothing left

    bool next(int64_t* begin, int64_t* end) {
      for (; done < count; ++done, at = (at + 1) % count) {
        *begin = shares[at].next.fetch_add(grain, std::memory_order_relaxed);
        *end = std::min(*begin + grain, shares[at].end);
        if (*begin < *end) return true;
      }
      return false;
    }
  };
  const int64_t most = execution.parallel_for == nullptr ? 1 : execution.num_workers;
  const int64_t workers = std::clamp<int64_t>((total + grain - 1) / grain, 1, most);
  const int64_t count = std::min(workers, kMostShares);
  Share shares[kMostShares];
  for (int64_t i = 0; i < count; ++i) {
    shares[i].next = i * total / count;
    shares[i].end = (i + 1) * total / count;
  }
  auto run = [&](int64_t worker) { body(worker, Ranges{shares, count, grain, worker % count}); };
  run_workers(execution, workers, run);
}

// Items per range: enough ranges to even out the threads, few enough to keep packed tiles warm.
inline int64_t choose_grain(int64_t total, int32_t num_workers) {
  const int64_t ranges = static_cast<int64_t>(num_workers) * 8;
  return std::max<int64_t>(1, total / ranges);
}

}  // namespace reformer
