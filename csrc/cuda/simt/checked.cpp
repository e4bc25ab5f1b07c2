// The checked build (FUSEDLM_SIMT=CHECKED). Kernels are compiled with -fsanitize=thread, which
// makes the compiler call a function before each load and store; but those functions are not the
// thread sanitizer's, they are in instrumentation.cpp and end here. Each access is looked up in the
// shared memory of the block, then in the buffers of the launch; what lies elsewhere and is not the
// thread's own stack or a constant is out of bounds. Races are found by shadow.h. The first wrong
// access ends the kernel.

#if defined(FUSEDLM_SIMT_CHECKED)

#include "cuda/simt/checked.h"

#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "cuda/simt/checker.h"
#include "cuda/simt/shadow.h"
#include "cuda/simt/symbolize.h"
#include "fusedlm/errors.h"

namespace fusedlm::simt::emulator {
namespace {

/// Buffers of the launch that overlap (views of one tensor) are one region.
struct Region {
  std::string name;
  char *begin, *end;
  size_t element;
  std::vector<bool>* written;
  GlobalCell* cells;
  size_t cell_bytes;
};

struct Segment {
  uintptr_t begin, end;
};

struct Checker {
  Clocks clocks;
  std::vector<Cell> shared = std::vector<Cell>(kArena);
  size_t shared_in_use = 0;
  std::vector<Region> regions;
  size_t last_region = 0;
  std::vector<Segment> segments;  // of the program and its libraries: constants

  ~Checker() { drop_regions(); }
  void drop_regions() {
    for (Region& r : regions) {
      if (r.cells) munmap(r.cells, r.cell_bytes);
    }
    regions.clear();
  }
};

Checker& checker() {
  thread_local std::unique_ptr<Checker> one;
  if (!one) one = std::make_unique<Checker>();
  return *one;
}

const char* verb(Access access) {
  switch (access) {
    case Access::read:
      return "reads ";
    case Access::write:
      return "writes ";
    case Access::atomic:
      return "atomically changes ";
  }
  return "";
}

/// An access as the reports describe it.
struct Touch {
  Thread& thread;
  const char* at;
  size_t bytes;
  Access access;
  Spot spot;

  [[noreturn]] void report(const std::string& what) const {
    const std::string by = spot.call ? std::string(spot.call) + " " : std::string();
    fail(by + verb(access) + std::to_string(bytes) + " bytes " + what, spot.text());
  }
};

std::string thread_named(const Block& block, int number) {
  return "thread " + coordinates(block.threads[number].index);
}

// The lower half of an address of code, completed by the upper half of one nearby.
std::string earlier(uint32_t place, const Spot& near) {
  if (!place) return "";
  const uintptr_t high = near.code ? near.code : any_code();
  return " at " + place_of_code((high & ~uintptr_t{0xffffffff}) | place);
}

[[noreturn]] void race(const Touch& t, const std::string& where, const std::string& other,
                       const char* did, uint32_t place) {
  t.report("of " + where + ", which " + other + " " + did + earlier(place, t.spot) +
           ", with nothing that orders the two: a race");
}

const char* did_write(const Cell& cell) { return cell.atomic ? "changed atomically" : "wrote"; }

// The reader in the second slot gives way to one that does not know of it. Of its warp is kept that
// it read, not of the thread: a write is reported if its thread knows of none in that warp.
void keep_by_warp(Cell& cell, const Clocks& clocks) {
  if (cell.more_time < clocks.common()) cell.more_readers = 0, cell.more_time = ~0u;
  cell.more_readers |= 1u << cell.readers[1] / 32;
  cell.more_time = std::min(cell.more_time, cell.read_times[1]);
}

// `cell` is one of the bytes or elements of the access, described by `where`.
template <class Where_>
void check_order(const Touch& t, Cell& cell, const Clocks& clocks, Where_&& where) {
  const int me = t.thread.number;
  const Block& mine = *t.thread.block;
  const bool writes = t.access != Access::read, atomic = t.access == Access::atomic;
  if (cell.write_time && !(atomic && cell.atomic) &&
      !clocks.knows(me, cell.writer, cell.write_time)) {
    race(t, where(), thread_named(mine, cell.writer), did_write(cell), cell.write_place);
  }
  if (writes) {
    for (int i = 0; i < 2; ++i) {
      if (cell.read_times[i] && !clocks.knows(me, cell.readers[i], cell.read_times[i])) {
        race(t, where(), thread_named(mine, cell.readers[i]), "read", cell.read_places[i]);
      }
    }
    for (uint32_t left = cell.more_readers; left; left &= left - 1) {
      const int warp = std::countr_zero(left);
      if (!clocks.knows_of_warp(me, warp, cell.more_time)) {
        race(t, where(), "a thread of warp " + std::to_string(warp), "read", 0);
      }
    }
    cell.writer = static_cast<uint16_t>(me);
    cell.write_time = clocks.now(me);
    cell.write_place = static_cast<uint32_t>(t.spot.code);
    cell.atomic = atomic;
    cell.state = Cell::kWritten;
    // Whoever is in order with a plain write is in order with the reads before it; atomics are not
    // held against each other, so those who come later are held against the reads.
    if (!atomic) cell.forget_readers();
    return;
  }
  // A reader that this one knows of need not be remembered: who knows this one knows that one too.
  const bool first = !cell.read_times[0] || clocks.knows(me, cell.readers[0], cell.read_times[0]);
  const int slot = first ? 0 : 1;
  if (slot == 1 && cell.readers[1] / 32 != me / 32 &&
      !clocks.knows(me, cell.readers[1], cell.read_times[1])) {
    keep_by_warp(cell, clocks);
  }
  cell.readers[slot] = static_cast<uint16_t>(me);
  cell.read_times[slot] = clocks.now(me);
  cell.read_places[slot] = static_cast<uint32_t>(t.spot.code);
}

// Against other blocks, which nothing orders.
template <class Where_>
void check_blocks(const Touch& t, GlobalCell& element, uint32_t block, Where_&& where) {
  element.enter(block);
  const auto block_named = [](uint32_t number) { return "block " + std::to_string(number - 1); };
  const GlobalCell::Earlier &writer = element.writer, &reader = element.reader;
  if (writer.block && !(t.access == Access::atomic && element.cell.atomic)) {
    race(t, where(), block_named(writer.block), did_write(element.cell), writer.place);
  }
  if (reader.block && t.access != Access::read) {
    race(t, where(), block_named(reader.block), "read", reader.place);
  }
}

std::string offset_in(const std::string& name, ptrdiff_t offset) {
  return name + " + " + std::to_string(offset);
}

struct Piece {
  const char* name;
  const char *begin, *end;
};

// The piece of shared memory that holds `at`, or else the last one that begins before it.
Piece piece_of_shared(const Block& block, const char* at) {
  Piece best{"dynamic shared memory", block.shared, block.shared + block.launch->dynamic_bytes};
  for (int site : block.sites) {
    const StaticShared& s = block.statics[site];
    if (s.data <= at && s.data >= best.begin) best = {s.name, s.data, s.data + s.bytes};
  }
  return best;
}

void check_shared(const Touch& t) {
  const Block& block = *t.thread.block;
  const Piece piece = piece_of_shared(block, t.at);
  if (t.at + t.bytes > piece.end) {
    t.report("out of bounds: " + std::to_string(t.at - piece.end) + " bytes behind the end of " +
             piece.name);
  }
  Checker& c = checker();
  for (size_t i = 0; i < t.bytes; ++i) {
    Cell& cell = c.shared[t.at + i - block.shared];
    const auto where = [&] { return offset_in(piece.name, t.at + i - piece.begin); };
    if (t.access != Access::write) {
      if (cell.state == Cell::kEmpty) t.report("of " + where() + ", which nobody has written");
      if (cell.state == Cell::kInFlight) {
        t.report("of " + where() + ", which cp.async by " + thread_named(block, cell.writer) +
                 " is still to bring: wait for it first");
      }
    } else if (cell.state == Cell::kInFlight && cell.writer != t.thread.number) {
      t.report("of " + where() + ", which cp.async by " + thread_named(block, cell.writer) +
               " is still to bring");
    }
    check_order(t, cell, c.clocks, where);
  }
}

Region* region_of(Checker& c, const char* at) {
  if (c.last_region < c.regions.size()) {
    Region& last = c.regions[c.last_region];
    if (at >= last.begin && at < last.end) return &last;
  }
  for (size_t i = 0; i < c.regions.size(); ++i) {
    Region& r = c.regions[i];
    if (at >= r.begin && at < r.end) {
      c.last_region = i;
      return &r;
    }
  }
  return nullptr;
}

uint32_t number_of(const Block& block) {
  const dim3 grid = block.launch->grid;
  return (block.index.z * grid.y + block.index.y) * grid.x + block.index.x + 1;
}

void check_global(const Touch& t, Checker& c, Region& r) {
  if (t.at + t.bytes > r.end) {
    t.report("out of bounds: across the end of " + r.name);
  }
  if (!r.element) return;
  const uint32_t block = number_of(*t.thread.block);
  const size_t first = (t.at - r.begin) / r.element;
  const size_t last = (t.at + t.bytes - 1 - r.begin) / r.element;
  for (size_t i = first; i <= last; ++i) {
    const auto where = [&] { return offset_in(r.name, static_cast<ptrdiff_t>(i * r.element)); };
    check_blocks(t, r.cells[i], block, where);
    check_order(t, r.cells[i].cell, c.clocks, where);
  }
  if (!r.written) return;
  const size_t begin = t.at - r.begin;
  for (size_t i = begin; i < begin + t.bytes; ++i) {
    if (t.access == Access::write) {
      (*r.written)[i] = true;
    } else if (!(*r.written)[i]) {
      t.report("of " + offset_in(r.name, static_cast<ptrdiff_t>(i)) + ", which nobody has written");
    }
  }
}

[[noreturn]] void out_of_bounds(const Touch& t, const Checker& c) {
  const Block& block = *t.thread.block;
  for (const Thread& other : block.threads) {
    if (t.at >= other.stack_low && t.at < other.stack_high) {
      t.report("of a local variable of " + thread_named(block, other.number));
    }
  }
  const Region* nearest = nullptr;
  for (const Region& r : c.regions) {
    if (r.begin <= t.at && (!nearest || r.begin > nearest->begin)) nearest = &r;
  }
  std::string text = "out of bounds: in no argument of the call";
  if (nearest) {
    text +=
        "; " + std::to_string(t.at - nearest->end) + " bytes behind the end of " + nearest->name;
  }
  t.report(text);
}

int add_segment(dl_phdr_info* info, size_t, void* list) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type != PT_LOAD) continue;
    const uintptr_t begin = info->dlpi_addr + header.p_vaddr;
    static_cast<std::vector<Segment>*>(list)->push_back({begin, begin + header.p_memsz});
  }
  return 0;
}

bool is_constant(const Checker& c, const char* at) {
  const auto address = reinterpret_cast<uintptr_t>(at);
  return std::any_of(c.segments.begin(), c.segments.end(),
                     [&](const Segment& s) { return address >= s.begin && address < s.end; });
}

}  // namespace

void check_launch(const Launch&) {
  Checker& c = checker();
  c.drop_regions();
  c.segments.clear();
  dl_iterate_phdr(add_segment, &c.segments);
  std::vector<Buffer> buffers = registered_buffers();
  std::sort(buffers.begin(), buffers.end(),
            [](const Buffer& a, const Buffer& b) { return a.data < b.data; });
  for (const Buffer& b : buffers) {
    char* end = b.data + b.bytes;
    if (!c.regions.empty() && b.data < c.regions.back().end) {
      Region& r = c.regions.back();
      r.end = std::max(r.end, end);
      r.element = std::min(r.element, b.element);
      if (r.name.size() < 40) r.name += "|" + b.name;
      continue;
    }
    c.regions.push_back({b.name, b.data, end, b.element, b.written.get(), nullptr, 0});
  }
  for (Region& r : c.regions) {
    if (!r.element) continue;
    const size_t count = (r.end - r.begin + r.element - 1) / r.element;
    r.cell_bytes = count * sizeof(GlobalCell);
    // Fresh pages are 0, as an untouched cell is; those never reached cost nothing.
    void* memory = mmap(nullptr, r.cell_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw OutOfMemory("emulator: no memory to check accesses");
    r.cells = static_cast<GlobalCell*>(memory);
  }
}

void check_block(Block& block) {
  Checker& c = checker();
  c.clocks.start(block.thread_count);
  std::fill_n(c.shared.begin(), std::max(c.shared_in_use, block.shared_used), Cell());
  c.shared_in_use = block.shared_used;
}

void check_static(Block& block, const StaticShared&) {
  checker().shared_in_use = block.shared_used;
}

void check_sync(Thread* const* threads, int count) {
  checker().clocks.meet(count, [&](int i) { return threads[i]->number; });
}

void check_in_flight(Thread& thread, const void* address, size_t bytes) {
  Checker& c = checker();
  Cell* cells = &c.shared[static_cast<const char*>(address) - thread.block->shared];
  for (size_t i = 0; i < bytes; ++i) cells[i].state = Cell::kInFlight;
}

void check_touch(Thread& thread, const void* address, size_t bytes, Access access,
                 const Spot& spot) {
  const char* at = static_cast<const char*>(address);
  if (at >= thread.stack_low && at < thread.stack_high) return;
  const Touch touch{thread, at, bytes, access, spot};
  if ((bytes & (bytes - 1)) == 0 && bytes <= 16 && spot.aligned &&
      reinterpret_cast<uintptr_t>(at) % bytes) {
    touch.report("misaligned");
  }
  const Block& block = *thread.block;
  if (at >= block.shared && at < block.shared + kArena) return check_shared(touch);
  Checker& c = checker();
  if (Region* r = region_of(c, at)) return check_global(touch, c, *r);
  const auto* parameters = static_cast<const char*>(block.launch->parameters);
  if (at >= parameters && at < parameters + block.launch->parameter_bytes) return;
  if (access == Access::read && is_constant(c, at)) return;
  out_of_bounds(touch, c);
}

void check_access(Thread& thread, const void* address, size_t bytes, Access access,
                  const char* call, const Where& where) {
  Spot spot;
  spot.call = call;
  spot.where = &where;
  spot.aligned = false;  // the callers look at that themselves
  check_touch(thread, address, bytes, access, spot);
}

}  // namespace fusedlm::simt::emulator

#endif
