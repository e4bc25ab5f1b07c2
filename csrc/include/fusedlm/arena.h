#pragma once
#include <cstddef>
#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace fusedlm {

/// Memory for large results that come and go in every step (activations, gradients): freed blocks
/// are kept and given out again, the smallest that fits first, so that a step touches no fresh
/// pages. Blocks are 64-byte aligned and not initialised. Safe to use from several threads.
class Arena {
 public:
  Arena() = default;
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Throws OutOfMemory.
  void* take(size_t bytes);
  /// Returns what take() gave.
  void give(void* block) noexcept;
  /// Hands slabs without a block in use back to the system.
  void release() noexcept;

  /// In use or kept for later.
  size_t bytes_held() const noexcept;

  /// The process's own. Throws nothing.
  static Arena& shared();

 private:
  struct Chunk {
    size_t size;
    bool free;
    bool begins_slab;
  };
  using Chunks = std::map<char*, Chunk>;
  void join(Chunks::iterator chunk) noexcept;
  void add_slab(size_t bytes);

  mutable std::mutex mutex_;
  Chunks chunks_;                            // by address; neighbours in a slab touch
  std::set<std::pair<size_t, char*>> free_;  // by size
  size_t held_ = 0;
};

/// A block of the process's arena for as long as this lives.
struct ArenaBlock {
  /// Throws OutOfMemory.
  explicit ArenaBlock(size_t bytes);
  ~ArenaBlock();
  ArenaBlock(const ArenaBlock&) = delete;
  ArenaBlock& operator=(const ArenaBlock&) = delete;

  void* data;
  size_t bytes;
};

}  // namespace fusedlm
