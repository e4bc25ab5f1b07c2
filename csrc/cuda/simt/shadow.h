#pragma once
// Who touched a piece of memory last, and whether two accesses are in order. Time passes for a
// thread when it waits together with others: from then on each of them knows what all of them had
// done. An access of another thread that the running one does not know of is a race.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

namespace fusedlm::simt::emulator {

/// The accesses of a block's threads to one byte (or one element of global memory) that later ones
/// can be in conflict with.
struct Cell {
  static constexpr uint8_t kEmpty = 0, kWritten = 1, kInFlight = 2;
  uint8_t state = kEmpty;
  bool atomic = false;       // the last write was
  uint16_t writer = 0;       // thread of the block
  uint16_t readers[2] = {};  // two that are not in order with each other
  uint32_t write_time = 0;   // 0: never
  uint32_t read_times[2] = {};
  uint32_t write_place = 0, read_places[2] = {};  // lower half of the address of the code
  // Readers beyond the two, by warp, and the earliest time of theirs.
  uint32_t more_readers = 0, more_time = 0;

  void forget_readers() { read_times[0] = read_times[1] = more_readers = more_time = 0; }
};

/// An element of global memory. `cell` is about the last block that touched it.
struct GlobalCell {
  struct Earlier {
    uint32_t block = 0, place = 0;
  };
  Cell cell;
  uint32_t block = 0;      // numbers + 1; 0: none
  Earlier writer, reader;  // among the blocks before that

  void enter(uint32_t next) {
    if (block == next) return;
    if (cell.write_time) writer = {block, cell.write_place};
    if (cell.read_times[0]) reader = {block, cell.read_places[0]};
    cell.write_time = 0;
    cell.forget_readers();
    block = next;
  }
};

/// What the threads of a block know of each other.
class Clocks {
 public:
  void start(int threads) {
    times_.assign(threads, 1);
    known_.assign(threads, std::make_shared<const std::vector<uint32_t>>(threads, 0));
    common_ = 1;
  }
  uint32_t now(int thread) const { return times_[thread]; }
  bool knows(int thread, int other, uint32_t time) const {
    return thread == other || time < common_ || (*known_[thread])[other] >= time;
  }
  /// What was done before this time is known to the whole block.
  uint32_t common() const { return common_; }
  /// Whether `thread` knows of any thread of a warp what that had done at `time`.
  bool knows_of_warp(int thread, int warp, uint32_t time) const {
    if (thread / 32 == warp || time < common_) return true;
    const std::vector<uint32_t>& known = *known_[thread];
    const size_t first = size_t{32} * warp, last = std::min(first + 32, known.size());
    return std::any_of(known.begin() + first, known.begin() + last,
                       [=](uint32_t until) { return until >= time; });
  }
  /// The threads wait for each other.
  template <class Number>
  void meet(int count, Number number) {
    auto all = std::make_shared<std::vector<uint32_t>>(*known_[number(0)]);
    const std::vector<uint32_t>* last = known_[number(0)].get();
    for (int i = 1; i < count; ++i) {
      const std::vector<uint32_t>* next = known_[number(i)].get();
      if (next == last) continue;  // those who met before know the same
      last = next;
      for (size_t u = 0; u < all->size(); ++u) (*all)[u] = std::max((*all)[u], (*next)[u]);
    }
    // They go on with one time, so that threads that do the same have the same.
    uint32_t latest = 0;
    for (int i = 0; i < count; ++i) latest = std::max(latest, times_[number(i)]);
    for (int i = 0; i < count; ++i) {
      (*all)[number(i)] = times_[number(i)];
      times_[number(i)] = latest + 1;
    }
    for (int i = 0; i < count; ++i) known_[number(i)] = all;
    if (count == static_cast<int>(times_.size())) common_ = latest + 1;
  }

 private:
  std::vector<uint32_t> times_;
  std::vector<std::shared_ptr<const std::vector<uint32_t>>> known_;
  uint32_t common_ = 1;
};

}  // namespace fusedlm::simt::emulator
