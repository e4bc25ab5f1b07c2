#include "engine/tokenizer_state.h"

#include <algorithm>
#include <array>

#include "engine/utf8.h"
#include "fusedlm/errors.h"

namespace fusedlm {
namespace {

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

TokenizerBuilder::TokenizerBuilder(std::string where)
    : state_(std::make_unique<Tokenizer::State>()) {
  state_->where = std::move(where);
}

void TokenizerBuilder::fail(const std::string& message) const {
  throw CorruptFile(state_->where + ": " + message);
}

void TokenizerBuilder::place(const std::string& text, std::string bytes, int64_t id, size_t limit) {
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
  state_->bytes[index] = std::move(bytes);
  taken_[index] = true;
}

void TokenizerBuilder::token(const std::string& text, int64_t id, size_t limit) {
  place(text, bytes_of_letters(text), id, limit);
}

void TokenizerBuilder::plain_token(const std::string& text, int64_t id, size_t limit) {
  place(text, text, id, limit);
}

void TokenizerBuilder::added(AddedToken token, size_t limit) {
  if (token.text.empty()) fail("an added token is empty");
  const auto known = state_->ids.find(token.text);
  if (known == state_->ids.end()) {
    place(token.text, state_->has_merges ? bytes_of_letters(token.text) : token.text, token.id,
          limit);
  } else if (known->second != token.id) {
    fail("added token \"" + token.text + "\" has the id " + std::to_string(token.id) +
         ", in the vocabulary it has " + std::to_string(known->second));
  }
  if (token.special) state_->special[token.id] = true;
  if (token.normalized && state_->nfc) token.text = unicode::nfc(token.text);
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
  state_->byte_tokens.fill(-1);
  for (const auto& [text, id] : state_->ids) {
    const std::string& bytes = state_->bytes[id];
    const bool letters = state_->has_merges && is_letters(text);
    if (letters && bytes.size() == 1)
      state_->byte_tokens[static_cast<unsigned char>(bytes.front())] = id;
    // Views of strings in a vector that does not grow any more.
    if ((whole_words && letters) || !state_->has_merges) state_->words.emplace(bytes, id);
  }
}

}  // namespace fusedlm
