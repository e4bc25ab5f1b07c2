#pragma once
// Text as UTF-8: code points in and out.

#include <string>
#include <string_view>

namespace fusedlm::utf8 {

/// No code point: what `next` gives for a byte that does not begin a character.
inline constexpr char32_t kInvalid = 0xffffffff;

/// The character that begins at `at`, which moves behind it; kInvalid, and one byte further, where
/// none does (overlong forms and surrogates are none). at < text.size().
inline char32_t next(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(at++);
  if (first < 0x80) return first;
  const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
  if (first < 0xc2 || first > 0xf4 || text.size() - at < static_cast<size_t>(more)) return kInvalid;
  char32_t c = first & (0x3f >> more);
  for (int i = 0; i < more; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return kInvalid;
    c = c << 6 | (byte(at + i) & 0x3f);
  }
  constexpr char32_t kSmallest[] = {0, 0x80, 0x800, 0x10000};
  if (c < kSmallest[more] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return kInvalid;
  at += more;
  return c;
}

inline bool valid(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (next(text, at) == kInvalid) return false;
  }
  return true;
}

/// How many bytes at the end begin a character whose other bytes are not there yet: 0 to 3.
inline size_t unfinished(std::string_view text) {
  for (size_t count = 1; count <= 3 && count <= text.size(); ++count) {
    const auto first = static_cast<unsigned char>(text[text.size() - count]);
    if ((first & 0xc0) == 0x80) continue;
    const size_t whole = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || count >= whole) return 0;
    // Some second bytes make no character, whatever follows: overlong forms, surrogates, beyond U+10FFFF.
    std::string filled(text.substr(text.size() - count));
    for (const char least : {'\x80', '\xbf'}) {
      filled.resize(count);
      filled.resize(whole, least);
      if (valid(filled)) return count;
    }
    return 0;
  }
  return 0;
}

inline void append(std::string& text, char32_t c) {
  const auto add = [&](char32_t byte) { text += static_cast<char>(byte); };
  if (c < 0x80) return add(c);
  if (c < 0x800) {
    add(0xc0 | c >> 6);
  } else {
    if (c < 0x10000) {
      add(0xe0 | c >> 12);
    } else {
      add(0xf0 | c >> 18);
      add(0x80 | (c >> 12 & 0x3f));
    }
    add(0x80 | (c >> 6 & 0x3f));
  }
  add(0x80 | (c & 0x3f));
}

}  // namespace fusedlm::utf8
