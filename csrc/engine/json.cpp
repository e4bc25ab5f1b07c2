#include "engine/json.h"

#include <algorithm>
#include <charconv>
#include <unordered_set>

#include "engine/utf8.h"
#include "fusedlm/errors.h"

namespace fusedlm::json {
namespace {

class Parser {
 public:
  Parser(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  Value document() {
    Value value = parse_value(0);
    skip_space();
    if (at_ != text_.size()) fail("something follows the value");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& reason) const {
    throw CorruptFile(file_ + ": not valid JSON at byte " + std::to_string(at_) + ": " + reason);
  }
  int peek() const { return at_ < text_.size() ? static_cast<unsigned char>(text_[at_]) : -1; }
  void skip_space() { at_ = std::min(text_.find_first_not_of(" \t\n\r", at_), text_.size()); }
  void expect(char c) {
    if (peek() != c) fail(std::string("expected ") + c + (peek() < 0 ? ", the text ends" : ""));
    ++at_;
  }
  /// Whether `c` comes next; it is then read.
  bool take(char c) {
    skip_space();
    if (peek() != c) return false;
    ++at_;
    return true;
  }

  Value parse_value(int depth) {
    skip_space();
    switch (peek()) {
      case '{':
        return {parse_object(depth)};
      case '[':
        return {parse_array(depth)};
      case '"':
        return {parse_string()};
      case 't':
        return word("true", {true});
      case 'f':
        return word("false", {false});
      case 'n':
        return word("null", {nullptr});
      case -1:
        fail("the text ends where a value was expected");
      default:
        return parse_number();
    }
  }

  Value word(std::string_view expected, Value value) {
    if (text_.substr(at_, expected.size()) != expected) fail("expected a value");
    at_ += expected.size();
    return value;
  }

  void enter(int depth) {
    if (depth >= kDepth) fail("nested more than " + std::to_string(kDepth) + " deep");
    ++at_;
  }

  Array parse_array(int depth) {
    enter(depth);
    Array array;
    if (take(']')) return array;
    do {
      array.push_back(parse_value(depth + 1));
    } while (take(','));
    expect(']');
    return array;
  }

  Object parse_object(int depth) {
    enter(depth);
    Object object;
    if (take('}')) return object;
    do {
      skip_space();
      if (peek() != '"') fail("expected the name of a member");
      std::string name = parse_string();
      if (!take(':')) fail("expected :");
      object.push_back({std::move(name), parse_value(depth + 1)});
    } while (take(','));
    expect('}');
    refuse_duplicates(object);
    return object;
  }

  void refuse_duplicates(const Object& object) const {
    std::unordered_set<std::string_view> seen;
    for (const Member& member : object) {
      if (!seen.insert(member.name).second) fail("a second member \"" + member.name + "\"");
    }
  }

  std::string parse_string() {
    ++at_;
    std::string string;
    for (;;) {
      const size_t start = at_;
      while (at_ < text_.size() && text_[at_] != '"' && text_[at_] != '\\') {
        if (static_cast<unsigned char>(text_[at_]) < 0x20) fail("a control character in a string");
        ++at_;
      }
      const std::string_view plain = text_.substr(start, at_ - start);
      if (!utf8::valid(plain)) fail("the string that ends here is not UTF-8");
      string += plain;
      if (at_ == text_.size()) fail("the text ends inside a string");
      if (text_[at_++] == '"') return string;
      parse_escape(string);
    }
  }

  void parse_escape(std::string& string) {
    static constexpr std::string_view kNames = "\"\\/bfnrt", kMeant = "\"\\/\b\f\n\r\t";
    const int c = peek();
    if (c == 'u') {
      ++at_;
      utf8::append(string, parse_code_point());
      return;
    }
    const size_t index = c < 0 ? std::string_view::npos : kNames.find(static_cast<char>(c));
    if (index == std::string_view::npos) fail("an escape that JSON does not have");
    string += kMeant[index];
    ++at_;
  }

  char32_t parse_code_point() {
    const char32_t first = parse_hex();
    if (first < 0xd800 || first > 0xdfff) return first;
    if (first > 0xdbff || text_.substr(at_, 2) != "\\u") fail("half of a surrogate pair");
    at_ += 2;
    const char32_t second = parse_hex();
    if (second < 0xdc00 || second > 0xdfff) fail("half of a surrogate pair");
    return 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
  }

  char32_t parse_hex() {
    uint32_t value = 0;
    const std::string_view digits = text_.substr(at_, 4);
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (error != std::errc() || digits.size() != 4 || end != digits.data() + 4)
      fail("expected four hexadecimal digits");
    at_ += 4;
    return value;
  }

  bool skip_digits() {
    const size_t start = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    return at_ != start;
  }

  Value parse_number() {
    const size_t start = at_;
    if (peek() == '-') ++at_;
    const bool zero = peek() == '0';
    if (!skip_digits()) fail("expected a value");
    if (zero && at_ - start > (text_[start] == '-' ? 2u : 1u)) fail("a number with a leading zero");
    bool whole = true;
    if (peek() == '.') {
      whole = false;
      ++at_;
      if (!skip_digits()) fail("expected a digit");
    }
    if (peek() == 'e' || peek() == 'E') {
      whole = false;
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      if (!skip_digits()) fail("expected a digit");
    }
    const char *first = text_.data() + start, *last = text_.data() + at_;
    if (int64_t integer; whole && std::from_chars(first, last, integer).ec == std::errc())
      return {integer};
    double number;
    if (std::from_chars(first, last, number).ec != std::errc()) fail("a number out of range");
    return {number};
  }

  std::string_view text_;
  const std::string& file_;
  size_t at_ = 0;
};

}  // namespace

Value parse(std::string_view text, const std::string& file) {
  return Parser(text, file).document();
}

const Value* Value::find(std::string_view name) const {
  if (const Object* object = as<Object>()) {
    for (const Member& member : *object) {
      if (member.name == name) return &member.value;
    }
  }
  return nullptr;
}

std::string describe(const Value& value) {
  if (value.is_null()) return "null";
  if (const bool* b = value.as<bool>()) return *b ? "true" : "false";
  if (const int64_t* i = value.as<int64_t>()) return std::to_string(*i);
  if (const double* d = value.as<double>()) {
    char text[32];
    return {text, std::to_chars(text, text + sizeof text, *d).ptr};
  }
  if (const std::string* s = value.as<std::string>())
    return "\"" + (s->size() <= 60 ? *s : s->substr(0, 57) + "...") + "\"";
  return value.as<Array>() ? "an array" : "an object";
}

Fields::Fields(const Value& object, std::string where)
    : object_(&object), where_(std::move(where)) {
  if (!object.as<Object>()) fail("holds " + describe(object) + ", expected an object");
}

void Fields::fail(const std::string& message) const { throw CorruptFile(where_ + ": " + message); }

void Fields::fail(std::string_view name, const std::string& expected) const {
  const Value* value = object_->find(name);
  fail(std::string(name) + " is " + (value ? describe(*value) : "missing") + ", expected " +
       expected);
}

void Fields::refuse_others(std::span<const char* const> known) const {
  for (const Member& member : *object_->as<Object>()) {
    if (std::none_of(known.begin(), known.end(), [&](const char* k) { return member.name == k; }))
      fail("has a field " + member.name + ", which is not known");
  }
}

const Value* Fields::find(std::string_view name) const {
  const Value* value = object_->find(name);
  return value && !value->is_null() ? value : nullptr;
}

const Value& Fields::get(std::string_view name) const {
  const Value* value = find(name);
  if (!value) fail(std::string(name) + " is missing");
  return *value;
}

Fields Fields::object(std::string_view name) const {
  return {get(name), where_ + ": " + std::string(name)};
}

const Array& Fields::array(std::string_view name) const {
  if (const Array* array = get(name).as<Array>()) return *array;
  fail(name, "an array");
}

index_t Fields::integer(std::string_view name, index_t low, index_t high) const {
  const int64_t* value = get(name).as<int64_t>();
  if (!value || *value < low || *value > high)
    fail(name, "an integer from " + std::to_string(low) + " to " + std::to_string(high));
  return *value;
}

index_t Fields::integer(std::string_view name, index_t low, index_t high, index_t absent) const {
  return find(name) ? integer(name, low, high) : absent;
}

double Fields::positive(std::string_view name) const {
  const Value& value = get(name);
  double number = 0;
  if (const double* d = value.as<double>()) number = *d;
  if (const int64_t* i = value.as<int64_t>()) number = static_cast<double>(*i);
  if (!(number > 0)) fail(name, "a number above 0");
  return number;
}

double Fields::positive(std::string_view name, double absent) const {
  return find(name) ? positive(name) : absent;
}

bool Fields::boolean(std::string_view name, bool absent) const {
  const Value* value = find(name);
  if (!value) return absent;
  if (const bool* b = value->as<bool>()) return *b;
  fail(name, "true or false");
}

const std::string& Fields::string(std::string_view name) const {
  if (const std::string* s = get(name).as<std::string>()) return *s;
  fail(name, "a string");
}

std::string Fields::string(std::string_view name, std::string_view absent) const {
  return find(name) ? string(name) : std::string(absent);
}

}  // namespace fusedlm::json
