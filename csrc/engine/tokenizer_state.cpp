#include "engine/tokenizer_state.h"

#include <algorithm>
#include <array>

#include "engine/utf8.h"
#include "fusedlm/errors.h"

namespace fusedlm {
namespace {

using Kind = Tokenizer::State::Kind;

/// GPT-2 writes bytes as visible characters: those that are visible in Latin-1 as themselves, the others as
/// U+0100 and on, in order.
std::array<int, 0x144> letters_to_bytes() {
  std::array<int, 0x144> table{};
  table.fill(-1);
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool visible = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    table[visible ? byte : next++] = byte;
  }
  return table;
}
const std::array<int, 0x144> kByteOf = letters_to_bytes();

int byte_of(char32_t c) { return c < kByteOf.size() ? kByteOf[c] : -1; }

bool is_small_letter(char c) { return c >= 'a' && c <= 'z'; }

size_t spaces_at_end(std::string_view text) {
  size_t at = text.size();
  while (at > 0) {
    size_t begin = at - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) --begin;
    size_t end = begin;
    if (!unicode::is_space(unicode::kind_of(utf8::next(text, end))) || end != at) break;
    at = begin;
  }
  return text.size() - at;
}

size_t spaces_at_start(std::string_view text) {
  size_t end = 0;
  for (size_t at = 0; at < text.size(); end = at) {
    if (!unicode::is_space(unicode::kind_of(utf8::next(text, at)))) break;
  }
  return end;
}

}  // namespace

bool is_letters(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (byte_of(utf8::next(text, at)) < 0) return false;
  }
  return true;
}

std::string bytes_of_letters(std::string_view text) {
  if (!is_letters(text)) return std::string(text);
  std::string bytes;
  for (size_t at = 0; at < text.size();) bytes += static_cast<char>(byte_of(utf8::next(text, at)));
  return bytes;
}

void AddedTokens::add(AddedToken token) {
  auto& list = by_first_[static_cast<unsigned char>(token.text.front())];
  const auto longer = [&](const AddedToken& t) { return t.text.size() >= token.text.size(); };
  list.insert(std::find_if_not(list.begin(), list.end(), longer), std::move(token));
}

std::optional<AddedTokens::Match> AddedTokens::find(std::string_view text, size_t from,
                                                    bool special) const {
  for (size_t at = from; at < text.size(); ++at) {
    for (const AddedToken& token : by_first_[static_cast<unsigned char>(text[at])]) {
      if (!text.substr(at).starts_with(token.text)) continue;
      if (token.special && !special) {
        at += token.text.size() - 1;
        break;
      }
      Match match{at, at + token.text.size(), &token};
      if (token.left_strip) match.begin -= spaces_at_end(text.substr(from, at - from));
      if (token.right_strip) match.end += spaces_at_start(text.substr(match.end));
      return match;
    }
  }
  return std::nullopt;
}

std::string Tokenizer::State::normalize(std::string_view text) const {
  if (kind != Kind::sentence_piece) return unicode::nfc(text);
  return sentence_piece.normalize(nfc ? unicode::nfc(text) : text);
}

void Tokenizer::State::append(std::span<const int32_t> tokens, bool skip_special,
                              std::string& text) const {
  for (int32_t token : tokens) {
    if (token < 0 || static_cast<size_t>(token) >= bytes.size()) {
      throw InvalidArgument("Tokenizer::decode: tokens holds " + std::to_string(token) +
                            ", expected 0 to " +
                            std::to_string(static_cast<int64_t>(bytes.size()) - 1));
    }
    if (!skip_special || !special[token]) text += bytes[token];
  }
}

TokenizerBuilder::TokenizerBuilder(std::string where)
    : state_(std::make_unique<Tokenizer::State>()) {
  state_->where = std::move(where);
  state_->byte_tokens.fill(-1);
}

void TokenizerBuilder::fail(const std::string& message) const {
  throw CorruptFile(state_->where + ": " + message);
}

std::string TokenizerBuilder::bytes_of(const std::string& text) const {
  switch (state_->kind) {
    case Kind::byte_level:
      return bytes_of_letters(text);
    case Kind::sentence_piece:
      return state_->sentence_piece.bytes_of(text);
    case Kind::characters:
      break;
  }
  return text;
}

void TokenizerBuilder::place(const std::string& text, int64_t id, size_t limit) {
  if (id < 0 || static_cast<size_t>(id) >= limit) {
    fail("token \"" + text + "\" has the id " + std::to_string(id) + ", expected 0 to " +
         std::to_string(limit - 1));
  }
  const auto index = static_cast<size_t>(id);
  if (index >= state_->bytes.size()) {
    state_->bytes.resize(index + 1);
    state_->special.resize(index + 1);
    taken_.resize(index + 1);
  }
  if (!state_->ids.emplace(text, static_cast<int32_t>(id)).second)
    fail("token \"" + text + "\" is there twice");
  if (taken_[index]) {
    fail("token \"" + text + "\" has the id " + std::to_string(id) + ", which another token has");
  }
  state_->bytes[index] = bytes_of(text);
  taken_[index] = true;
}

void TokenizerBuilder::token(const std::string& text, int64_t id, size_t limit) {
  place(text, id, limit);
  const auto number = static_cast<int32_t>(id);
  if (state_->kind == Kind::byte_level) {
    const std::string& bytes = state_->bytes[number];
    if (bytes.size() == 1 && is_letters(text))
      state_->byte_tokens[static_cast<unsigned char>(bytes.front())] = number;
  } else if (state_->kind == Kind::sentence_piece && !text.empty()) {
    size_t end = 0;
    const char32_t first = utf8::next(text, end);
    if (end == text.size() && first != utf8::kInvalid)
      state_->sentence_piece.characters.emplace(first, number);
    // Read in either case, but written in capitals, as `tokenizers` has it.
    const auto byte = byte_of_token(text);
    if (byte && std::none_of(text.begin() + 3, text.end(), is_small_letter))
      state_->byte_tokens[*byte] = number;
  }
}

void TokenizerBuilder::added(AddedToken token, size_t limit) {
  if (token.text.empty()) fail("an added token is empty");
  const auto known = state_->ids.find(token.text);
  if (known == state_->ids.end()) {
    place(token.text, token.id, limit);
  } else if (known->second != token.id) {
    fail("added token \"" + token.text + "\" has the id " + std::to_string(token.id) +
         ", in the vocabulary it has " + std::to_string(known->second));
  }
  if (token.special) state_->special[token.id] = true;
  if (token.normalized && state_->normalizes()) {
    // Read back in normal form, too: a mark put before it is a space of the text.
    token.text = state_->normalize(token.text);
    state_->bytes[token.id] = bytes_of(token.text);
  }
  (token.normalized ? state_->normalized : state_->raw).add(std::move(token));
}

void TokenizerBuilder::reserve_merges(size_t count) { state_->merges.reserve(count); }

int32_t TokenizerBuilder::id_of(const std::string& text, const std::string& of) const {
  const auto found = state_->ids.find(text);
  if (found == state_->ids.end()) {
    fail("merge " + std::to_string(rank_) + " (\"" + of + "\") needs the token \"" + text +
         "\", which is not in the vocabulary");
  }
  return found->second;
}

void TokenizerBuilder::merge(const std::string& left, const std::string& right) {
  const std::string of = left + " " + right;
  const int32_t joined = id_of(left + right, of);
  state_->merges.add(id_of(left, of), id_of(right, of), {rank_, joined});
  ++rank_;
}

void TokenizerBuilder::finish(bool whole_words) {
  for (const auto& [text, id] : state_->ids) {
    // Views of strings that do not move any more.
    if (state_->kind == Kind::characters) state_->words.emplace(text, id);
    if (!whole_words) continue;
    if (state_->kind == Kind::sentence_piece) state_->words.emplace(text, id);
    if (state_->kind == Kind::byte_level && is_letters(text))
      state_->words.emplace(state_->bytes[id], id);
  }
}

}  // namespace fusedlm
