#pragma once
// What the tests of model files share: a folder that goes away, and writers of small safetensors and GGUF
// files, which can also be made wrong.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "fusedlm/errors.h"
#include "fusedlm/weight.h"

namespace fusedlm::test {

class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "fusedlm-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  /// Writes a file; returns its path.
  std::string write(const std::string& name, const std::string& content) const {
    const std::string path = *this / name;
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }

 private:
  std::string path_;
};

template <class T>
std::string raw(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

/// A file's tensors: name -> shape and bytes (float32 unless `type` says otherwise).
struct TensorBytes {
  std::vector<index_t> shape;
  std::string bytes;
  std::string type = "F32";
};
using Tensors = std::map<std::string, TensorBytes>;

/// Values that differ from place to place and from tensor to tensor.
inline TensorBytes numbered(std::vector<index_t> shape, float from = 0) {
  index_t count = 1;
  for (index_t dim : shape) count *= dim;
  std::string bytes;
  for (index_t i = 0; i < count; ++i) bytes += raw(from + 0.25f * static_cast<float>(i));
  return {std::move(shape), std::move(bytes)};
}

inline std::string safetensors_file(const std::string& header, const std::string& data) {
  return raw(uint64_t{header.size()}) + header + data;
}

inline std::string safetensors(const Tensors& tensors) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}", data;
  for (const auto& [name, tensor] : tensors) {
    header += ",\"" + name + "\":{\"dtype\":\"" + tensor.type + "\",\"shape\":[";
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      if (i) header += ",";
      header += std::to_string(tensor.shape[i]);
    }
    header += "],\"data_offsets\":[" + std::to_string(data.size()) + "," +
              std::to_string(data.size() + tensor.bytes.size()) + "]}";
    data += tensor.bytes;
  }
  header += "}";
  while (header.size() % 8) header += ' ';
  return safetensors_file(header, data);
}

/// Metadata and tensors of a GGUF file, in the order in which they are added.
class Gguf {
 public:
  Gguf& add(const std::string& key, uint32_t type, const std::string& value) {
    values_ += text(key) + raw(type) + value;
    ++count_;
    return *this;
  }
  Gguf& number(const std::string& key, uint32_t value) { return add(key, 4, raw(value)); }
  Gguf& real(const std::string& key, float value) { return add(key, 6, raw(value)); }
  Gguf& string(const std::string& key, const std::string& value) {
    return add(key, 8, text(value));
  }
  Gguf& strings(const std::string& key, const std::vector<std::string>& list) {
    std::string value = raw(uint32_t{8}) + raw(uint64_t{list.size()});
    for (const std::string& s : list) value += text(s);
    return add(key, 9, value);
  }
  /// `shape` is row-major; `type` is GGUF's number (0: F32).
  Gguf& tensor(const std::string& name, const std::vector<index_t>& shape, const std::string& bytes,
               uint32_t type = 0) {
    data_.resize((data_.size() + 31) / 32 * 32);
    return head(name, shape, type, data_.size()).data(bytes);
  }
  Gguf& head(const std::string& name, const std::vector<index_t>& shape, uint32_t type,
             uint64_t offset) {
    heads_ += text(name) + raw(static_cast<uint32_t>(shape.size()));
    for (auto dim = shape.rbegin(); dim != shape.rend(); ++dim) heads_ += raw(uint64_t(*dim));
    heads_ += raw(type) + raw(offset);
    ++tensors_;
    return *this;
  }
  Gguf& data(const std::string& bytes) {
    data_ += bytes;
    return *this;
  }
  std::string file(uint32_t version = 3) const {
    std::string all = "GGUF" + raw(version) + raw(tensors_) + raw(count_) + values_ + heads_;
    all.resize((all.size() + 31) / 32 * 32);
    return all + data_;
  }
  static std::string text(const std::string& s) { return raw(uint64_t{s.size()}) + s; }

 private:
  std::string values_, heads_, data_;
  uint64_t count_ = 0, tensors_ = 0;
};

/// The file that is mapped at an address, as Linux tells; "" where none is.
inline std::string file_mapped_at(const void* address) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {  // "7f00-7f10 r--p 0 08:01 42   /tmp/a"
    std::istringstream fields(line);
    uintptr_t begin = 0, end = 0;
    std::string access, offset, device, inode, path;
    fields >> std::hex >> begin;
    fields.ignore(1);
    fields >> end >> access >> offset >> device >> inode >> path;
    const auto at = reinterpret_cast<uintptr_t>(address);
    if (begin <= at && at < end) return path;
  }
  return "";
}

/// What an exception of type E says; "" where none comes.
template <class E, class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  return "";
}

inline void expect_says(const std::string& message, const std::string& part) {
  EXPECT_NE(message.find(part), std::string::npos)
      << "\"" << message << "\" lacks \"" << part << "\"";
}

}  // namespace fusedlm::test
