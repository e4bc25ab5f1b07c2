#include "cuda/simt/fiber.h"

#include <sys/mman.h>

#include <cstdint>

#include "fusedlm/errors.h"

#if defined(__x86_64__)

// rdi: where to keep the old stack pointer, rsi: the new one. The jump through rcx instead of `ret`
// keeps the predictor of returns out of it: nearly every switch goes on at the same address.
asm(R"(
.text
.p2align 4
.type fusedlm_simt_switch, @function
.hidden fusedlm_simt_switch
.globl fusedlm_simt_switch
fusedlm_simt_switch:
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
  popq %rcx
  jmp *%rcx
.size fusedlm_simt_switch, .-fusedlm_simt_switch
)");
extern "C" void fusedlm_simt_switch(void** save, void* load);

#endif

namespace fusedlm::simt::emulator {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kStackBytes = size_t{64} << 10;  // a kernel's local arrays are kilobytes at most

}  // namespace

#if defined(__x86_64__)

void prepare(Fiber& fiber, char*, char* high, void (*entry)()) {
  // As a call would leave it: the stack pointer is 8 off a multiple of 16 at the entry of a
  // function.
  auto* top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(high) & ~uintptr_t{15});
  *--top = nullptr;  // where a backtrace ends
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  fiber.stack_pointer = top;
}

void switch_fiber(Fiber& from, Fiber& to) {
  fusedlm_simt_switch(&from.stack_pointer, to.stack_pointer);
}

#else

void prepare(Fiber& fiber, char* low, char* high, void (*entry)()) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = low;
  fiber.context.uc_stack.ss_size = static_cast<size_t>(high - low);
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
}

void switch_fiber(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }

#endif

Stacks::Stacks(int count) : count_(count) {
  void* memory = mmap(nullptr, count * kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw OutOfMemory("emulator: no memory for stacks");
  memory_ = static_cast<char*>(memory);
  for (int i = 0; i < count; ++i) mprotect(memory_ + i * kStackBytes, kPage, PROT_NONE);
}

Stacks::~Stacks() { munmap(memory_, count_ * kStackBytes); }

char* Stacks::low(int i) const { return memory_ + i * kStackBytes + kPage; }

// Equal offsets in every stack would put the same variable of all threads into the same few cache
// sets; 320 bytes more for each thread of a warp spread them.
char* Stacks::high(int i) const { return memory_ + (i + 1) * kStackBytes - (i % 32) * 320; }

}  // namespace fusedlm::simt::emulator
