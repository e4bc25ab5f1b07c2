#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace fusedlm {

/// The bytes of a file, mapped read-only for as long as this lives. A file that somebody cuts short
/// meanwhile raises SIGBUS, as every mapping does; replace model files, don't write into them.
class MappedFile {
 public:
  /// Throws std::system_error naming the path.
  static std::shared_ptr<const MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  std::string_view text() const {
    return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
  }

 private:
  explicit MappedFile(std::string path);
  std::string path_;
  std::span<const std::byte> bytes_;
};

/// An integer or a float from the file's little-endian bytes, at any alignment.
template <class T>
T read_as(const std::byte* bytes) {
  T value;
  __builtin_memcpy(&value, bytes, sizeof value);
  return value;
}

}  // namespace fusedlm
