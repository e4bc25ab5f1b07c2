#include "engine/gguf.h"

#include <bit>
#include <charconv>
#include <cmath>

#include "engine/gguf_reader.h"
#include "fusedlm/errors.h"

namespace fusedlm {

GgufFile::GgufFile(std::shared_ptr<const MappedFile> file) : file_(std::move(file)) {
  tensors_.path = path();
  tensors_.keep.push_back(file_);
  GgufReader reader(*file_);
  const auto [tensors, values] = reader.head();
  for (uint64_t i = 0; i < values; ++i) {
    auto [key, value] = reader.member();
    if (!metadata_.emplace(key, value).second) fail("has a second value of " + key);
  }
  const auto alignment = static_cast<uint64_t>(integer("general.alignment", 1, 1 << 20, 32));
  if (!std::has_single_bit(alignment)) {
    fail("general.alignment is " + std::to_string(alignment) + ", expected a power of two");
  }
  reader.tensors(tensors, alignment, tensors_.tensors);
}

void GgufFile::fail(const std::string& message) const {
  throw CorruptFile(path() + ": " + message);
}

const GgufValue& GgufFile::get(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) fail("lacks " + key);
  return found->second;
}

index_t GgufFile::integer(const std::string& key, index_t low, index_t high) const {
  const GgufValue& value = get(key);
  index_t integer = low - 1;
  if (const auto* i = std::get_if<int64_t>(&value)) integer = *i;
  if (const auto* u = std::get_if<uint64_t>(&value); u && *u <= static_cast<uint64_t>(INT64_MAX))
    integer = static_cast<index_t>(*u);
  if (integer < low || integer > high) {
    fail(key + " is " + to_string(value) + ", expected an integer from " + std::to_string(low) +
         " to " + std::to_string(high));
  }
  return integer;
}

index_t GgufFile::integer(const std::string& key, index_t low, index_t high, index_t absent) const {
  return has(key) ? integer(key, low, high) : absent;
}

double GgufFile::positive(const std::string& key) const {
  const GgufValue& value = get(key);
  const auto* number = std::get_if<double>(&value);
  if (!number || !(*number > 0) || !std::isfinite(*number))
    fail(key + " is " + to_string(value) + ", expected a number above 0");
  return *number;
}

double GgufFile::positive(const std::string& key, double absent) const {
  return has(key) ? positive(key) : absent;
}

bool GgufFile::boolean(const std::string& key, bool absent) const {
  if (!has(key)) return absent;
  if (const auto* b = std::get_if<bool>(&get(key))) return *b;
  fail(key + " is " + to_string(get(key)) + ", expected true or false");
}

std::string_view GgufFile::string(const std::string& key) const {
  if (const auto* s = std::get_if<std::string_view>(&get(key))) return *s;
  fail(key + " is " + to_string(get(key)) + ", expected a string");
}

std::string_view GgufFile::string(const std::string& key, std::string_view absent) const {
  return has(key) ? string(key) : absent;
}

std::vector<std::string_view> GgufFile::strings(const std::string& key) const {
  const auto* array = std::get_if<GgufArray>(&get(key));
  if (!array || array->type != GgufType::string)
    fail(key + " is " + to_string(get(key)) + ", expected an array of strings");
  std::vector<std::string_view> list(array->count);
  const std::byte* at = array->bytes.data();
  for (std::string_view& s : list) {
    s = {reinterpret_cast<const char*>(at + 8), read_as<uint64_t>(at)};
    at += 8 + s.size();
  }
  return list;
}

std::vector<index_t> GgufFile::integers(const std::string& key) const {
  const auto* array = std::get_if<GgufArray>(&get(key));
  const index_t size = array ? gguf_size_of(array->type) : 0;
  if (!size || array->type == GgufType::float32 || array->type == GgufType::float64)
    fail(key + " is " + to_string(get(key)) + ", expected an array of integers");
  std::vector<index_t> list(array->count);
  for (size_t i = 0; i < list.size(); ++i) {
    const GgufValue value = gguf_scalar(array->type, array->bytes.data() + i * size);
    if (const auto* s = std::get_if<int64_t>(&value)) list[i] = *s;
    if (const auto* u = std::get_if<uint64_t>(&value)) list[i] = static_cast<index_t>(*u);
    if (const auto* b = std::get_if<bool>(&value)) list[i] = *b;
  }
  return list;
}

std::vector<double> GgufFile::numbers(const std::string& key) const {
  const auto* array = std::get_if<GgufArray>(&get(key));
  const index_t size = array ? gguf_size_of(array->type) : 0;
  if (!size) fail(key + " is " + to_string(get(key)) + ", expected an array of numbers");
  if (array->type != GgufType::float32 && array->type != GgufType::float64) {
    const std::vector<index_t> list = integers(key);
    return {list.begin(), list.end()};
  }
  std::vector<double> list(array->count);
  for (size_t i = 0; i < list.size(); ++i) {
    list[i] = std::get<double>(gguf_scalar(array->type, array->bytes.data() + i * size));
    if (!std::isfinite(list[i]))
      fail(key + " holds " + to_string(list[i]) + ", expected finite numbers");
  }
  return list;
}

std::string to_string(const GgufValue& value) {
  if (const auto* i = std::get_if<int64_t>(&value)) return std::to_string(*i);
  if (const auto* u = std::get_if<uint64_t>(&value)) return std::to_string(*u);
  if (const auto* b = std::get_if<bool>(&value)) return *b ? "true" : "false";
  if (const auto* s = std::get_if<std::string_view>(&value)) return std::string(*s);
  if (const auto* d = std::get_if<double>(&value)) {
    char text[32];
    return {text, std::to_chars(text, text + sizeof text, *d).ptr};
  }
  const auto& array = std::get<GgufArray>(value);
  return std::to_string(array.count) + (array.type == GgufType::string ? " strings" : " values");
}

}  // namespace fusedlm
