#pragma once
// What a tokenizer is made of, whichever file it came from.

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/bpe.h"
#include "engine/pre_tokenizer.h"
#include "engine/sentence_piece.h"
#include "fusedlm/tokenizer.h"

namespace fusedlm {

/// A token that is looked for in the text before anything else is done to it.
struct AddedToken {
  std::string text;
  int32_t id = 0;
  bool special = false;
  bool left_strip = false, right_strip = false;  ///< takes the white space beside it along
  bool normalized = false;                       ///< looked for after normalisation
};

/// Finds added tokens in a text, the leftmost first, the longest of those.
class AddedTokens {
 public:
  void add(AddedToken token);

  struct Match {
    size_t begin, end;
    const AddedToken* token;
  };
  /// The first match at or behind `from`; null where there is none. Special ones are skipped, text and
  /// all, unless `special`.
  std::optional<Match> find(std::string_view text, size_t from, bool special) const;

 private:
  std::vector<AddedToken> by_first_[256];  // longest first
};

struct Tokenizer::State {
  enum class Kind : uint8_t {
    byte_level,      ///< BPE over bytes, which the vocabulary writes in GPT-2's letters
    sentence_piece,  ///< BPE over characters
    characters,      ///< fusedlm's own: no merges at all
  } kind = Kind::byte_level;
  std::string where;  ///< the file, for messages
  /// Text of each id, in the bytes that it stands for; and the ids of special tokens.
  std::vector<std::string> bytes;
  std::vector<bool> special;
  /// As the file has them, added ones too.
  std::unordered_map<std::string, int32_t> ids;
  AddedTokens raw, normalized;
  bool nfc = false;
  SentencePiece sentence_piece;  ///< of that kind alone
  std::vector<SplitStep> steps;  ///< of the other kinds
  /// Words as they stand in the vocabulary are not merged but taken whole (Llama 3), or there are no
  /// merges at all.
  std::unordered_map<std::string_view, int32_t> words;
  MergeTable merges;
  ByteTokens byte_tokens{};
  int32_t unknown = -1;
  std::optional<int32_t> bos;

  bool normalizes() const { return nfc || kind == Kind::sentence_piece; }
  std::string normalize(std::string_view text) const;
  /// Appends the bytes of tokens, with no regard to what was before. Throws as Tokenizer::decode.
  void append(std::span<const int32_t> tokens, bool skip_special, std::string& text) const;
};

/// Fills a State; the checks that both kinds of file need.
class TokenizerBuilder {
 public:
  explicit TokenizerBuilder(std::string where);

  /// `text` is as the vocabulary has it; state().kind and sentence_piece must be set. Throws CorruptFile for an
  /// id that is taken, or beyond `limit`.
  void token(const std::string& text, int64_t id, size_t limit);
  void added(AddedToken token, size_t limit);
  void reserve_merges(size_t count);
  void merge(const std::string& left, const std::string& right);
  /// Instead of merges: neighbours join where their union is a token, the one of the highest score first. One
  /// score for each token; those not `mergeable` are made by no merge.
  void merge_by_scores(std::span<const std::string_view> tokens, std::span<const double> scores,
                       const std::vector<bool>& mergeable);
  /// After the tokens: which are taken whole, if `whole_words`.
  void finish(bool whole_words);

  [[noreturn]] void fail(const std::string& message) const;
  Tokenizer::State& state() { return *state_; }
  std::unique_ptr<const Tokenizer::State> take() { return std::move(state_); }

 private:
  void place(const std::string& text, int64_t id, size_t limit);
  std::string bytes_of(const std::string& text) const;
  int32_t id_of(const std::string& text, const std::string& of) const;

  std::unique_ptr<Tokenizer::State> state_;
  std::vector<bool> taken_;  // of each id, as a token's bytes may be none
  uint32_t rank_ = 0;
};

/// The bytes that a token in GPT-2's letters stands for; a token with other characters is itself.
std::string bytes_of_letters(std::string_view text);
bool is_letters(std::string_view text);

std::unique_ptr<const Tokenizer::State> read_tokenizer_json(const std::string& path);
std::unique_ptr<const Tokenizer::State> read_tokenizer_gguf(const std::string& path);

}  // namespace fusedlm
