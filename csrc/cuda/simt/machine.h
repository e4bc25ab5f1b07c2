#pragma once
// The emulated multiprocessor: threads are fibers, a block runs on one core from its first thread
// to its last, blocks are dealt over the cores. A thread runs until it waits (barrier, warp
// collective) or ends; then the next one of its warp goes on. Nothing is implied about the order
// within a warp. What cannot go on is a mistake of the kernel, and is reported as such.

#include <cstdint>
#include <source_location>
#include <string>
#include <vector>

#include "cuda/simt/buffers.h"
#include "cuda/simt/fiber.h"
#include "cuda/simt/vector_types.h"

namespace fusedlm::simt::emulator {

using Where = std::source_location;

constexpr int kMaxThreads = 1024;                 // of a block
constexpr size_t kMaxShared = size_t{227} << 10;  // sm_90; what sm_80 lacks, the launch finds out
constexpr size_t kMaxStaticShared = size_t{48} << 10;
// With room for the gaps behind as many static arrays as a kernel may have.
constexpr size_t kArena = kMaxShared + (size_t{64} << 10);
constexpr int kBarriers = 16;

struct Block;
struct Warp;

/// An asynchronous copy that has not been waited for.
struct Copy {
  void* to;
  const void* from;
  int bytes, valid;
  Where where;
};

struct Thread {
  uint3 index;
  int number, lane;
  Block* block;
  Warp* warp;
  Fiber fiber;
  char *stack_low, *stack_high;
  // What it waits for, and what it brings to and gets from a warp collective or a counting barrier.
  const char* waits_for = nullptr;
  Where where;
  uint64_t given = 0, taken = 0;
  int source = 0;
  const void* pointer = nullptr;
  bool exited = false;
  bool inside = false;  // of the emulator: its own accesses are not the kernel's
  // cp.async: copies in order, and where each committed group ends.
  std::vector<Copy> copies;
  std::vector<size_t> groups;
};

/// Lanes that have come to a collective and wait for the rest of their mask.
struct Meeting {
  const char* call;
  Where where;
  uint32_t mask, arrived;
};

struct Warp {
  Thread* lanes = nullptr;
  uint32_t exists = 0, ready = 0, exited = 0;
  std::vector<Meeting> meetings;
};

struct Barrier {
  const char* call = nullptr;
  Where where;
  int expected = 0, arrived = 0, sum = 0;
  uint32_t waiting[kMaxThreads / 32] = {};
};

struct Launch {
  const char* name;
  dim3 grid, block;
  size_t dynamic_bytes;
  void (*call)(const void* parameters);  // runs one thread
  const void* parameters;
  size_t parameter_bytes;
};

struct StaticShared {
  const char* name;
  char* data;
  size_t bytes;
};

struct Block {
  Block();

  const Launch* launch = nullptr;
  uint3 index{};
  int thread_count = 0, warp_count = 0, live = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Barrier barriers[kBarriers];
  char* shared = nullptr;  // kMaxShared and room for gaps; dynamic memory comes first
  size_t shared_used = 0, static_bytes = 0;
  std::vector<StaticShared> statics;  // by site
  std::vector<int> sites;             // those in use
  std::string error;                  // set by `fail`
  bool failed = false;

  /// Runs block number `number` of the grid; false if it failed.
  bool run(const Launch& launch, uint64_t number);
  void* static_shared(int site, const char* name, size_t bytes, size_t align);
  bool owns(const void* address, size_t bytes) const;

  Fiber main;
  Stacks stacks;
};

// Found without a call, since each use of threadIdx looks there. Beside the CUDA runtime that cannot
// be: all thread-local memory of the library, 8 KiB of it the runtime's, would have to fit into the
// little that a process keeps free for libraries loaded later.
#if defined(FUSEDLM_SIMT_BESIDE_CUDA)
#define FUSEDLM_SELF_MODEL
#else
#define FUSEDLM_SELF_MODEL [[gnu::tls_model("initial-exec")]]
#endif

/// The running thread; null outside of kernels. A fiber never moves to another thread of the
/// system.
extern thread_local constinit Thread* self FUSEDLM_SELF_MODEL;

/// Lives while a thread is in a function of the emulator. Matters to the checked build alone: functions
/// of the standard library may be linked in their instrumented copies.
class Inside {
 public:
  Inside() : thread_(self), before_(thread_ && thread_->inside) {
    if (thread_) thread_->inside = true;
  }
  ~Inside() {
    if (thread_) thread_->inside = before_;
  }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  Thread* thread_;
  bool before_;
};

/// Throws DeviceError for a launch the hardware would refuse; runs all blocks; throws what they
/// report.
void run_grid(const Launch& launch);

/// Ends the block of the running thread with an error; the launching thread throws it.
[[noreturn]] void fail(const std::string& what, const Where& where);
[[noreturn]] void fail(const std::string& what, const std::string& place);
/// "attention.cu:123"
std::string place(const Where& where);
/// "(3, 0, 0)"
std::string coordinates(const uint3& at);

/// Leaves the core to another thread until something makes `me` ready again. Reports a deadlock.
void go_on_with_another(Thread& me);

/// Comes to the meeting of the lanes in `mask`; true for the last to come, who must call `part`
/// once the others have got what they came for. The others wait inside.
bool meet(const char* call, uint32_t mask, const Where& where);
void part(uint32_t mask);
/// What any lane of `mask` did before is seen by all of them after: of the warp's collectives
/// __syncwarp alone promises that. Shuffles, votes, ldmatrix and mma hand over registers only.
void order_memory(uint32_t mask);

/// Waits at barrier `id` until `expected` threads are there; gives the sum of their values.
int wait_at_barrier(int id, int expected, const char* call, int value, const Where& where);

/// The id of a FUSEDLM_SHARED declaration.
int new_site();

}  // namespace fusedlm::simt::emulator
