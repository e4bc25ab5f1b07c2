#include "fusedlm/tokenizer.h"

#include <filesystem>
#include <utility>

#include "engine/mapped_file.h"
#include "engine/tokenizer_state.h"
#include "engine/utf8.h"
#include "fusedlm/errors.h"

namespace fusedlm {
namespace {

/// Text to ids, with what one call keeps: words that come again are merged once.
class Encoder {
 public:
  Encoder(const Tokenizer::State& state, bool special)
      : state_(state),
        special_(special),
        merger_(state.merges),
        splitter_(state.steps, [this](std::string_view w) { word(w); }) {}

  std::vector<int32_t> encode(std::string_view text) {
    between(state_.raw, text, [&](std::string_view plain) {
      const std::string changed = state_.normalizes() ? state_.normalize(plain) : std::string();
      const std::string_view normalized = state_.normalizes() ? changed : plain;
      between(state_.normalized, normalized, [&](std::string_view piece) {
        if (state_.kind != Kind::sentence_piece) return splitter_.split(piece);
        const bool first = plain.data() == text.data() && piece.data() == normalized.data();
        state_.sentence_piece.cut(piece, first, [this](std::string_view w) { word(w); });
      });
    });
    return std::move(ids_);
  }

 private:
  /// Adds the added tokens in `text`, and calls `other` with what lies between them.
  template <class Other>
  void between(const AddedTokens& tokens, std::string_view text, Other&& other) {
    size_t at = 0;
    while (const auto match = tokens.find(text, at, special_)) {
      if (match->begin > at) other(text.substr(at, match->begin - at));
      ids_.push_back(match->token->id);
      at = match->end;
    }
    if (at < text.size()) other(text.substr(at));
  }

  void word(std::string_view word) {
    if (!state_.words.empty()) {
      const auto whole = state_.words.find(word);
      if (whole != state_.words.end()) return ids_.push_back(whole->second);
    }
    if (state_.kind == Kind::characters) {
      if (state_.unknown >= 0) ids_.push_back(state_.unknown);
      return;
    }
    if (word.size() > kLongestKept) return merge(word);
    const auto known = kept_.find(std::string(word));
    if (known != kept_.end()) {
      for (size_t i = 0; i < known->second.count; ++i)
        ids_.push_back(ids_[known->second.first + i]);
      return;
    }
    const size_t first = ids_.size();
    merge(word);
    if (kept_.size() < kMostKept) kept_.emplace(word, Range{first, ids_.size() - first});
  }

  void merge(std::string_view word) {
    smallest_.clear();
    if (state_.kind == Kind::sentence_piece) {
      state_.sentence_piece.append_characters(word, state_.byte_tokens, state_.unknown, smallest_);
    } else {
      append_bytes(word, state_.byte_tokens, state_.unknown, smallest_);
    }
    merger_.merge(smallest_, ids_);
  }

  using Kind = Tokenizer::State::Kind;
  // What is worth remembering, and for how many words: some MiB at most.
  static constexpr size_t kLongestKept = 64, kMostKept = 1 << 16;
  struct Range {
    size_t first, count;
  };

  const Tokenizer::State& state_;
  bool special_;
  BpeMerger merger_;
  Splitter splitter_;
  std::vector<int32_t> ids_;
  std::vector<int32_t> smallest_;                ///< of the word being merged
  std::unordered_map<std::string, Range> kept_;  ///< where in `ids_` the tokens of a word are
};

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;

std::shared_ptr<const Tokenizer> Tokenizer::load(const std::string& path) {
  const std::filesystem::path root(path);
  const bool folder = std::filesystem::is_directory(root);
  const std::string file = folder ? (root / "tokenizer.json").string() : path;
  const bool gguf = MappedFile::open(file)->text().starts_with("GGUF");
  return std::shared_ptr<const Tokenizer>(
      new Tokenizer(gguf ? read_tokenizer_gguf(file) : read_tokenizer_json(file)));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool special) const {
  return Encoder(*state_, special).encode(text);
}

std::string Tokenizer::decode(std::span<const int32_t> tokens, bool skip_special) const {
  std::string text;
  state_->append(tokens, skip_special, text);
  if (state_->sentence_piece.strip_space && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

int32_t Tokenizer::id_of(std::string_view token) const {
  const auto found = state_->ids.find(std::string(token));
  return found == state_->ids.end() ? -1 : found->second;
}

int32_t Tokenizer::vocab_size() const noexcept {
  return static_cast<int32_t>(state_->bytes.size());
}

std::optional<int32_t> Tokenizer::bos_id() const noexcept { return state_->bos; }

TextStream::TextStream(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)),
      skip_special_(skip_special),
      at_start_(tokenizer_->state_->sentence_piece.strip_space) {}

std::string TextStream::add(std::span<const int32_t> tokens) {
  std::string text = held_;
  tokenizer_->state_->append(tokens, skip_special_, text);
  if (at_start_ && !text.empty()) {
    if (text.front() == ' ') text.erase(0, 1);
    at_start_ = false;
  }
  held_ = text.substr(text.size() - utf8::unfinished(text));
  text.resize(text.size() - held_.size());
  return text;
}

std::string TextStream::finish() { return std::exchange(held_, {}); }

}  // namespace fusedlm
