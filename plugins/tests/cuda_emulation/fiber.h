// Fibers: functions with stacks of their own that hand control to one another.
#pragma once

#include <cstddef>
#include <memory>

namespace reformer::cuda::emulation {

class Fiber {
 public:
  // The thread that calls this becomes a fiber; it starts others.
  Fiber();
  // Runs `run` when first switched to. `run` must never return.
  explicit Fiber(void (*run)());
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  // Leaves the running fiber, `this`, for `next`; returns when someone switches back.
  void switch_to(Fiber& next);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace reformer::cuda::emulation
