#include "engine/pre_tokenizer.h"

#include <algorithm>

#include "engine/utf8.h"

namespace fusedlm {

const char* const kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kCharacterPattern = R"([\s\S])";

void Splitter::run(size_t step, std::string_view text) {
  if (text.empty()) return;
  if (step == steps_.size()) return sink_(text);
  switch (steps_[step].kind) {
    case SplitStep::Kind::prefix:
      return text.front() == ' ' ? run(step + 1, text)
                                 : run(step + 1, std::string(1, ' ').append(text));
    case SplitStep::Kind::digits:
      return by_digits(step, text);
    case SplitStep::Kind::characters:
      for (size_t at = 0; at < text.size();) {
        const size_t start = at;
        utf8::next(text, at);
        run(step + 1, text.substr(start, at - start));
      }
      return;
    case SplitStep::Kind::gpt2:
    case SplitStep::Kind::llama3:
      return by_pattern(step, text);
  }
}

void Splitter::by_digits(size_t step, std::string_view text) {
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    if (unicode::kind_of(utf8::next(text, at)) != Kind::number) continue;
    run(step + 1, text.substr(begin, start - begin));
    run(step + 1, text.substr(start, at - start));
    begin = at;
  }
  run(step + 1, text.substr(begin));
}

void Splitter::by_pattern(size_t step, std::string_view text) {
  scan(text);
  // What follows in `steps_` may scan again, so the words are cut before any is passed on.
  std::vector<size_t> ends;
  for (size_t i = 0; i < kinds_.size();) {
    i = steps_[step].kind == SplitStep::Kind::gpt2 ? gpt2_word(text, i)
                                                   : llama3_word(text, i, steps_[step].digits);
    ends.push_back(starts_[i]);
  }
  size_t begin = 0;
  for (size_t end : ends) {
    run(step + 1, text.substr(begin, end - begin));
    begin = end;
  }
}

void Splitter::scan(std::string_view text) {
  kinds_.clear();
  starts_.clear();
  for (size_t at = 0; at < text.size();) {
    starts_.push_back(at);
    kinds_.push_back(unicode::kind_of(utf8::next(text, at)));
  }
  starts_.push_back(text.size());
}

size_t Splitter::while_kind(size_t i, Kind kind) const {
  while (i < kinds_.size() && kinds_[i] == kind) ++i;
  return i;
}

size_t Splitter::while_space(size_t i) const {
  while (i < kinds_.size() && unicode::is_space(kinds_[i])) ++i;
  return i;
}

/// 's 't 're 've 'm 'll 'd; where any case will do, so will the long s, whose upper case is S.
size_t Splitter::contraction(std::string_view text, size_t i, bool any_case) const {
  const std::string_view rest = text.substr(starts_[i], 3);
  if (rest.size() < 2 || rest[0] != '\'') return i;
  const auto at = [&](size_t k) {
    const char c = k < rest.size() ? rest[k] : '\0';
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  };
  if (any_case && rest.substr(1) == "\u017f") return i + 2;
  if (std::string_view("stmd").find(at(1)) != std::string_view::npos) return i + 2;
  const bool two = (at(1) == 'r' && at(2) == 'e') || (at(1) == 'v' && at(2) == 'e') ||
                   (at(1) == 'l' && at(2) == 'l');
  return two ? i + 3 : i;
}

/// \s+(?!\S)|\s+: white space but for its last character, which goes to the word that follows.
size_t Splitter::blanks(size_t i) const {
  const size_t end = while_space(i);
  return end == kinds_.size() || end == i + 1 ? end : end - 1;
}

size_t Splitter::gpt2_word(std::string_view text, size_t i) const {
  if (const size_t end = contraction(text, i, false); end != i) return end;
  const size_t first = kinds_[i] == Kind::blank ? i + 1 : i;
  if (first < kinds_.size() && !unicode::is_space(kinds_[first]))
    return while_kind(first, kinds_[first]);
  return blanks(i);
}

size_t Splitter::llama3_word(std::string_view text, size_t i, int most_digits) const {
  if (const size_t end = contraction(text, i, true); end != i) return end;
  const Kind kind = kinds_[i];
  const bool leads = kind != Kind::letter && kind != Kind::number && kind != Kind::newline;
  const size_t first = leads ? i + 1 : i;
  if (first < kinds_.size() && kinds_[first] == Kind::letter)
    return while_kind(first, Kind::letter);
  if (kind == Kind::number)
    return std::min(while_kind(i, Kind::number), i + static_cast<size_t>(most_digits));
  const size_t sign = kind == Kind::blank ? i + 1 : i;
  if (sign < kinds_.size() && kinds_[sign] == Kind::other)
    return while_kind(while_kind(sign, Kind::other), Kind::newline);
  size_t end = while_space(i);
  while (end > i && kinds_[end - 1] != Kind::newline) --end;
  return end > i ? end : blanks(i);
}

}  // namespace fusedlm
