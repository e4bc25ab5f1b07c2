#include "engine/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace fusedlm {
namespace {

uint64_t pair_of(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

}  // namespace

void MergeTable::reserve(size_t rules) {
  slots_.assign(std::bit_ceil(std::max<size_t>(2 * rules, 16)), {});
}

size_t MergeTable::slot_of(uint64_t pair) const {
  const size_t mask = slots_.size() - 1;
  // Fibonacci hashing; the upper half of the product is the mixed one.
  size_t slot = (pair * 0x9e3779b97f4a7c15u >> 32) & mask;
  while (slots_[slot].pair != pair && slots_[slot].pair != kFree) slot = (slot + 1) & mask;
  return slot;
}

void MergeTable::add(int32_t left, int32_t right, Rule rule) {
  const uint64_t pair = pair_of(left, right);
  slots_[slot_of(pair)] = {pair, rule};
}

const MergeTable::Rule* MergeTable::find(int32_t left, int32_t right) const {
  if (slots_.empty()) return nullptr;
  const uint64_t pair = pair_of(left, right);
  const Slot& slot = slots_[slot_of(pair)];
  return slot.pair == pair ? &slot.rule : nullptr;
}

void BpeMerger::consider(int32_t left) {
  const int32_t right = left < 0 ? -1 : symbols_[left].next;
  if (right < 0) return;
  const int32_t a = symbols_[left].token, b = symbols_[right].token;
  if (const MergeTable::Rule* rule = merges_.find(a, b)) {
    heap_.push_back({rule->rank, left, a, b});
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  }
}

void append_bytes(std::string_view word, const ByteTokens& bytes, int32_t unknown,
                  std::vector<int32_t>& out) {
  for (char c : word) {
    int32_t token = bytes[static_cast<unsigned char>(c)];
    if (token < 0) token = unknown;
    if (token >= 0) out.push_back(token);
  }
}

void BpeMerger::merge(std::span<const int32_t> word, std::vector<int32_t>& out) {
  symbols_.clear();
  heap_.clear();
  for (int32_t token : word) {
    const auto index = static_cast<int32_t>(symbols_.size());
    symbols_.push_back({token, index - 1, index + 1});
  }
  if (symbols_.empty()) return;
  symbols_.back().next = -1;
  for (size_t i = 0; i + 1 < symbols_.size(); ++i) consider(static_cast<int32_t>(i));

  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    const Candidate best = heap_.back();
    heap_.pop_back();
    Symbol& left = symbols_[best.left];
    // A symbol that another merge swallowed has the token -1; one that grew has another token.
    if (left.token != best.left_token || left.next < 0) continue;
    Symbol& right = symbols_[left.next];
    if (right.token != best.right_token) continue;
    left.token = merges_.find(best.left_token, best.right_token)->token;
    right.token = -1;
    left.next = right.next;
    if (left.next >= 0) symbols_[left.next].previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
  for (int32_t i = 0; i >= 0; i = symbols_[i].next) out.push_back(symbols_[i].token);
}

}  // namespace fusedlm
