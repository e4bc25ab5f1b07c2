#include "fusedlm/arena.h"

#include <string>

#include "core/fork.h"
#include "core/pages.h"
#include "fusedlm/errors.h"

namespace fusedlm {
namespace {

// Slabs of so much are asked of the system: few calls, and little that no block ever uses.
constexpr size_t kSlab = size_t{64} << 20;
constexpr size_t kGrain = 4096;

size_t rounded(size_t bytes, size_t step) { return (bytes + step - 1) / step * step; }

}  // namespace

Arena& Arena::shared() {
  static auto* arena = [] {
    auto* made = new Arena;  // never destroyed: tensors may outlive static objects
    keep_across_forks(made->mutex_);
    return made;
  }();
  return *arena;
}

Arena::~Arena() { release(); }

void Arena::add_slab(size_t bytes) {
  bytes = rounded(bytes < kSlab ? kSlab : bytes, kHugePage);
  auto* start = static_cast<char*>(map_pages(bytes));
  if (!start) throw OutOfMemory("arena: " + std::to_string(bytes) + " bytes could not be had");
  held_ += bytes;
  chunks_.emplace(start, Chunk{bytes, true, true});
  free_.emplace(bytes, start);
}

void* Arena::take(size_t bytes) {
  bytes = rounded(bytes ? bytes : 1, kGrain);
  std::lock_guard lock(mutex_);
  auto fit = free_.lower_bound({bytes, nullptr});
  if (fit == free_.end()) {
    add_slab(bytes);
    fit = free_.lower_bound({bytes, nullptr});
  }
  char* start = fit->second;
  free_.erase(fit);
  const auto chunk = chunks_.find(start);
  if (const size_t rest = chunk->second.size - bytes; rest > 0) {
    chunks_.emplace_hint(std::next(chunk), start + bytes, Chunk{rest, true, false});
    free_.emplace(rest, start + bytes);
    chunk->second.size = bytes;
  }
  chunk->second.free = false;
  return start;
}

// Joins `chunk` with the chunk behind it, if that is free and of the same slab; neither is listed
// in free_ afterwards.
void Arena::join(Chunks::iterator chunk) noexcept {
  const auto next = std::next(chunk);
  if (next == chunks_.end() || !next->second.free || next->second.begins_slab) return;
  free_.erase({next->second.size, next->first});
  chunk->second.size += next->second.size;
  chunks_.erase(next);
}

void Arena::give(void* block) noexcept {
  std::lock_guard lock(mutex_);
  auto chunk = chunks_.find(static_cast<char*>(block));
  chunk->second.free = true;
  join(chunk);
  if (!chunk->second.begins_slab && std::prev(chunk)->second.free) {
    --chunk;
    free_.erase({chunk->second.size, chunk->first});
    join(chunk);
  }
  free_.emplace(chunk->second.size, chunk->first);
}

void Arena::release() noexcept {
  std::lock_guard lock(mutex_);
  for (auto chunk = chunks_.begin(); chunk != chunks_.end();) {
    const auto next = std::next(chunk);
    const bool whole = chunk->second.begins_slab && chunk->second.free &&
                       (next == chunks_.end() || next->second.begins_slab);
    if (whole) {
      free_.erase({chunk->second.size, chunk->first});
      unmap_pages(chunk->first, chunk->second.size);
      held_ -= chunk->second.size;
      chunks_.erase(chunk);
    }
    chunk = next;
  }
}

ArenaBlock::ArenaBlock(size_t bytes) : data(Arena::shared().take(bytes)), bytes(bytes) {}

ArenaBlock::~ArenaBlock() { Arena::shared().give(data); }

size_t Arena::bytes_held() const noexcept {
  std::lock_guard lock(mutex_);
  return held_;
}

}  // namespace fusedlm
