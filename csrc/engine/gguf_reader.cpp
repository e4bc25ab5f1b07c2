#include "engine/gguf_reader.h"

#include <algorithm>
#include <cstring>

#include "fusedlm/errors.h"

namespace fusedlm {
namespace {

constexpr uint64_t kMostKey = 65535;  // the format's own limit
constexpr int kMostDims = 4;
constexpr int kMostNested = 4;
// The least that a key with its value, and the head of a tensor, take.
constexpr uint64_t kLeastMember = 8 + 4 + 1, kLeastTensor = 8 + 4 + 8 + 4 + 8;

struct TensorType {
  uint32_t id = 0;
  const char* name = nullptr;
  std::optional<WeightFormat> format;
};
// Those without a format are known by name, so that the refusal can say what it met.
constexpr TensorType kTensorTypes[] = {
    {0, "F32", WeightFormat::float32},
    {1, "F16", WeightFormat::float16},
    {2, "Q4_0", WeightFormat::q4_0},
    {3, "Q4_1", WeightFormat::q4_1},
    {6, "Q5_0", {}},
    {7, "Q5_1", {}},
    {8, "Q8_0", WeightFormat::q8_0},
    {9, "Q8_1", {}},
    {10, "Q2_K", {}},
    {11, "Q3_K", {}},
    {12, "Q4_K", WeightFormat::q4_k},
    {13, "Q5_K", {}},
    {14, "Q6_K", WeightFormat::q6_k},
    {15, "Q8_K", {}},
    {16, "IQ2_XXS", {}},
    {17, "IQ2_XS", {}},
    {18, "IQ3_XXS", {}},
    {19, "IQ1_S", {}},
    {20, "IQ4_NL", {}},
    {21, "IQ3_S", {}},
    {22, "IQ2_S", {}},
    {23, "IQ4_XS", {}},
    {24, "I8", {}},
    {25, "I16", {}},
    {26, "I32", {}},
    {27, "I64", {}},
    {28, "F64", {}},
    {29, "IQ1_M", {}},
    {30, "BF16", WeightFormat::bfloat16},
    {34, "TQ1_0", {}},
    {35, "TQ2_0", {}},
    {39, "MXFP4", {}},
};

}  // namespace

index_t gguf_size_of(GgufType type) {
  switch (type) {
    case GgufType::uint8:
    case GgufType::int8:
    case GgufType::boolean:
      return 1;
    case GgufType::uint16:
    case GgufType::int16:
      return 2;
    case GgufType::uint32:
    case GgufType::int32:
    case GgufType::float32:
      return 4;
    case GgufType::uint64:
    case GgufType::int64:
    case GgufType::float64:
      return 8;
    case GgufType::string:
    case GgufType::array:
      return 0;
  }
  return 0;
}

GgufValue gguf_scalar(GgufType type, const std::byte* bytes) {
  switch (type) {
    case GgufType::uint8:
      return uint64_t{read_as<uint8_t>(bytes)};
    case GgufType::int8:
      return int64_t{read_as<int8_t>(bytes)};
    case GgufType::uint16:
      return uint64_t{read_as<uint16_t>(bytes)};
    case GgufType::int16:
      return int64_t{read_as<int16_t>(bytes)};
    case GgufType::uint32:
      return uint64_t{read_as<uint32_t>(bytes)};
    case GgufType::int32:
      return int64_t{read_as<int32_t>(bytes)};
    case GgufType::uint64:
      return read_as<uint64_t>(bytes);
    case GgufType::int64:
      return read_as<int64_t>(bytes);
    case GgufType::float32:
      return double{read_as<float>(bytes)};
    case GgufType::float64:
      return read_as<double>(bytes);
    case GgufType::boolean:
    case GgufType::string:
    case GgufType::array:
      break;
  }
  return read_as<uint8_t>(bytes) != 0;
}

void GgufReader::fail(const std::string& reason) const {
  throw CorruptFile(file_.path() + ": at byte " + std::to_string(at_) + ": " + reason);
}

const std::byte* GgufReader::take(uint64_t count, const char* what) {
  if (count > left()) {
    fail("the file ends inside " + std::string(what) + " (" + std::to_string(count) +
         " bytes wanted, " + std::to_string(left()) + " left)");
  }
  const std::byte* start = bytes_.data() + at_;
  at_ += count;
  return start;
}

std::string_view GgufReader::string(const char* what) {
  const auto length = number<uint64_t>(what);
  return {reinterpret_cast<const char*>(take(length, what)), length};
}

GgufType GgufReader::type() {
  const auto type = number<uint32_t>("a type");
  if (type > static_cast<uint32_t>(GgufType::float64))
    fail("a value of type " + std::to_string(type) + ", which GGUF does not have");
  return static_cast<GgufType>(type);
}

GgufReader::Head GgufReader::head() {
  if (std::memcmp(take(4, "the head"), "GGUF", 4) != 0) {
    throw CorruptFile(file_.path() + ": does not begin with \"GGUF\"");
  }
  const auto version = number<uint32_t>("the head");
  if (version != 2 && version != 3) {
    const bool swapped = (version & 0xffff) == 0;
    throw Unsupported(file_.path() + (swapped ? ": a big-endian GGUF file"
                                              : ": GGUF version " + std::to_string(version) +
                                                    ", this fusedlm reads 2 and 3"));
  }
  const auto tensors = number<uint64_t>("the head"), values = number<uint64_t>("the head");
  if (values > left() / kLeastMember || tensors > left() / kLeastTensor) {
    fail("has " + std::to_string(values) + " values and " + std::to_string(tensors) +
         " tensors by its head, for which it is too short");
  }
  return {tensors, values};
}

std::pair<std::string, GgufValue> GgufReader::member() {
  const std::string_view key = string("a key");
  if (key.size() > kMostKey) fail("a key of " + std::to_string(key.size()) + " bytes");
  const GgufType kind = type();
  if (kind == GgufType::string) return {std::string(key), string("a string")};
  if (kind == GgufType::array) return {std::string(key), array(0)};
  return {std::string(key), gguf_scalar(kind, take(gguf_size_of(kind), "a value"))};
}

GgufArray GgufReader::array(int depth) {
  if (depth == kMostNested)
    fail("arrays nested more than " + std::to_string(kMostNested) + " deep");
  const GgufType kind = type();
  const auto count = number<uint64_t>("an array");
  const uint64_t start = at_;
  if (const auto size = static_cast<uint64_t>(gguf_size_of(kind))) {
    if (count > left() / size) fail("an array of " + std::to_string(count) + " values");
    take(count * size, "an array");
  } else {
    if (count > left() / 8) fail("an array of " + std::to_string(count) + " values");
    for (uint64_t i = 0; i < count; ++i) {
      if (kind == GgufType::string) {
        string("a string");
      } else {
        array(depth + 1);
      }
    }
  }
  return {kind, count, bytes_.subspan(start, at_ - start)};
}

GgufReader::Extent GgufReader::tensor(std::map<std::string, StoredTensor>& into) {
  const std::string name(string("the name of a tensor"));
  const auto dims = number<uint32_t>("the head of a tensor");
  if (dims < 1 || dims > kMostDims)
    fail("tensor " + name + " has " + std::to_string(dims) + " dimensions, expected 1 to 4");
  StoredTensor tensor;
  const auto most = static_cast<uint64_t>(INT64_MAX);
  for (uint32_t i = 0; i < dims; ++i) {
    const auto dim = number<uint64_t>("the head of a tensor");
    if (dim < 1 || dim > most) fail("tensor " + name + " has a dimension " + std::to_string(dim));
    tensor.shape.insert(tensor.shape.begin(), static_cast<index_t>(dim));
  }
  const auto id = number<uint32_t>("the head of a tensor");
  const auto begin = number<uint64_t>("the head of a tensor");
  const auto* kind = std::find_if(std::begin(kTensorTypes), std::end(kTensorTypes),
                                  [&](const TensorType& t) { return t.id == id; });
  const bool known = kind != std::end(kTensorTypes);
  if (!known || !kind->format) {
    throw Unsupported(file_.path() + ": tensor " + name + " is of type " +
                      (known ? kind->name : "number " + std::to_string(id)) +
                      "; types that are read: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q6_K");
  }
  tensor.type = kind->name;
  tensor.format = kind->format;
  const index_t inner = tensor.shape.back(), block = block_size(*kind->format);
  if (inner % block != 0) {
    fail("tensor " + name + " has rows of " + std::to_string(inner) + " weights, which are no " +
         "whole blocks of " + std::to_string(block));
  }
  std::vector<index_t> blocks = tensor.shape;
  blocks.back() /= block;
  const auto size =
      bounded_product(blocks, row_bytes(*kind->format, block), static_cast<index_t>(bytes_.size()));
  if (!size || begin > bytes_.size()) fail("tensor " + name + " is larger than the file");
  const auto [place, added] = into.emplace(name, std::move(tensor));
  if (!added) fail("a second tensor " + name);
  return {begin, begin + static_cast<uint64_t>(*size), &place->first};
}

void GgufReader::tensors(uint64_t count, uint64_t alignment,
                         std::map<std::string, StoredTensor>& into) {
  std::vector<Extent> extents;
  for (uint64_t i = 0; i < count; ++i) extents.push_back(tensor(into));
  place(extents, alignment, into);
}

void GgufReader::place(std::vector<Extent>& extents, uint64_t alignment,
                       std::map<std::string, StoredTensor>& tensors) {
  const uint64_t start = (at_ + alignment - 1) / alignment * alignment;
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  uint64_t end = 0;
  for (const Extent& extent : extents) {
    const std::string head = "tensor " + *extent.name + " at " + std::to_string(extent.begin);
    if (extent.begin % alignment) fail(head + " is not aligned to " + std::to_string(alignment));
    if (extent.begin < end) fail(head + " overlaps the one before it");
    end = extent.end;
    if (start > bytes_.size() || end > bytes_.size() - start) {
      fail(head + " ends at " + std::to_string(start + end) + ", the file at " +
           std::to_string(bytes_.size()));
    }
    tensors[*extent.name].data = bytes_.data() + start + extent.begin;
  }
}

}  // namespace fusedlm
