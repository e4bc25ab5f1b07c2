#pragma once
// GGUF, version 2 and 3: llama.cpp's container of typed metadata and tensors.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/mapped_file.h"
#include "engine/stored_tensor.h"

namespace fusedlm {

enum class GgufType : uint32_t {
  uint8,
  int8,
  uint16,
  int16,
  uint32,
  int32,
  float32,
  boolean,
  string,
  array,
  uint64,
  int64,
  float64,
};

/// An array as it lies in the file; every element was checked to be inside.
struct GgufArray {
  GgufType type;
  uint64_t count;
  std::span<const std::byte> bytes;
};

using GgufValue = std::variant<int64_t, uint64_t, double, bool, std::string_view, GgufArray>;

/// Views into the mapping; counts and lengths are checked against the file before anything is
/// allocated by them.
class GgufFile {
 public:
  /// Throws CorruptFile naming file and fault, Unsupported for other versions and types of tensors.
  explicit GgufFile(std::shared_ptr<const MappedFile> file);

  const std::string& path() const { return file_->path(); }
  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  /// The tensors, their dimensions turned round: the file has the innermost first.
  const StoredTensors& tensors() const { return tensors_; }

  bool has(const std::string& key) const { return metadata_.contains(key); }
  /// Typed access. Throws CorruptFile naming the key where it is missing or something else.
  index_t integer(const std::string& key, index_t low, index_t high) const;
  index_t integer(const std::string& key, index_t low, index_t high, index_t absent) const;
  /// A finite number above 0.
  double positive(const std::string& key) const;
  double positive(const std::string& key, double absent) const;
  bool boolean(const std::string& key, bool absent) const;
  std::string_view string(const std::string& key) const;
  std::string_view string(const std::string& key, std::string_view absent) const;
  std::vector<std::string_view> strings(const std::string& key) const;
  /// Of any type of integers.
  std::vector<index_t> integers(const std::string& key) const;
  /// Finite ones, of any type of numbers.
  std::vector<double> numbers(const std::string& key) const;

  [[noreturn]] void fail(const std::string& message) const;

 private:
  const GgufValue& get(const std::string& key) const;

  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, GgufValue> metadata_;
  StoredTensors tensors_;
};

/// What a value is, for people: a string as it is, "1.5", "true", "151936 strings".
std::string to_string(const GgufValue& value);

}  // namespace fusedlm
