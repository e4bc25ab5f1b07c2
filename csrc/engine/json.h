#pragma once
// JSON (RFC 8259) as model folders hold it. A reader of our own because the library is built by
// `pip install` from a source tree: no JSON library for C++ comes from PyPI, and what we need of one
// is small. It is strict: no comments, no trailing commas, no NaN, no second member of one name, no
// lone surrogates; and bounded: nesting by kDepth, everything else by the length of the text.

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "fusedlm/tensor.h"

namespace fusedlm::json {

inline constexpr int kDepth = 64;

class Value;
struct Member;
using Array = std::vector<Value>;
using Object = std::vector<Member>;  ///< in the order of the text

class Value {
 public:
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, Array, Object> data;

  template <class T>
  const T* as() const {
    return std::get_if<T>(&data);
  }
  bool is_null() const { return as<std::nullptr_t>() != nullptr; }
  /// The member of an object; null where there is none, or this is no object.
  const Value* find(std::string_view name) const;
};

struct Member {
  std::string name;
  Value value;
};

/// Throws CorruptFile: "<file>: not valid JSON at byte 17: ...".
Value parse(std::string_view text, const std::string& file);

/// What a message says that came: a value as it is, a long string in part; of others "an array" or "an object".
std::string describe(const Value& value);

/// Typed access to the members of an object. A member that is null counts as absent. Throws
/// CorruptFile naming file, member, what was expected and what came.
class Fields {
 public:
  /// `where` begins each message: the file, and the object's own name where it is an inner one.
  Fields(const Value& object, std::string where);

  const std::string& where() const { return where_; }
  /// Whether the member is there, null or not.
  bool has(std::string_view name) const { return object_->find(name) != nullptr; }
  const Value* find(std::string_view name) const;
  const Value& get(std::string_view name) const;
  Fields object(std::string_view name) const;
  const Array& array(std::string_view name) const;

  index_t integer(std::string_view name, index_t low, index_t high) const;
  index_t integer(std::string_view name, index_t low, index_t high, index_t absent) const;
  /// A finite number above 0.
  double positive(std::string_view name) const;
  double positive(std::string_view name, double absent) const;
  bool boolean(std::string_view name, bool absent) const;
  const std::string& string(std::string_view name) const;
  std::string string(std::string_view name, std::string_view absent) const;

  /// A member that is none of these is an error: it may mean something that nobody here knows.
  void refuse_others(std::span<const char* const> known) const;

  [[noreturn]] void fail(std::string_view name, const std::string& expected) const;
  [[noreturn]] void fail(const std::string& message) const;

 private:
  const Value* object_;
  std::string where_;
};

}  // namespace fusedlm::json
