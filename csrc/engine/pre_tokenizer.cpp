#include "engine/pre_tokenizer.h"

#include <algorithm>

#include "engine/utf8.h"

namespace fusedlm {
namespace {

using unicode::Case;

/// [^\r\n\p{L}\p{N}], which may stand in front of a word.
bool leads_word(unicode::CharKind kind) {
  using Kind = unicode::CharKind;
  return kind != Kind::letter && kind != Kind::number && kind != Kind::newline;
}

}  // namespace

const char* const kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
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
    case SplitStep::Kind::tekken:
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
    const SplitStep& pattern = steps_[step];
    i = pattern.kind == SplitStep::Kind::gpt2     ? gpt2_word(text, i)
        : pattern.kind == SplitStep::Kind::tekken ? tekken_word(text, i)
                                                  : llama3_word(text, i, pattern.digits);
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

/// \s*[\r\n]+, or else `blanks`.
size_t Splitter::lines(size_t i) const {
  size_t end = while_space(i);
  while (end > i && kinds_[end - 1] != Kind::newline) --end;
  return end > i ? end : blanks(i);
}

///  ?[^\s\p{L}\p{N}]+; i where it does not match.
size_t Splitter::signs(size_t i) const {
  const size_t first = kinds_[i] == Kind::blank ? i + 1 : i;
  const size_t end = while_kind(first, Kind::other);
  return end == first ? i : end;
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
  const size_t first = leads_word(kind) ? i + 1 : i;
  if (first < kinds_.size() && kinds_[first] == Kind::letter)
    return while_kind(first, Kind::letter);
  if (kind == Kind::number)
    return std::min(while_kind(i, Kind::number), i + static_cast<size_t>(most_digits));
  if (const size_t end = signs(i); end != i) return while_kind(end, Kind::newline);
  return lines(i);
}

bool Splitter::has_case(std::string_view text, size_t i, Case wanted) const {
  if (i >= kinds_.size()) return false;
  size_t at = starts_[i];
  const Case found = unicode::case_of(utf8::next(text, at));
  return found == wanted || found == Case::either;
}

size_t Splitter::while_case(std::string_view text, size_t i, Case wanted) const {
  while (has_case(text, i, wanted)) ++i;
  return i;
}

/// [upper]*[lower]+ from i; i where it does not match. What is first taken for upper case is given back until
/// a character is left that may be lower case, too.
size_t Splitter::lower_word(std::string_view text, size_t i) const {
  const size_t upper = while_case(text, i, Case::upper);
  if (has_case(text, upper, Case::lower)) return while_case(text, upper, Case::lower);
  for (size_t last = upper; last > i; --last) {
    if (has_case(text, last - 1, Case::lower)) return last;
  }
  return i;
}

/// [upper]+[lower]* from i; i where it does not match.
size_t Splitter::upper_word(std::string_view text, size_t i) const {
  const size_t upper = while_case(text, i, Case::upper);
  return upper == i ? i : while_case(text, upper, Case::lower);
}

size_t Splitter::tekken_word(std::string_view text, size_t i) const {
  const size_t first = leads_word(kinds_[i]) ? i + 1 : i;
  for (const auto word : {&Splitter::lower_word, &Splitter::upper_word}) {
    // The character in front is left out where the word would not match behind it.
    for (const size_t start : {first, i}) {
      if (const size_t end = (this->*word)(text, start); end != start) return end;
    }
  }
  if (kinds_[i] == Kind::number) return i + 1;
  size_t end = signs(i);
  if (end == i) return lines(i);
  while (end < kinds_.size() && (kinds_[end] == Kind::newline || text[starts_[end]] == '/')) ++end;
  return end;
}

}  // namespace fusedlm
