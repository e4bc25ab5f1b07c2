#include "engine/unicode.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "engine/unicode_tables.h"
#include "engine/utf8.h"

namespace fusedlm::unicode {
namespace {

constexpr char32_t kCodePoints = 0x110000;
// Text without a byte from here on has no character above U+02FF; those are in NFC, whatever stands beside
// them.
constexpr unsigned char kFirstToNormalize = 0xcc;
// A byte that is no UTF-8, while it travels among code points.
constexpr char32_t kRawByte = 0x80000000;

/// One byte for each code point: a look-up must cost less than what is done with the character.
template <class Value, size_t N>
std::vector<Value> expand(const uint32_t (&runs)[N][3]) {
  std::vector<Value> values(kCodePoints);
  for (const auto& [first, last, value] : runs)
    std::fill(values.begin() + first, values.begin() + last + 1, static_cast<Value>(value));
  return values;
}

std::vector<CharKind> expand_kinds() {
  std::vector<CharKind> kinds = expand<CharKind>(kKinds);
  kinds['\r'] = kinds['\n'] = CharKind::newline;
  kinds[' '] = CharKind::blank;
  return kinds;
}

uint32_t combining_class(char32_t c) {
  const auto* run = std::upper_bound(std::begin(kCombining), std::end(kCombining), c,
                                     [](char32_t c, const auto& run) { return c < run[0]; });
  return run != std::begin(kCombining) && c <= run[-1][1] ? run[-1][2] : 0;
}

// Hangul syllables are composed by a rule (Unicode Standard, 3.12).
constexpr char32_t kSyllable = 0xac00, kLead = 0x1100, kVowel = 0x1161, kTail = 0x11a7;
constexpr char32_t kLeads = 19, kVowels = 21, kTails = 28, kSyllables = kLeads * kVowels * kTails;

struct Tables {
  std::unordered_map<char32_t, std::pair<char32_t, char32_t>> decomposed;
  std::unordered_map<uint64_t, char32_t> composed;
  Tables() {
    for (const auto& [marked, first, second] : kDecompositions) {
      const char32_t c = marked & 0x7fffffff;
      decomposed[c] = {first, second};
      if (c == marked) composed[uint64_t{first} << 32 | second] = c;
    }
  }
};
const Tables& tables() {
  static const Tables instance;
  return instance;
}

struct Mark {
  char32_t c;
  uint32_t combining;
};

void decompose(char32_t c, std::vector<Mark>& out) {
  if (c - kSyllable < kSyllables) {
    const char32_t index = c - kSyllable, tail = index % kTails;
    out.push_back({kLead + index / (kVowels * kTails), 0});
    out.push_back({kVowel + index / kTails % kVowels, 0});
    if (tail) out.push_back({kTail + tail, 0});
    return;
  }
  const auto found = tables().decomposed.find(c);
  if (found == tables().decomposed.end()) {
    out.push_back({c, c < kCodePoints ? combining_class(c) : 0});
    return;
  }
  decompose(found->second.first, out);
  if (found->second.second) decompose(found->second.second, out);
}

/// 0 where the two do not compose.
char32_t compose(char32_t a, char32_t b) {
  if (a - kLead < kLeads && b - kVowel < kVowels)
    return kSyllable + ((a - kLead) * kVowels + (b - kVowel)) * kTails;
  if (a - kSyllable < kSyllables && (a - kSyllable) % kTails == 0 && b > kTail &&
      b < kTail + kTails)
    return a + (b - kTail);
  const auto found = tables().composed.find(uint64_t{a} << 32 | b);
  return found == tables().composed.end() ? 0 : found->second;
}

void order_marks(std::vector<Mark>& text) {
  for (auto at = text.begin(); at != text.end();) {
    const auto is_starter = [](const Mark& m) { return m.combining == 0; };
    const auto begin = std::find_if_not(at, text.end(), is_starter);
    const auto end = std::find_if(begin, text.end(), is_starter);
    std::stable_sort(begin, end,
                     [](const Mark& a, const Mark& b) { return a.combining < b.combining; });
    at = end;
  }
}

void compose_all(std::vector<Mark>& text) {
  size_t kept = 0, starter = text.size();  // indices of what was kept so far
  for (const Mark mark : text) {
    // Blocked: something between that is a starter or of no smaller class.
    const bool has_starter = starter < kept;
    const bool adjacent = has_starter && starter + 1 == kept;
    const bool open = adjacent || (has_starter && text[kept - 1].combining < mark.combining &&
                                   text[kept - 1].combining != 0);
    if (const char32_t c = open ? compose(text[starter].c, mark.c) : 0) {
      text[starter].c = c;
      continue;
    }
    if (mark.combining == 0) starter = kept;
    text[kept++] = mark;
  }
  text.resize(kept);
}

}  // namespace

CharKind kind_of(char32_t c) {
  static const std::vector<CharKind> kinds = expand_kinds();
  return c < kCodePoints ? kinds[c] : CharKind::other;
}

Case case_of(char32_t c) {
  static const std::vector<Case> cases = expand<Case>(kCases);
  return c < kCodePoints ? cases[c] : Case::none;
}

std::string nfc(std::string_view text) {
  if (std::none_of(text.begin(), text.end(),
                   [](unsigned char byte) { return byte >= kFirstToNormalize; }))
    return std::string(text);
  std::vector<Mark> marks;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const char32_t c = utf8::next(text, at);
    if (c == utf8::kInvalid) {
      marks.push_back({kRawByte | static_cast<unsigned char>(text[start]), 0});
      continue;
    }
    decompose(c, marks);
  }
  order_marks(marks);
  compose_all(marks);
  std::string out;
  out.reserve(text.size());
  for (const Mark& mark : marks) {
    if (mark.c & kRawByte) {
      out += static_cast<char>(mark.c & 0xff);
    } else {
      utf8::append(out, mark.c);
    }
  }
  return out;
}

}  // namespace fusedlm::unicode
