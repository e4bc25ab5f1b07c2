#pragma once
// Byte pair encoding (Sennrich et al. 2016, arXiv:1508.07909) of one word: of all neighbours that a rule
// joins, those of the earliest rule first, the leftmost among equals, until no rule fits.

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace fusedlm {

/// Pairs of tokens -> the rule that joins them. Open addressing: it is asked for every pair of every word.
class MergeTable {
 public:
  struct Rule {
    uint32_t rank;  ///< the earliest is 0; rules may share one
    int32_t token;  ///< what the two become
  };
  void reserve(size_t rules);
  /// A later rule for the same pair replaces the earlier one.
  void add(int32_t left, int32_t right, Rule rule);
  const Rule* find(int32_t left, int32_t right) const;

 private:
  struct Slot {
    uint64_t pair = kFree;
    Rule rule{};
  };
  static constexpr uint64_t kFree = ~uint64_t{0};
  size_t slot_of(uint64_t pair) const;
  std::vector<Slot> slots_;
};

/// A token of each byte; -1 where the vocabulary has none.
using ByteTokens = std::array<int32_t, 256>;

/// Appends the tokens of a word's bytes. Those without one become `unknown`, or vanish if that is -1.
void append_bytes(std::string_view word, const ByteTokens& bytes, int32_t unknown,
                  std::vector<int32_t>& out);

/// Merges words; keeps its memory from word to word. Time grows as n log n with the length of a word.
class BpeMerger {
 public:
  explicit BpeMerger(const MergeTable& merges) : merges_(merges) {}

  /// `word` is its smallest tokens, of bytes or of characters; appends what they become to `out`.
  void merge(std::span<const int32_t> word, std::vector<int32_t>& out);

 private:
  struct Symbol {
    int32_t token;
    int32_t previous, next;  ///< indices; -1 at the ends
  };
  struct Candidate {
    uint32_t rank;
    int32_t left;  ///< index of the left symbol
    int32_t left_token, right_token;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  void consider(int32_t left);

  const MergeTable& merges_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
};

}  // namespace fusedlm
