#include "scheduler.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <vector>

#include "control.h"
#include "fiber.h"
#include "shared_block.h"

namespace reformer::cuda::emulation {

Place place;
bool turing = false;

namespace {

constexpr unsigned kWarp = static_cast<unsigned>(kWarpSize);
constexpr unsigned kMaxThreads = 1024;

enum class Wait { kNothing, kBarrier, kCollective, kExited };

struct Copy {
  void* target;
  Vector16 bytes;
};

struct Thread {
  std::unique_ptr<Fiber> fiber;
  Wait wait = Wait::kNothing;
  Site site{"", 0};
  const char* name = "";                  // of the collective it waits in
  std::vector<Copy> open;                 // asynchronous copies of the group being made
  std::vector<std::vector<Copy>> closed;  // groups under way
};

struct Warp {
  const void* inputs[kWarp];
  void* outputs[kWarp];
  unsigned arrived = 0;
};

// The one grid that runs.
struct Machine {
  std::mutex mutex;
  std::minstd_rand random{1};
  Fiber* host = nullptr;
  const std::function<void()>* kernel = nullptr;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<unsigned> ready;  // the last one runs next
  unsigned at_barrier = 0;
  unsigned exited = 0;
  std::unique_ptr<SharedBlock> shared;
  void* stream = nullptr;
  int launches_until_refusal = -1;
  int launches = 0;
  int read_backs = 0;
};

Machine machine;

const char* describe(const Thread& thread) {
  switch (thread.wait) {
    case Wait::kBarrier:
      return "waits at a barrier";
    case Wait::kCollective:
      return thread.name;
    case Wait::kExited:
      return "has exited";
    default:
      return "runs";
  }
}

// Nobody can go on: says who waits for whom.
[[noreturn]] void report_deadlock() {
  const Thread* waiting = nullptr;
  for (unsigned i = 0; i < place.block.x; ++i) {
    const Thread& thread = machine.threads[i];
    if (thread.wait != Wait::kExited) waiting = &thread;
  }
  for (unsigned i = 0; i < place.block.x; ++i) {
    const Thread& thread = machine.threads[i];
    const bool same = thread.wait == waiting->wait && thread.site.line == waiting->site.line;
    if (same) continue;
    place.thread_index.x = i;
    fail(thread.site, "divergence: this thread %s, another %s (%s:%d)", describe(thread),
         describe(*waiting), waiting->site.file, waiting->site.line);
  }
  fail(waiting->site, "divergence: some lanes never come to %s", describe(*waiting));
}

// Hands control to the thread that became ready last, or to the host when all have exited.
void run_next() {
  Thread& self = machine.threads[place.thread_index.x];
  if (machine.ready.empty()) {
    if (machine.exited != place.block.x) report_deadlock();
    self.fiber->switch_to(*machine.host);
    return;
  }
  const unsigned next = machine.ready.back();
  machine.ready.pop_back();
  if (next == place.thread_index.x) return;
  place.thread_index.x = next;
  self.fiber->switch_to(*machine.threads[next].fiber);
}

// Makes the block's threads ready, in a new order.
void release_block() {
  machine.ready.resize(place.block.x);
  std::iota(machine.ready.begin(), machine.ready.end(), 0u);
  std::shuffle(machine.ready.begin(), machine.ready.end(), machine.random);
  for (unsigned i = 0; i < place.block.x; ++i) machine.threads[i].wait = Wait::kNothing;
}

// Makes a warp's lanes ready. A random start and an odd step give an order that is cheap to make.
void release_warp(unsigned first) {
  const unsigned random = static_cast<unsigned>(machine.random());
  const unsigned step = (random >> 8) | 1;
  for (unsigned i = 0; i < kWarp; ++i) {
    const unsigned thread = first + (random + i * step) % kWarp;
    machine.threads[thread].wait = Wait::kNothing;
    machine.ready.push_back(thread);
  }
}

void wait_in(Wait wait, Site site, const char* name) {
  Thread& self = machine.threads[place.thread_index.x];
  self.wait = wait;
  self.site = site;
  self.name = name;
}

// A fiber's life: one CUDA thread after another.
void run_threads() {
  for (;;) {
    (*machine.kernel)();
    Thread& self = machine.threads[place.thread_index.x];
    const auto is_copying = [](const std::vector<Copy>& group) { return !group.empty(); };
    if (!self.open.empty() || std::any_of(self.closed.begin(), self.closed.end(), is_copying)) {
      fail(self.site, "the thread exits with asynchronous copies under way");
    }
    self.closed.clear();
    wait_in(Wait::kExited, self.site, "");
    ++machine.exited;
    run_next();
  }
}

void prepare_threads(unsigned block) {
  while (machine.threads.size() < block) {
    machine.threads.emplace_back();
    machine.threads.back().fiber = std::make_unique<Fiber>(run_threads);
  }
  machine.warps.assign(block / kWarp, Warp{});
}

void run_block(size_t shared_bytes) {
  machine.shared = std::make_unique<SharedBlock>(shared_bytes);
  machine.exited = 0;
  release_block();
  place.thread_index.x = machine.ready.back();
  machine.ready.pop_back();
  machine.host->switch_to(*machine.threads[place.thread_index.x].fiber);
  if (!machine.shared->is_intact()) {
    fail({"shared memory", 0}, "something wrote behind its %zu bytes", shared_bytes);
  }
  machine.shared.reset();
}

// Whether this is the launch that a test wants refused.
bool is_refused() {
  return machine.launches_until_refusal >= 0 && machine.launches_until_refusal-- == 0;
}

}  // namespace

void fail(Site site, const char* format, ...) {
  std::fprintf(stderr, "%s:%d: block %u of %u, thread %u of %u: ", site.file, site.line,
               place.block_index.x, place.grid.x, place.thread_index.x, place.block.x);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::abort();
}

bool run_grid(unsigned grid, unsigned block, size_t shared_bytes, void* stream,
              const std::function<void()>& kernel) {
  const std::lock_guard<std::mutex> lock(machine.mutex);
  machine.stream = stream;
  place = {{grid}, {block}, {0}, {0}};
  if (block == 0 || block % kWarp != 0 || block > kMaxThreads) {
    fail({"launch", 0}, "a block of %u threads, expected a multiple of %u up to %u", block, kWarp,
         kMaxThreads);
  }
  if (shared_bytes > kMaxSharedBytes) {
    fail({"launch", 0}, "%zu bytes of shared memory, expected at most %zu", shared_bytes,
         kMaxSharedBytes);
  }
  if (is_refused()) return false;
  ++machine.launches;
  Fiber host;
  machine.host = &host;
  machine.kernel = &kernel;
  prepare_threads(block);
  std::vector<unsigned> blocks(grid);
  std::iota(blocks.begin(), blocks.end(), 0u);
  std::shuffle(blocks.begin(), blocks.end(), machine.random);
  for (const unsigned index : blocks) {
    place.block_index.x = index;
    run_block(shared_bytes);
  }
  return true;
}

bool accepts_work(void* stream) {
  const std::lock_guard<std::mutex> lock(machine.mutex);
  machine.stream = stream;
  return !is_refused();
}

void note_read_back() { ++machine.read_backs; }

char* shared_memory() { return machine.shared->data(); }

void block_barrier(Site site) {
  for (unsigned i = 0; machine.at_barrier > 0 && i < place.block.x; ++i) {
    const Thread& other = machine.threads[i];
    if (other.wait != Wait::kBarrier) continue;
    if (other.site.line == site.line) break;
    fail(site, "divergence: thread %u waits at another barrier (%s:%d)", i, other.site.file,
         other.site.line);
  }
  wait_in(Wait::kBarrier, site, "");
  if (++machine.at_barrier == place.block.x) {
    machine.at_barrier = 0;
    release_block();
  }
  run_next();
}

void warp_collective(Site site, const char* name, const void* input, void* output,
                     CombineLanes combine) {
  const unsigned lane = place.thread_index.x % kWarp;
  const unsigned first = place.thread_index.x - lane;
  Warp& warp = machine.warps[place.thread_index.x / kWarp];
  for (unsigned i = first; warp.arrived > 0 && i < first + kWarp; ++i) {
    const Thread& other = machine.threads[i];
    if (other.wait != Wait::kCollective) continue;
    if (other.site.line == site.line && other.name == name) break;
    fail(site, "divergence: this lane is in %s, lane %u in %s (%s:%d)", name, i - first, other.name,
         other.site.file, other.site.line);
  }
  warp.inputs[lane] = input;
  warp.outputs[lane] = output;
  wait_in(Wait::kCollective, site, name);
  if (++warp.arrived == kWarp) {
    warp.arrived = 0;
    if (combine != nullptr) combine(warp.inputs, warp.outputs);
    release_warp(first);
  }
  run_next();
}

void start_copy(void* target, const Vector16& bytes) {
  // Until it is waited for, anything may be there.
  std::memset(target, kPoison, sizeof(bytes));
  machine.threads[place.thread_index.x].open.push_back({target, bytes});
}

void close_copy_group() {
  Thread& self = machine.threads[place.thread_index.x];
  self.closed.push_back(std::move(self.open));
  self.open.clear();
}

void finish_copies(int pending) {
  std::vector<std::vector<Copy>>& groups = machine.threads[place.thread_index.x].closed;
  while (groups.size() > static_cast<size_t>(pending)) {
    for (const Copy& copy : groups.front()) {
      std::memcpy(copy.target, &copy.bytes, sizeof(copy.bytes));
    }
    groups.erase(groups.begin());
  }
}

void set_seed(uint32_t seed) { machine.random.seed(seed); }

void emulate_turing(bool yes) { turing = yes; }

void* last_stream() { return machine.stream; }

int count_launches() { return machine.launches; }

int count_read_backs() { return machine.read_backs; }

void refuse_launch_after(int launches) { machine.launches_until_refusal = launches; }

}  // namespace reformer::cuda::emulation
