// Merges of a SentencePiece vocabulary, which has scores instead of a list: of all neighbours whose union is
// a token, those of the highest score join first, the leftmost among equals.

#include <algorithm>
#include <functional>

#include "engine/tokenizer_state.h"
#include "engine/utf8.h"
#include "fusedlm/errors.h"

namespace fusedlm {
namespace {

// SentencePiece makes no longer ones. Every cut of a token is looked up, so that without a bound the time
// would grow as the square of its length.
constexpr size_t kLongestPiece = 512;  // characters

/// Where a token may be cut in two, in bytes.
std::vector<size_t> cuts_of(std::string_view token) {
  std::vector<size_t> cuts;
  for (size_t at = 0; at < token.size();) {
    utf8::next(token, at);
    if (at < token.size()) cuts.push_back(at);
  }
  return cuts;
}

}  // namespace

void TokenizerBuilder::merge_by_scores(std::span<const std::string_view> tokens,
                                       std::span<const double> scores,
                                       const std::vector<bool>& mergeable) {
  struct Join {
    int32_t left, right;
    MergeTable::Rule rule;
  };
  std::vector<double> order(scores.begin(), scores.end());
  std::sort(order.begin(), order.end(), std::greater<>());
  std::vector<Join> joins;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!mergeable[i]) continue;
    // Equal scores have one place, so that where they stand in a text decides.
    const auto place =
        std::lower_bound(order.begin(), order.end(), scores[i], std::greater<>()) - order.begin();
    const MergeTable::Rule rule{static_cast<uint32_t>(place), static_cast<int32_t>(i)};
    const std::vector<size_t> cuts = cuts_of(tokens[i]);
    if (cuts.size() >= kLongestPiece) {
      throw Unsupported(state_->where + ": token " + std::to_string(i) + " has " +
                        std::to_string(cuts.size() + 1) + " characters, expected at most " +
                        std::to_string(kLongestPiece));
    }
    for (size_t cut : cuts) {
      const auto left = state_->ids.find(std::string(tokens[i].substr(0, cut)));
      if (left == state_->ids.end()) continue;
      const auto right = state_->ids.find(std::string(tokens[i].substr(cut)));
      if (right != state_->ids.end()) joins.push_back({left->second, right->second, rule});
    }
  }
  state_->merges.reserve(joins.size());
  for (const Join& join : joins) state_->merges.add(join.left, join.right, join.rule);
}

}  // namespace fusedlm
