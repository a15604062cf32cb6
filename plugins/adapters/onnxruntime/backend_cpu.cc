#include <algorithm>
#include <thread>

#include "adapters/onnxruntime/backend.h"

namespace reformer::onnxruntime {
namespace {

// As many workers as the machine has threads; the session's pool decides how many run at once.
// Asked once: glibc reads a file for it, which takes as long as a small operator.
int32_t count_workers() {
  constexpr unsigned kMost = 64;
  static const unsigned workers = std::clamp(std::thread::hardware_concurrency(), 1u, kMost);
  return static_cast<int32_t>(workers);
}

// parallel_for of the C interface on the session's own pool; `context` is an Ort::KernelContext.
void run_parallel(void* context, int64_t total, reformer_task task, void* argument) {
  struct Call {
    reformer_task task;
    void* argument;
  } call{task, argument};
  const auto run_one = [](void* data, size_t index) {
    const Call& self = *static_cast<const Call*>(data);
    self.task(self.argument, static_cast<int64_t>(index));
  };
  static_cast<const Ort::KernelContext*>(context)->ParallelFor(run_one, static_cast<size_t>(total),
                                                               0, &call);
}

}  // namespace

void CPUBackend::prepare(const Ort::KernelContext& context, reformer_execution& execution) const {
  execution.num_workers = count_workers();
  execution.parallel_for = run_parallel;
  execution.parallel_context = const_cast<Ort::KernelContext*>(&context);
}

void* CPUBackend::allocate(const Ort::KernelContext& /*context*/, size_t size) const {
  return allocator_.get()->Alloc(allocator_.get(), size);
}

void CPUBackend::release(void* data) const { allocator_.get()->Free(allocator_.get(), data); }

}  // namespace reformer::onnxruntime
