// Where threads wait for each other: meetings of the lanes in a mask, and the barriers of a block.

#include <bit>
#include <cstdio>
#include <cstring>

#include "cuda/simt/checker.h"
#include "cuda/simt/machine.h"

namespace fusedlm::simt::emulator {
namespace {

void release(Barrier& barrier, Block& block) {
  for (int w = 0; w < block.warp_count; ++w) {
    block.warps[w].ready |= barrier.waiting[w];
    barrier.waiting[w] = 0;
  }
  barrier.arrived = 0;
}

}  // namespace

bool meet(const char* call, uint32_t mask, const Where& where) {
  Thread& me = *self;
  Warp& warp = *me.warp;
  const uint32_t bit = 1u << me.lane;
  const auto in_hex = [](uint32_t m) {
    char text[16];
    std::snprintf(text, sizeof text, "%#x", m);
    return std::string(text);
  };
  if (!(mask & bit)) {
    fail(std::string(call) + " with mask " + in_hex(mask) + ", which lacks the calling lane",
         where);
  }
  if (mask & ~warp.exists || mask & warp.exited) {
    fail(std::string(call) + " with mask " + in_hex(mask) +
             ", which names lanes that have ended or do not exist",
         where);
  }
  Meeting* meeting = nullptr;
  for (Meeting& m : warp.meetings) {
    if (m.mask == mask) {
      meeting = &m;
    } else if ((m.mask & bit) && (mask & m.arrived)) {
      fail(std::string(call) + " with mask " + in_hex(mask) + ", while other lanes of it wait at " +
               m.call + " with mask " + in_hex(m.mask) + " (" + place(m.where) + ")",
           where);
    }
  }
  if (!meeting) {
    warp.meetings.push_back({call, where, mask, 0});
    meeting = &warp.meetings.back();
  } else if (meeting->call != call && std::strcmp(meeting->call, call) != 0) {
    fail(std::string(call) + ", while other lanes of its mask wait at " + meeting->call + " (" +
             place(meeting->where) + ")",
         where);
  }
  meeting->arrived |= bit;
  if (meeting->arrived == mask) {
    *meeting = warp.meetings.back();
    warp.meetings.pop_back();
    return true;
  }
  me.waits_for = call;
  me.where = where;
  go_on_with_another(me);
  return false;
}

void part(uint32_t mask) { self->warp->ready |= mask & ~(1u << self->lane); }

void order_memory(uint32_t mask) {
  if constexpr (kChecked) {
    Thread* together[32];
    int count = 0;
    for (uint32_t left = mask; left; left &= left - 1) {
      together[count++] = &self->warp->lanes[std::countr_zero(left)];
    }
    check_sync(together, count);
  }
}

int wait_at_barrier(int id, int expected, const char* call, int value, const Where& where) {
  Thread& me = *self;
  Block& block = *me.block;
  Barrier& barrier = block.barriers[id];
  if (barrier.arrived == 0) {
    barrier.call = call;
    barrier.where = where;
    barrier.expected = expected;
    barrier.sum = 0;
  } else if (barrier.expected != expected) {
    fail(std::string(call) + " for " + std::to_string(expected) +
             " threads, while others wait for " + std::to_string(barrier.expected) +
             " at the same barrier (" + place(barrier.where) + ")",
         where);
  } else if (id == 0 && (barrier.where.line() != where.line() ||
                         std::strcmp(barrier.where.file_name(), where.file_name()) != 0)) {
    fail(std::string("divergent barrier: ") + call + ", while others wait at " + barrier.call +
             " (" + place(barrier.where) + ")",
         where);
  }
  ++barrier.arrived;
  barrier.sum += value;
  const uint32_t bit = 1u << me.lane;
  if (barrier.arrived < expected) {
    barrier.waiting[me.number / 32] |= bit;
    me.waits_for = call;
    me.where = where;
    go_on_with_another(me);
    return static_cast<int>(me.taken);
  }
  std::vector<Thread*> together;
  for (int w = 0; w < block.warp_count; ++w) {
    for (uint32_t left = barrier.waiting[w]; left; left &= left - 1) {
      Thread* t = &block.warps[w].lanes[std::countr_zero(left)];
      t->taken = static_cast<uint64_t>(barrier.sum);
      if constexpr (kChecked) together.push_back(t);
    }
  }
  if constexpr (kChecked) {
    together.push_back(&me);
    check_sync(together.data(), static_cast<int>(together.size()));
  }
  release(barrier, block);
  return barrier.sum;
}

}  // namespace fusedlm::simt::emulator
