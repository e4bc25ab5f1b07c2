// Barriers, warp collectives and the access to shared memory: what simt.h declares. The last lane
// to come to a collective does its work for all of them.

#include <bit>

#include "cuda/simt/checker.h"
#include "cuda/simt/simt.h"

namespace fusedlm::simt {
namespace emulator {
namespace {

template <class Each>
void for_lanes(uint32_t mask, Each&& each) {
  for (uint32_t left = mask; left; left &= left - 1) each(std::countr_zero(left));
}

constexpr const char* kShuffles[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync",
                                     "__shfl_xor_sync"};
constexpr const char* kVotes[] = {"__syncwarp", "__ballot_sync",     "__any_sync",
                                  "__all_sync", "__reduce_add_sync", "__match_any_sync"};

// The lane that a lane reads, as the PTX manual's shfl.sync has it; its own where that lies outside
// of its segment.
int source_lane(Shuffle kind, int lane, int by, int width) {
  const int first = lane & ~(width - 1), end = first + width;
  switch (kind) {
    case Shuffle::index:
      return first + (by & (width - 1));
    case Shuffle::up:
      return lane - by >= first ? lane - by : lane;
    case Shuffle::down:
      return lane + by < end ? lane + by : lane;
    case Shuffle::exclusive_or:
      // Lower segments may be read, higher ones not.
      return (lane ^ by) < end ? lane ^ by : lane;
  }
  return lane;
}

void decide(Vote kind, Warp& warp, uint32_t mask) {
  uint64_t result = 0;
  if (kind == Vote::match) {
    for_lanes(mask, [&](int lane) {
      uint64_t same = 0;
      for_lanes(mask, [&](int other) {
        if (warp.lanes[other].given == warp.lanes[lane].given) same |= uint64_t{1} << other;
      });
      warp.lanes[lane].taken = same;
    });
    return;
  }
  if (kind == Vote::add) {
    for_lanes(mask, [&](int lane) { result += warp.lanes[lane].given; });
    result = static_cast<uint32_t>(result);
  } else {
    for_lanes(mask, [&](int lane) { result |= warp.lanes[lane].given << lane; });
    if (kind == Vote::any) result = result != 0;
    if (kind == Vote::all) result = result == mask;
  }
  for_lanes(mask, [&](int lane) { warp.lanes[lane].taken = result; });
}

}  // namespace

void* dynamic_shared_memory(int bytes, const Where& where) {
  const Inside inside;
  const size_t launched = self->block->launch->dynamic_bytes;
  if (launched != static_cast<size_t>(bytes)) {
    fail("the kernel has " + std::to_string(bytes) +
             " bytes of dynamic shared memory, its launch " + std::to_string(launched),
         where);
  }
  return self->block->shared;
}

void* static_shared_memory(int site, const char* name, size_t bytes, size_t align) {
  const Inside inside;
  return self->block->static_shared(site, name, bytes, align);
}

uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t value, int by, int width,
                 const Where& where) {
  const Inside inside;
  Thread& me = *self;
  const char* call = kShuffles[static_cast<int>(kind)];
  if (width < 1 || width > 32 || (width & (width - 1))) {
    fail(
        std::string(call) + ": width is " + std::to_string(width) + ", expected a power of 2 to 32",
        where);
  }
  me.source = source_lane(kind, me.lane, by, width);
  me.given = value;
  if (!(mask >> me.source & 1)) {
    fail(std::string(call) + " reads lane " + std::to_string(me.source) + ", which its mask lacks",
         where);
  }
  if (meet(call, mask, where)) {
    Thread* lanes = me.warp->lanes;
    for_lanes(mask, [&](int lane) { lanes[lane].taken = lanes[lanes[lane].source].given; });
    part(mask);
  }
  return me.taken;
}

uint64_t vote(Vote kind, uint32_t mask, uint64_t value, const Where& where) {
  const Inside inside;
  Thread& me = *self;
  me.given = value;
  if (meet(kVotes[static_cast<int>(kind)], mask, where)) {
    if (kind == Vote::sync) {
      order_memory(mask);
    } else {
      decide(kind, *me.warp, mask);
    }
    part(mask);
  }
  return me.taken;
}

uint64_t butterfly(uint64_t value, uint64_t (*combine)(uint64_t, uint64_t), const Where& where) {
  const Inside inside;
  Thread& me = *self;
  me.given = value;
  if (meet("warp reduction", ~0u, where)) {
    Thread* lanes = me.warp->lanes;
    uint64_t values[32], next[32];
    for (int i = 0; i < 32; ++i) values[i] = lanes[i].given;
    for (int by = 16; by; by /= 2) {
      for (int i = 0; i < 32; ++i) next[i] = combine(values[i], values[i ^ by]);
      for (int i = 0; i < 32; ++i) values[i] = next[i];
    }
    for (int i = 0; i < 32; ++i) lanes[i].taken = values[i];
    part(~0u);
  }
  return me.taken;
}

void before_atomic(const void* address, size_t bytes, const Where& where) {
  const Inside inside;
  if (reinterpret_cast<uintptr_t>(address) % bytes) fail("misaligned atomic", where);
  if (self) check_access(*self, address, bytes, Access::atomic, "atomic", where);
}

void misaligned(size_t bytes, const char* call, const Where& where) {
  const Inside inside;
  fail(std::string(call) + " at an address that is no multiple of " + std::to_string(bytes), where);
}

}  // namespace emulator

using namespace emulator;

void __syncthreads(Where where) {
  const Inside inside;
  wait_at_barrier(0, self->block->thread_count, "__syncthreads", 0, where);
}
int __syncthreads_count(int predicate, Where where) {
  const Inside inside;
  return wait_at_barrier(0, self->block->thread_count, "__syncthreads_count", predicate != 0,
                         where);
}
int __syncthreads_or(int predicate, Where where) {
  const Inside inside;
  return wait_at_barrier(0, self->block->thread_count, "__syncthreads_or", predicate != 0, where) >
         0;
}
int __syncthreads_and(int predicate, Where where) {
  const Inside inside;
  const int count = self->block->thread_count;
  return wait_at_barrier(0, count, "__syncthreads_and", predicate != 0, where) == count;
}

}  // namespace fusedlm::simt
