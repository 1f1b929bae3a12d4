// A call that can be left in the middle and taken up again, each on a stack of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// Saves what a call must preserve on the running stack and takes up the other one, without the system call for the
// signal mask that swapcontext makes. Weak, for every file that includes this has it.
extern "C" void switch_stack(void** running, void* other);
asm(R"(
.text
.hidden switch_stack
.weak switch_stack
.type switch_stack, @function
switch_stack:
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
  ret
.size switch_stack, .-switch_stack
)");
#else
#include <ucontext.h>
#endif

namespace on_host {

class Fiber {
 public:
  Fiber() : stack_(new std::byte[kStack]) {}

  // Makes `body` what the next `resume` starts with.
  void begin(const std::function<void()>* body) {
    body_ = body;
    done_ = false;
    forget_frames(stack_.get(), kStack);
#if defined(__x86_64__)
    // As switch_stack leaves it: six registers, the address to return to, and a slot that keeps the stack aligned.
    auto* top =
        reinterpret_cast<void**>((reinterpret_cast<std::uintptr_t>(stack_.get()) + kStack) & ~std::uintptr_t{15});
    top[-1] = nullptr;
    top[-2] = reinterpret_cast<void*>(&Fiber::enter);
    for (int k = 3; k <= 8; ++k) {
      top[-k] = nullptr;
    }
    inside_ = top - 8;
#else
    getcontext(&inside_);
    inside_.uc_stack.ss_sp = stack_.get();
    inside_.uc_stack.ss_size = kStack;
    inside_.uc_link = nullptr;
    makecontext(&inside_, &Fiber::enter, 0);
#endif
  }

  // Runs the body until it ends or calls `leave`.
  void resume() {
    running() = this;
    start_switch(&outside_fake_, stack_.get(), kStack);
    swap(outside_, inside_);
    finish_switch(outside_fake_, nullptr, nullptr);
  }

  // Called by the body.
  static void leave() {
    Fiber* self = running();
    self->start_switch(&self->inside_fake_, self->outside_stack_, self->outside_size_);
    self->swap(self->inside_, self->outside_);
    self->finish_switch(self->inside_fake_, &self->outside_stack_, &self->outside_size_);
  }

  bool done() const { return done_; }

 private:
  static constexpr std::size_t kStack = std::size_t{1} << 18;

  static Fiber*& running() {
    static Fiber* fiber = nullptr;
    return fiber;
  }

  static void enter() {
    Fiber* self = running();
    self->finish_switch(nullptr, &self->outside_stack_, &self->outside_size_);
    (*self->body_)();
    self->done_ = true;
    self->start_switch(nullptr, self->outside_stack_, self->outside_size_);
    self->swap(self->inside_, self->outside_);
  }

#if defined(__SANITIZE_ADDRESS__)
  static void start_switch(void** fake, const void* bottom, std::size_t size) {
    __sanitizer_start_switch_fiber(fake, bottom, size);
  }
  static void finish_switch(void* fake, const void** bottom, std::size_t* size) {
    __sanitizer_finish_switch_fiber(fake, bottom, size);
  }
  // `enter` never returns, so the guards around its variables stay where the next body has its arguments.
  static void forget_frames(const void* bottom, std::size_t size) { ASAN_UNPOISON_MEMORY_REGION(bottom, size); }
#else
  static void start_switch(void**, const void*, std::size_t) {}
  static void finish_switch(void*, const void**, std::size_t*) {}
  static void forget_frames(const void*, std::size_t) {}
#endif

#if defined(__x86_64__)
  using Context = void*;
  static void swap(Context& running, Context& other) { switch_stack(&running, other); }
#else
  using Context = ucontext_t;
  static void swap(Context& running, Context& other) { swapcontext(&running, &other); }
#endif

  std::unique_ptr<std::byte[]> stack_;
  const std::function<void()>* body_ = nullptr;
  Context inside_{}, outside_{};
  bool done_ = true;
  void *inside_fake_ = nullptr, *outside_fake_ = nullptr;
  const void* outside_stack_ = nullptr;
  std::size_t outside_size_ = 0;
};

}  // namespace on_host
