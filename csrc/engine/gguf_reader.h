#pragma once
// The bytes of a GGUF file from front to back. Nothing is believed: each count and length is checked
// against what is left of the file before it is used.

#include <map>
#include <string>
#include <utility>

#include "engine/gguf.h"

namespace fusedlm {

/// Bytes of one value; 0 for strings and arrays, which differ, and for what is no type.
index_t gguf_size_of(GgufType type);
/// A value that is neither string nor array.
GgufValue gguf_scalar(GgufType type, const std::byte* bytes);

class GgufReader {
 public:
  explicit GgufReader(const MappedFile& file) : file_(file), bytes_(file.bytes()) {}

  struct Head {
    uint64_t tensors, values;
  };
  Head head();
  /// The next key with its value.
  std::pair<std::string, GgufValue> member();
  /// All tensors, which follow the metadata.
  void tensors(uint64_t count, uint64_t alignment, std::map<std::string, StoredTensor>& into);

 private:
  struct Extent {
    uint64_t begin, end;
    const std::string* name;
  };

  [[noreturn]] void fail(const std::string& reason) const;
  uint64_t left() const { return bytes_.size() - at_; }
  const std::byte* take(uint64_t count, const char* what);
  template <class T>
  T number(const char* what) {
    return read_as<T>(take(sizeof(T), what));
  }
  std::string_view string(const char* what);
  GgufType type();
  GgufArray array(int depth);
  Extent tensor(std::map<std::string, StoredTensor>& into);
  void place(std::vector<Extent>& extents, uint64_t alignment,
             std::map<std::string, StoredTensor>& tensors);

  const MappedFile& file_;
  std::span<const std::byte> bytes_;
  uint64_t at_ = 0;
};

}  // namespace fusedlm
