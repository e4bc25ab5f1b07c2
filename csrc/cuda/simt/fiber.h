#pragma once
// A stack of its own and a place to go on: what a CUDA thread is here. Switching saves the
// registers that a call preserves and swaps the stack pointer: a few nanoseconds, no system call.

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace fusedlm::simt::emulator {

#if defined(__x86_64__)
struct Fiber {
  void* stack_pointer = nullptr;
};
#else
struct Fiber {
  ucontext_t context;
};
#endif

/// The next switch to `fiber` calls entry(), which must never return, on the stack [low, high).
void prepare(Fiber& fiber, char* low, char* high, void (*entry)());
/// Goes on where `to` stopped; comes back when something switches to `from`.
void switch_fiber(Fiber& from, Fiber& to);

/// `count` stacks, mapped at once and used again by every block. Below each lies a page that may
/// not be touched, so that an overflow stops the program instead of spoiling a neighbour.
class Stacks {
 public:
  explicit Stacks(int count);
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;

  char* low(int i) const;
  char* high(int i) const;

 private:
  int count_;
  char* memory_;
};

}  // namespace fusedlm::simt::emulator
