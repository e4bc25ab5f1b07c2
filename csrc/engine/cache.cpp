#include "engine/cache.h"

#include <algorithm>
#include <cstring>

namespace fusedlm::engine {

size_t page_bytes(const DecoderConfig& config, DType dtype) {
  return static_cast<size_t>(kPageTokens * config.kv_heads * config.head_width * size_of(dtype));
}

size_t PagedCache::HashText::operator()(const Text& text) const {
  uint64_t hash = text.before;
  for (const int32_t token : text.tokens) {
    // One step of splitmix64 for each token (Steele, Lea & Flood 2014).
    hash += static_cast<uint32_t>(token) + 0x9e3779b97f4a7c15u;
    hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9u;
    hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebu;
    hash ^= hash >> 31;
  }
  return hash;
}

PagedCache::PagedCache(const DecoderConfig& config, DType dtype, index_t pages)
    : pages_(static_cast<size_t>(pages)),
      memory_(static_cast<size_t>(2 * config.layers * pages) * page_bytes(config, dtype),
              "the cache") {
  for (index_t id = pages - 1; id >= 0; --id) free_.push_back(static_cast<int32_t>(id));
  by_text_.reserve(pages_.size());
  char* at = memory_.data();
  for (index_t layer = 0; layer < config.layers; ++layer) {
    for (auto* pools : {&keys_, &values_}) {
      pools->push_back({at, dtype, {pages, kPageTokens, config.kv_heads, config.head_width}});
      at += static_cast<size_t>(pages) * page_bytes(config, dtype);
    }
  }
}

CachedSequence PagedCache::open(std::span<const int32_t> prompt) {
  CachedSequence sequence;
  uint64_t before = 0;
  for (size_t begin = 0; begin + kPageTokens < prompt.size(); begin += kPageTokens) {
    Text text{before, {}};
    std::copy_n(prompt.begin() + static_cast<std::ptrdiff_t>(begin), kPageTokens,
                text.tokens.begin());
    const auto found = by_text_.find(text);
    if (found == by_text_.end()) break;
    Page& shared = page(found->second);
    if (shared.users++ == 0) idle_.erase(shared.idle);
    sequence.pages.push_back(found->second);
    sequence.texts.push_back(before = shared.text);
    sequence.tokens.insert(sequence.tokens.end(), text.tokens.begin(), text.tokens.end());
  }
  return sequence;
}

void PagedCache::close(CachedSequence& sequence) {
  // From the end on: what begins a text is found by more others, and stays longest.
  while (!sequence.pages.empty()) {
    release(sequence.pages.back());
    sequence.pages.pop_back();
  }
}

void PagedCache::truncate(CachedSequence& sequence, index_t length) {
  sequence.tokens.resize(static_cast<size_t>(length));
  for (auto kept = static_cast<size_t>(pages_of(length)); sequence.pages.size() > kept;) {
    release(sequence.pages.back());
    sequence.pages.pop_back();
  }
  const auto full = static_cast<size_t>(length / kPageTokens);
  if (sequence.texts.size() > full) sequence.texts.resize(full);
}

// Whether the next token would be written into a page that others read, after a truncation.
bool PagedCache::must_copy(const CachedSequence& sequence) const {
  const index_t at = sequence.length() / kPageTokens;
  return sequence.length() % kPageTokens && page(sequence.pages[static_cast<size_t>(at)]).users > 1;
}

index_t PagedCache::missing_pages(const CachedSequence& sequence, index_t added) const {
  const index_t missing =
      pages_of(sequence.length() + added) - static_cast<index_t>(sequence.pages.size());
  return std::max<index_t>(0, missing) + (must_copy(sequence) ? 1 : 0);
}

void PagedCache::reserve(CachedSequence& sequence, index_t added) {
  if (sequence.length() % kPageTokens) {
    int32_t& last = sequence.pages[static_cast<size_t>(sequence.length() / kPageTokens)];
    if (must_copy(sequence)) {
      const int32_t own = take_page();
      copy_page(last, own);
      release(last);
      last = own;
    } else if (page(last).text) {
      forget(page(last));
    }
  }
  while (static_cast<index_t>(sequence.pages.size()) < pages_of(sequence.length() + added)) {
    sequence.pages.push_back(take_page());
  }
}

void PagedCache::append(CachedSequence& sequence, std::span<const int32_t> tokens) {
  sequence.tokens.insert(sequence.tokens.end(), tokens.begin(), tokens.end());
  const index_t full = sequence.length() / kPageTokens;
  while (static_cast<index_t>(sequence.texts.size()) < full) {
    const auto at = sequence.texts.size();
    Text text{at ? sequence.texts[at - 1] : 0, {}};
    std::copy_n(sequence.tokens.begin() + static_cast<std::ptrdiff_t>(at * kPageTokens),
                kPageTokens, text.tokens.begin());
    const int32_t id = sequence.pages[at];
    // Another page may hold the same already; that one is found then, and this one ends with its user.
    const auto [found, is_new] = by_text_.try_emplace(text, id);
    Page& holder = page(found->second);
    if (is_new) holder.text = ++last_text_, holder.found = found;
    sequence.texts.push_back(holder.text);
  }
}

int32_t PagedCache::take_page() {
  int32_t id;
  if (!free_.empty()) {
    id = free_.back();
    free_.pop_back();
  } else {
    id = idle_.front();
    idle_.pop_front();
    forget(page(id));
  }
  page(id).users = 1;
  return id;
}

void PagedCache::release(int32_t id) {
  Page& released = page(id);
  if (--released.users > 0) return;
  if (released.text) {
    released.idle = idle_.insert(idle_.end(), id);
  } else {
    free_.push_back(id);
  }
}

void PagedCache::forget(Page& page) {
  by_text_.erase(page.found);
  page.text = 0;
}

void PagedCache::copy_page(int32_t from, int32_t to) {
  for (const auto* pools : {&keys_, &values_}) {
    for (const TensorView& pool : *pools) {
      const auto bytes = static_cast<size_t>(pool.strides[0] * size_of(pool.dtype));
      auto* data = pool.as<char>();
      std::memcpy(data + static_cast<size_t>(to) * bytes, data + static_cast<size_t>(from) * bytes,
                  bytes);
    }
  }
}

}  // namespace fusedlm::engine
