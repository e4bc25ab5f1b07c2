#include "engine/sentence_piece.h"

#include <algorithm>
#include <charconv>

#include "engine/utf8.h"

namespace fusedlm {
namespace {

std::string replaced(std::string_view text, std::string_view what, std::string_view by) {
  std::string out;
  out.reserve(text.size());
  for (size_t begin = 0;;) {
    const size_t end = text.find(what, begin);
    out += text.substr(begin, end - begin);
    if (end == std::string_view::npos) return out;
    out += by;
    begin = end + what.size();
  }
}

}  // namespace

std::optional<unsigned char> byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  unsigned char byte = 0;
  const char *digits = token.data() + 3, *end = digits + 2;
  if (std::from_chars(digits, end, byte, 16).ptr != end) return std::nullopt;
  return byte;
}

std::string SentencePiece::normalize(std::string_view text) const {
  std::string out = mark_spaces ? replaced(text, " ", kSpaceMark) : std::string(text);
  if (prepend && !out.empty()) out.insert(0, kSpaceMark);
  return out;
}

void SentencePiece::cut(std::string_view text, bool first,
                        const std::function<void(std::string_view)>& word) const {
  if (text.empty()) return;
  if (!metaspace) return word(text);
  std::string marked = replaced(text, " ", kSpaceMark);
  const bool wanted = prefix == Prefix::always || (prefix == Prefix::first && first);
  if (wanted && !marked.starts_with(kSpaceMark)) marked.insert(0, kSpaceMark);
  if (!split) return word(marked);
  const std::string_view all = marked;
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = std::min(all.find(kSpaceMark, begin + 1), all.size());
    word(all.substr(begin, end - begin));
    begin = end;
  }
}

void SentencePiece::append_characters(std::string_view word, const ByteTokens& bytes,
                                      int32_t unknown, std::vector<int32_t>& out) const {
  const auto has_token = [&](char c) { return bytes[static_cast<unsigned char>(c)] >= 0; };
  // An unknown waits for its neighbours; `tokenizers` puts those that become bytes before it.
  bool waiting = false;
  const auto flush = [&] {
    if (waiting) out.push_back(unknown);
    waiting = false;
  };
  for (size_t at = 0; at < word.size();) {
    const size_t begin = at;
    const auto known = characters.find(utf8::next(word, at));
    const std::string_view character = word.substr(begin, at - begin);
    if (known != characters.end()) {
      flush();
      out.push_back(known->second);
    } else if (byte_fallback && std::all_of(character.begin(), character.end(), has_token)) {
      for (char c : character) out.push_back(bytes[static_cast<unsigned char>(c)]);
    } else if (unknown >= 0) {
      if (!fuse_unknown) flush();
      waiting = true;
    }
  }
  flush();
}

std::string SentencePiece::bytes_of(std::string_view token) const {
  if (bytes_in_text) {
    if (const auto byte = byte_of_token(token)) return {static_cast<char>(*byte)};
  }
  return replaced(token, kSpaceMark, " ");
}

}  // namespace fusedlm
