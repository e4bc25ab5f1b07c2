#pragma once
// Byte-level BPE (GPT-2, Llama 3, SmolLM2, Qwen2/3, Mistral's Tekken, and fusedlm's own) and SentencePiece's
// BPE (Llama 2, Mistral), for C++ programs. Python uses the `tokenizers` library, whose results these are.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fusedlm {

/// Never changes once made; threads may share it.
class Tokenizer {
 public:
  ~Tokenizer();
  /// A tokenizer.json, a folder that holds one, or a .gguf file. Throws CorruptFile, or Unsupported for a
  /// kind of tokenizer that is none of these, or std::system_error for a file that cannot be opened.
  static std::shared_ptr<const Tokenizer> load(const std::string& path);

  /// Special tokens in the text ("<|im_start|>") become their ids if `special`; text from users is better
  /// encoded without. No token is put before or behind (see `bos_id`). The text should be UTF-8; bytes
  /// that are not become the tokens of those bytes. Throws nothing.
  std::vector<int32_t> encode(std::string_view text, bool special = true) const;
  /// Bytes of the tokens; special tokens are left out if `skip_special`. May end inside a character, and has
  /// lost the space that SentencePiece puts before a text: for tokens one by one there is TextStream.
  /// Throws InvalidArgument for a token outside the vocabulary.
  std::string decode(std::span<const int32_t> tokens, bool skip_special = true) const;
  /// Of a token as the vocabulary writes it ("<|im_end|>", "Ġthe"); -1 where there is no such token. Throws
  /// nothing.
  int32_t id_of(std::string_view token) const;
  /// One more than the largest id.
  int32_t vocab_size() const noexcept;
  /// The token that the file says belongs before each text, where there is one.
  std::optional<int32_t> bos_id() const noexcept;

  struct State;

 private:
  friend class TextStream;
  explicit Tokenizer(std::unique_ptr<const State> state);
  std::unique_ptr<const State> state_;
};

/// Text from tokens as they come, in whole characters: its pieces joined are what `decode` makes of all tokens.
/// For the continuation of a prompt, `add` the prompt's tokens first, lest the space behind it be lost.
class TextStream {
 public:
  /// `tokenizer` must not be null. Throws nothing.
  explicit TextStream(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special = true);
  /// The text that `tokens` add. The bytes of a character at the end that is not yet whole are held back until
  /// the rest comes. Throws as Tokenizer::decode; the tokens are then not taken.
  std::string add(std::span<const int32_t> tokens);
  /// What is held back: up to 3 bytes of a character that stays unfinished. Throws nothing.
  std::string finish();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool skip_special_;
  bool at_start_;     ///< a space that comes next is the tokenizer's own
  std::string held_;  ///< the beginning of a character
};

}  // namespace fusedlm
