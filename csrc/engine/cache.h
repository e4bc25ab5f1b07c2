#pragma once
// Keys and values in pages (Kwon et al. 2023, arXiv:2309.06180): which page belongs to whom, and which
// full pages can be shared because they hold the same tokens after the same tokens.

#include <array>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/memory.h"
#include "fusedlm/engine.h"

namespace fusedlm::engine {

constexpr index_t kPageTokens = Engine::kPageTokens;

/// Rows of logits that an append of so many tokens asks for.
inline index_t logit_rows(Engine::Logits logits, index_t tokens) {
  return logits == Engine::Logits::all ? tokens : logits == Engine::Logits::last ? 1 : 0;
}

inline index_t pages_of(index_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

/// Of the keys or the values of a page in one layer.
size_t page_bytes(const DecoderConfig& config, DType dtype);

/// A sequence's tokens, and the pages that hold their keys and values.
struct CachedSequence {
  std::vector<int32_t> tokens, pages;
  /// Of each full page: the number of the text that ends with it.
  std::vector<uint64_t> texts;

  index_t length() const { return static_cast<index_t>(tokens.size()); }
};

/// Not thread-safe. A page is free, in use by one or more sequences, or idle: full and in use by none,
/// but still to be found by its tokens until its memory is needed.
class PagedCache {
 public:
  PagedCache(const DecoderConfig& config, DType dtype, index_t pages);

  /// [pages, page, G, D]
  const TensorView& key(index_t layer) const { return keys_[static_cast<size_t>(layer)]; }
  const TensorView& value(index_t layer) const { return values_[static_cast<size_t>(layer)]; }
  index_t free_pages() const { return static_cast<index_t>(free_.size() + idle_.size()); }

  /// Shares the full pages that hold the beginning of `prompt`, though never its last token.
  CachedSequence open(std::span<const int32_t> prompt);
  /// What the sequence held may be found until its memory is needed.
  void close(CachedSequence& sequence);
  void truncate(CachedSequence& sequence, index_t length);

  /// Pages that `reserve` would take.
  index_t missing_pages(const CachedSequence& sequence, index_t added) const;
  /// Makes room for `added` tokens behind those that are there. The caller has seen that pages are free.
  void reserve(CachedSequence& sequence, index_t added);
  /// Their keys and values are written: full pages can be found from now on.
  void append(CachedSequence& sequence, std::span<const int32_t> tokens);

 private:
  /// What a full page holds: the text before it, by its number, and its tokens.
  struct Text {
    uint64_t before;
    std::array<int32_t, kPageTokens> tokens;
    bool operator==(const Text&) const = default;
  };
  struct HashText {
    size_t operator()(const Text& text) const;
  };
  struct Page {
    int32_t users = 0;
    uint64_t text = 0;  ///< its number; 0: cannot be found
    std::unordered_map<Text, int32_t, HashText>::iterator found;
    std::list<int32_t>::iterator idle;  ///< where users == 0 and text != 0
  };

  Page& page(int32_t id) { return pages_[static_cast<size_t>(id)]; }
  const Page& page(int32_t id) const { return pages_[static_cast<size_t>(id)]; }
  int32_t take_page();
  void release(int32_t id);
  void forget(Page& page);
  bool must_copy(const CachedSequence& sequence) const;
  void copy_page(int32_t from, int32_t to);

  std::vector<Page> pages_;
  std::vector<int32_t> free_;
  std::list<int32_t> idle_;                              // the least recently used first
  std::unordered_map<Text, int32_t, HashText> by_text_;  // has room for all pages: never rehashed
  uint64_t last_text_ = 0;
  Memory memory_;
  std::vector<TensorView> keys_, values_;
};

}  // namespace fusedlm::engine
