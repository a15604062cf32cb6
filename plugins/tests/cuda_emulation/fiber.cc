#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

// The C library's own switch makes a system call, which is ten times the cost of ours.
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

// The sanitizers have to be told which stack is in use. clang says by features which one there is.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#if defined(__x86_64__)
// Pushes the registers that a call preserves, writes the stack pointer to *old_stack, and takes
// everything from new_stack.
extern "C" void reformer_switch_stack(void** old_stack, void* new_stack);
asm(R"(
.text
.globl reformer_switch_stack
.hidden reformer_switch_stack
.type reformer_switch_stack, @function
reformer_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  retq
.size reformer_switch_stack, .-reformer_switch_stack
)");
#endif

namespace reformer::cuda::emulation {
namespace {

// Untouched pages cost nothing; sanitized frames are several times larger.
constexpr size_t kStackBytes = 256 * 1024;
constexpr size_t kGuardBytes = 64 * 1024;  // a multiple of every page size
constexpr size_t kSavedRegisters = 6;

}  // namespace

struct Fiber::State {
  void (*run)() = nullptr;
  const char* bottom = nullptr;  // of the stack
  size_t bytes = 0;
  char* mapping = nullptr;       // null for a thread's own stack
  void* fake_stack = nullptr;    // the address sanitizer's, while the fiber sleeps
  void* thread_fiber = nullptr;  // the thread sanitizer's name for the fiber
#if defined(__x86_64__)
  void* pointer = nullptr;
#else
  ucontext_t context{};
#endif

  // Who handed control over, and to whom: a fiber that starts or wakes up finds itself here.
  static State* previous;
  static State* current;

  void prepare();
  static void switch_between(State& from, State& to);
  static void arrive(State& self);
  static void enter();
};

Fiber::State* Fiber::State::previous = nullptr;
Fiber::State* Fiber::State::current = nullptr;

// First thing on a stack that was switched to.
void Fiber::State::arrive([[maybe_unused]] State& self) {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(self.fake_stack, &bottom, &bytes);
  previous->bottom = static_cast<const char*>(bottom);
  previous->bytes = bytes;
#endif
}

void Fiber::State::enter() {
  State& self = *current;
  arrive(self);
  self.run();
  std::fprintf(stderr, "emulation: a fiber's function returned\n");
  std::abort();
}

void Fiber::State::prepare() {
#if defined(__x86_64__)
  // What reformer_switch_stack pops, and a return to enter() with the alignment of a call.
  void** top = reinterpret_cast<void**>(mapping + kGuardBytes + kStackBytes) - 2;
  *top = reinterpret_cast<void*>(&State::enter);
  pointer = top - kSavedRegisters;
#else
  getcontext(&context);
  context.uc_stack.ss_sp = mapping + kGuardBytes;
  context.uc_stack.ss_size = kStackBytes;
  makecontext(&context, &State::enter, 0);
#endif
}

void Fiber::State::switch_between(State& from, State& to) {
  previous = &from;
  current = &to;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.bytes);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.thread_fiber, 0);
#endif
#if defined(__x86_64__)
  reformer_switch_stack(&from.pointer, to.pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
  arrive(from);
}

Fiber::Fiber() : state_(new State) {
#if defined(__SANITIZE_THREAD__)
  state_->thread_fiber = __tsan_get_current_fiber();
#endif
}

Fiber::Fiber(void (*run)()) : state_(new State) {
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) {
    std::fprintf(stderr, "emulation: no memory for a stack of %zu bytes\n", kStackBytes);
    std::abort();
  }
  state_->run = run;
  state_->mapping = static_cast<char*>(memory);
  state_->bottom = state_->mapping + kGuardBytes;
  state_->bytes = kStackBytes;
#if defined(__SANITIZE_THREAD__)
  state_->thread_fiber = __tsan_create_fiber(0);
#endif
  state_->prepare();
}

Fiber::~Fiber() {
  if (state_->mapping == nullptr) return;  // a thread's own stack
  munmap(state_->mapping, kGuardBytes + kStackBytes);
#if defined(__SANITIZE_THREAD__)
  __tsan_destroy_fiber(state_->thread_fiber);
#endif
}

void Fiber::switch_to(Fiber& next) { State::switch_between(*state_, *next.state_); }

}  // namespace reformer::cuda::emulation
