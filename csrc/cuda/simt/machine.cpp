#include "cuda/simt/machine.h"

#include <sys/mman.h>

#include <atomic>
#include <bit>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>

#include "core/parallel.h"
#include "cuda/simt/checker.h"
#include "fusedlm/errors.h"

namespace fusedlm::simt::emulator {

thread_local constinit Thread* self FUSEDLM_SELF_MODEL = nullptr;

namespace {

// Behind each piece of shared memory; what lands there is found at the end of the block.
constexpr size_t kGap = 128;
constexpr unsigned char kGapByte = 0xa5;
// NaN, whatever the type: memory starts with what spoils a result that depends on it.
constexpr int kPoison = 0xff;

Block& block_of_this_core() {
  // By pointer: what is thread-local in a module that is loaded late must be small.
  thread_local std::unique_ptr<Block> block;
  if (!block) block = std::make_unique<Block>();
  return *block;
}

std::atomic<int> site_count{0};

std::string shape_of(const dim3& d) { return coordinates({d.x, d.y, d.z}); }

[[noreturn]] void leave(Block& block) {
  Fiber abandoned;
  switch_fiber(abandoned, block.main);
  std::terminate();  // nobody comes back to a block that failed
}

[[noreturn]] void fail_at(const Thread& thread, const std::string& what, const std::string& place) {
  Block& block = *thread.block;
  block.error = "kernel " + std::string(block.launch->name) + ", block " +
                coordinates(block.index) + ", thread " + coordinates(thread.index) + ": " + what +
                " (" + place + ")";
  block.failed = true;
  leave(block);
}

Thread* next_ready(Block& block, Warp* warp) {
  if (!warp->ready) {
    const int current = static_cast<int>(warp - block.warps.data());
    for (int i = 1; i < block.warp_count && !warp->ready; ++i) {
      warp = &block.warps[(current + i) % block.warp_count];
    }
    if (!warp->ready) return nullptr;
  }
  const int lane = std::countr_zero(warp->ready);
  warp->ready &= warp->ready - 1;
  return &warp->lanes[lane];
}

// "threads 0 to 31 wait at __syncthreads (a.cu:12), threads 32 to 63 have ended"
std::string who_waits_where(const Block& block) {
  std::string text;
  const auto state = [](const Thread& t) {
    return t.exited ? std::string(" ended")
                    : " at " + std::string(t.waits_for) + " (" + place(t.where) + ")";
  };
  for (int first = 0; first < block.thread_count;) {
    const std::string same = state(block.threads[first]);
    int last = first;
    while (last + 1 < block.thread_count && state(block.threads[last + 1]) == same) ++last;
    if (text.size() > 600) return text + ", ...";
    text += text.empty() ? "thread " : ", thread ";
    text += std::to_string(first);
    if (last > first) text += " to " + std::to_string(last);
    text += same;
    first = last + 1;
  }
  return text;
}

[[noreturn]] void deadlock(Block& block) {
  for (const Thread& t : block.threads) {
    if (!t.exited) fail_at(t, "waits for ever: " + who_waits_where(block), place(t.where));
  }
  leave(block);
}

// What every fiber starts with.
void run_thread() {
  Thread& me = *self;
  const Launch& launch = *me.block->launch;
  try {
    launch.call(launch.parameters);
  } catch (const std::exception& error) {
    fail_at(me, std::string("threw ") + error.what(), "somewhere in it");
  }
  me.exited = true;
  me.warp->exited |= 1u << me.lane;
  --me.block->live;
  go_on_with_another(me);
  std::terminate();
}

void gap_behind(Block& block) {
  std::memset(block.shared + block.shared_used, kGapByte, kGap);
  block.shared_used += kGap;
}

bool gap_is_whole(const char* gap) {
  for (size_t i = 0; i < kGap; ++i) {
    if (static_cast<unsigned char>(gap[i]) != kGapByte) return false;
  }
  return true;
}

// The first piece of shared memory that was written past its end.
const char* overrun(const Block& block) {
  if (!gap_is_whole(block.shared + block.launch->dynamic_bytes)) return "dynamic shared memory";
  for (int site : block.sites) {
    const StaticShared& s = block.statics[site];
    if (!gap_is_whole(s.data + s.bytes)) return s.name;
  }
  return nullptr;
}

}  // namespace

std::string place(const Where& where) {
  const std::string file = where.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(where.line());
}

std::string coordinates(const uint3& at) {
  return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) +
         ")";
}

void go_on_with_another(Thread& me) {
  Block& block = *me.block;
  Thread* next = next_ready(block, me.warp);
  if (!next) {
    if (block.live == 0) leave(block);
    deadlock(block);
  }
  self = next;
  switch_fiber(me.fiber, next->fiber);
}

int new_site() { return site_count.fetch_add(1); }

void fail(const std::string& what, const std::string& place) {
  if (!self) throw DeviceError(what + " (" + place + ")");
  fail_at(*self, what, place);
}

void fail(const std::string& what, const Where& where) { fail(what, place(where)); }

Block::Block() : threads(kMaxThreads), warps(kMaxThreads / 32), stacks(kMaxThreads) {
  void* memory = mmap(nullptr, kArena, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw OutOfMemory("emulator: no shared memory");
  shared = static_cast<char*>(memory);
  for (int i = 0; i < kMaxThreads; ++i) {
    Thread& t = threads[i];
    t.number = i;
    t.lane = i % 32;
    t.block = this;
    t.warp = &warps[i / 32];
    t.stack_low = stacks.low(i);
    t.stack_high = stacks.high(i);
    if (t.lane == 0) t.warp->lanes = &t;
  }
}

bool Block::run(const Launch& what, uint64_t number) {
  launch = &what;
  const dim3 size = what.block, grid = what.grid;
  index = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
           static_cast<unsigned>(number / grid.x / grid.y)};
  thread_count = live = static_cast<int>(size.x * size.y * size.z);
  warp_count = (thread_count + 31) / 32;
  failed = false;
  for (int w = 0; w < warp_count; ++w) {
    const int lanes = thread_count - 32 * w;
    warps[w].exists = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    warps[w].ready = warps[w].exists;
    warps[w].exited = 0;
    warps[w].meetings.clear();
  }
  for (int i = 0; i < thread_count; ++i) {
    Thread& t = threads[i];
    const auto n = static_cast<unsigned>(i);
    t.index = {n % size.x, n / size.x % size.y, n / size.x / size.y};
    t.exited = t.inside = false;
    t.copies.clear();
    t.groups.clear();
    prepare(t.fiber, t.stack_low, t.stack_high, run_thread);
  }
  for (Barrier& b : barriers) b = Barrier{};
  for (int site : sites) statics[site].data = nullptr;
  sites.clear();
  static_bytes = 0;
  shared_used = what.dynamic_bytes;
  std::memset(shared, kPoison, shared_used);
  gap_behind(*this);
  check_block(*this);

  self = next_ready(*this, &warps[0]);
  switch_fiber(main, self->fiber);
  self = nullptr;
  if (failed) return false;
  if (const char* name = overrun(*this)) {
    error = "kernel " + std::string(what.name) + ", block " + coordinates(index) +
            ": wrote behind the end of " + name + " (a checked build names thread and line)";
    return false;
  }
  return true;
}

void* Block::static_shared(int site, const char* name, size_t bytes, size_t align) {
  if (static_cast<int>(statics.size()) <= site) statics.resize(site + 1);
  StaticShared& s = statics[site];
  if (s.data) return s.data;
  static_bytes += bytes;
  const size_t start = (shared_used + align - 1) / align * align;
  if (static_bytes > kMaxStaticShared || static_bytes + launch->dynamic_bytes > kMaxShared ||
      start + bytes + kGap > kArena) {
    fail(std::string("has too much shared memory with ") + name + ": " +
             std::to_string(static_bytes) + " bytes static (at most 49152), " +
             std::to_string(launch->dynamic_bytes) + " dynamic (at most 232448 together)",
         std::string("its declaration"));
  }
  s = {name, shared + start, bytes};
  std::memset(s.data, kPoison, bytes);
  shared_used = start + bytes;
  gap_behind(*this);
  sites.push_back(site);
  check_static(*this, s);
  return s.data;
}

bool Block::owns(const void* address, size_t bytes) const {
  const auto* at = static_cast<const char*>(address);
  if (at >= shared && at + bytes <= shared + launch->dynamic_bytes) return true;
  for (int site : sites) {
    const StaticShared& s = statics[site];
    if (at >= s.data && at + bytes <= s.data + s.bytes) return true;
  }
  return false;
}

void run_grid(const Launch& launch) {
  const dim3 grid = launch.grid, block = launch.block;
  const std::string kernel = "kernel " + std::string(launch.name);
  if (self) throw DeviceError(kernel + ": launched from within a kernel");
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (blocks == 0) return;
  if (threads == 0 || threads > kMaxThreads || block.z > 64) {
    throw DeviceError(kernel + ": block of " + shape_of(block) +
                      " threads, expected 1 to 1024, at most 64 in z");
  }
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    throw DeviceError(kernel + ": grid of " + shape_of(grid) +
                      " blocks, expected at most 2147483647, 65535 and 65535");
  }
  if (launch.dynamic_bytes > kMaxShared) {
    throw DeviceError(kernel + ": " + std::to_string(launch.dynamic_bytes) +
                      " bytes of dynamic shared memory, expected at most 232448");
  }
  check_launch(launch);
  std::mutex mutex;
  std::string error;
  uint64_t first_wrong = blocks;
  std::atomic<bool> stop{false};
  const auto run = [&](uint64_t number) {
    if (stop.load(std::memory_order_relaxed)) return;
    std::string wrong;
    try {
      Block& core = block_of_this_core();
      if (core.run(launch, number)) return;
      wrong = core.error;
    } catch (const std::exception& e) {  // no memory for the stacks
      wrong = e.what();
    }
    const std::lock_guard lock(mutex);
    stop = true;
    if (number < first_wrong) first_wrong = number, error = wrong;
  };
  if constexpr (kChecked) {
    // One after the other: the checker's notes about global memory belong to one thread.
    for (uint64_t number = 0; number < blocks; ++number) run(number);
  } else {
    parallel_for(static_cast<index_t>(blocks),
                 [&](index_t task, int) { run(static_cast<uint64_t>(task)); });
  }
  if (!error.empty()) throw DeviceError(error);
}

}  // namespace fusedlm::simt::emulator
