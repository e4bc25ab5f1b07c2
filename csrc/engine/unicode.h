#pragma once
// Properties of characters and the normal form NFC, from generated tables.

#include <cstdint>
#include <string>
#include <string_view>

namespace fusedlm::unicode {

/// \p{L}, \p{N} and \s of the regular expressions that split text; `newline` is \r or \n, `blank` U+0020.
enum class CharKind : uint8_t { other, letter, number, space, newline, blank };

/// utf8::kInvalid, and what is no code point, are `other`.
CharKind kind_of(char32_t c);
inline bool is_space(CharKind kind) { return kind >= CharKind::space; }

/// Which of Tekken's two classes of letters a character is in: [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] has those of
/// `upper` and `either`, [\p{Ll}\p{Lm}\p{Lo}\p{M}] those of `lower` and `either`.
enum class Case : uint8_t { none, upper, lower, either };
Case case_of(char32_t c);

/// Normalization Form C (Unicode Standard Annex 15). Bytes that are no UTF-8 stay as they are.
std::string nfc(std::string_view text);

}  // namespace fusedlm::unicode
