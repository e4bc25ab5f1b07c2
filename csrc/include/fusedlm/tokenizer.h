#pragma once
// Byte-level BPE (GPT-2, Llama 3, SmolLM2, Qwen2/3, and fusedlm's own), for C++ programs. Python uses the
// `tokenizers` library, whose results these are.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fusedlm {

class Tokenizer {
 public:
  /// A tokenizer.json, a folder that holds one, or a .gguf file. Throws CorruptFile, or Unsupported for a
  /// kind of tokenizer that is not byte-level BPE.
  static std::shared_ptr<const Tokenizer> load(const std::string& path);

  /// Special tokens in the text ("<|im_start|>") become their ids if `special`.
  std::vector<int32_t> encode(std::string_view text, bool special = true) const;
  /// Bytes of the tokens; special tokens are left out if `skip_special`. May end inside a character.
  std::string decode(std::span<const int32_t> tokens, bool skip_special = true) const;
  /// -1 where there is no such token.
  int32_t id_of(std::string_view token) const;
  int32_t vocab_size() const;

  struct State;

 private:
  explicit Tokenizer(std::unique_ptr<const State> state);
  std::unique_ptr<const State> state_;
};

}  // namespace fusedlm
