#pragma once
// BPE over characters as SentencePiece has it (Kudo & Richardson 2018, arXiv:1808.06226; Llama 2, Mistral): a
// space is a visible character, and characters without a token become tokens of their bytes.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/bpe.h"

namespace fusedlm {

/// U+2581, how vocabularies write a space.
inline constexpr std::string_view kSpaceMark = "\u2581";

struct SentencePiece {
  /// Where a mark is put before a text that does not begin with one.
  enum class Prefix : uint8_t { never, first, always };

  // What the normalizer does with each text between added tokens.
  bool prepend = false;      ///< puts a mark before it, whatever it begins with
  bool mark_spaces = false;  ///< writes spaces as marks
  // What the pre-tokenizer "Metaspace" does behind that.
  bool metaspace = false;  ///< writes spaces as marks
  Prefix prefix = Prefix::never;
  bool split = false;  ///< words begin at marks; else a text is one word

  bool fuse_unknown = false;   ///< neighbours without a token are one unknown
  bool byte_fallback = false;  ///< characters without a token become their bytes
  bool bytes_in_text = false;  ///< the decoder takes "<0x0A>" for a byte
  bool strip_space = false;    ///< the decoder drops a space at the beginning
  std::unordered_map<char32_t, int32_t> characters;  ///< tokens of one character

  std::string normalize(std::string_view text) const;
  /// Passes on the words of normalised text; `first`: nothing was before it.
  void cut(std::string_view text, bool first,
           const std::function<void(std::string_view)>& word) const;
  /// Appends the tokens of a word's characters, which are then merged. Characters without a token or bytes
  /// become `unknown`, or vanish if that is -1.
  void append_characters(std::string_view word, const ByteTokens& bytes, int32_t unknown,
                         std::vector<int32_t>& out) const;
  /// What a token of the vocabulary stands for.
  std::string bytes_of(std::string_view token) const;
};

/// Of a token "<0x0A>".
std::optional<unsigned char> byte_of_token(std::string_view token);

}  // namespace fusedlm
