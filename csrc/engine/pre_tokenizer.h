#pragma once
// How text is cut into words before byte pairs are merged: the regular expressions of GPT-2, Llama 3,
// Qwen2 and Tekken written out, as there is no regex with Unicode properties in the standard library.

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/unicode.h"

namespace fusedlm {

struct SplitStep {
  enum class Kind : uint8_t {
    gpt2,        ///< see kGpt2Pattern
    llama3,      ///< see kLlama3Pattern; `digits` numbers at most in a word
    tekken,      ///< see kTekkenPattern
    digits,      ///< each number alone
    characters,  ///< each character alone
    prefix,      ///< a blank before text that does not begin with one
  } kind = Kind::characters;
  int digits = 0;
};

/// The patterns as tokenizer.json holds them.
extern const char* const kGpt2Pattern;
extern const char* const kLlama3Pattern;
extern const char* const kQwen2Pattern;
extern const char* const kTekkenPattern;
extern const char* const kCharacterPattern;

/// Cuts texts into words by steps, each of which cuts the pieces of the one before it further. Words are
/// valid during the call of `sink` alone.
class Splitter {
 public:
  using Sink = std::function<void(std::string_view)>;
  Splitter(const std::vector<SplitStep>& steps, Sink sink)
      : steps_(steps), sink_(std::move(sink)) {}

  void split(std::string_view text) { run(0, text); }

 private:
  using Kind = unicode::CharKind;
  void run(size_t step, std::string_view text);
  void by_digits(size_t step, std::string_view text);
  void by_pattern(size_t step, std::string_view text);
  void scan(std::string_view text);
  size_t while_kind(size_t i, Kind kind) const;
  size_t while_space(size_t i) const;
  size_t gpt2_word(std::string_view text, size_t i) const;
  size_t llama3_word(std::string_view text, size_t i, int most_digits) const;
  size_t tekken_word(std::string_view text, size_t i) const;
  size_t lower_word(std::string_view text, size_t i) const;
  size_t upper_word(std::string_view text, size_t i) const;
  bool has_case(std::string_view text, size_t i, unicode::Case wanted) const;
  size_t while_case(std::string_view text, size_t i, unicode::Case wanted) const;
  size_t contraction(std::string_view text, size_t i, bool any_case) const;
  size_t blanks(size_t i) const;
  size_t lines(size_t i) const;
  size_t signs(size_t i) const;

  const std::vector<SplitStep>& steps_;
  Sink sink_;
  // Of the text being cut by a pattern: the kind of each character, and where it begins.
  std::vector<Kind> kinds_;
  std::vector<size_t> starts_;
};

}  // namespace fusedlm
