#include "engine/safetensors.h"

#include <algorithm>
#include <filesystem>

#include "engine/json.h"
#include "fusedlm/errors.h"

namespace fusedlm {
namespace {

namespace fs = std::filesystem;

// The format's own limit.
constexpr uint64_t kMostHeader = 100'000'000;

struct Type {
  const char* name = nullptr;
  index_t bytes = 0;
  std::optional<WeightFormat> format;
};
constexpr Type kTypes[] = {
    {"F32", 4, WeightFormat::float32},
    {"F16", 2, WeightFormat::float16},
    {"BF16", 2, WeightFormat::bfloat16},
    {"F64", 8, {}},
    {"I64", 8, {}},
    {"U64", 8, {}},
    {"I32", 4, {}},
    {"U32", 4, {}},
    {"I16", 2, {}},
    {"U16", 2, {}},
    {"I8", 1, {}},
    {"U8", 1, {}},
    {"BOOL", 1, {}},
    {"F8_E4M3", 1, {}},
    {"F8_E5M2", 1, {}},
    {"C64", 8, {}},
};

struct Range {
  index_t begin, end;
  const std::string* name;
};

std::vector<index_t> integers(const json::Fields& fields, const char* name) {
  std::vector<index_t> list;
  for (const json::Value& value : fields.array(name)) {
    const int64_t* integer = value.as<int64_t>();
    if (!integer || *integer < 0) fields.fail(name, "an array of integers of at least 0");
    list.push_back(*integer);
  }
  return list;
}

/// Reads one entry of the header; returns where in the data its bytes are.
Range read_tensor(const json::Fields& entry, std::span<const std::byte> data,
                  StoredTensor& tensor) {
  tensor.type = entry.string("dtype");
  const auto* type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                  [&](const Type& t) { return t.name == tensor.type; });
  if (type == std::end(kTypes)) throw Unsupported(entry.where() + ": dtype " + tensor.type);
  tensor.format = type->format;
  tensor.shape = integers(entry, "shape");
  const std::vector<index_t> offsets = integers(entry, "data_offsets");
  const auto size = static_cast<index_t>(data.size());
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    entry.fail("data_offsets is " + shape_string(offsets) + ", expected a begin and an end");
  }
  if (offsets[1] > size) {
    entry.fail("data_offsets is " + shape_string(offsets) + ", but the file has " +
               std::to_string(size) + " bytes of data");
  }
  const auto bytes = bounded_product(tensor.shape, type->bytes, size);
  if (bytes != offsets[1] - offsets[0]) {
    entry.fail("has " + std::to_string(offsets[1] - offsets[0]) + " bytes, which is not what " +
               tensor.type + " of shape " + shape_string(tensor.shape) + " takes");
  }
  tensor.data = data.data() + offsets[0];
  return {offsets[0], offsets[1], nullptr};
}

/// Byte ranges must tile the data: neither overlap nor leave gaps in which anything could hide.
void check_ranges(std::vector<Range>& ranges, index_t size, const std::string& path) {
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  index_t end = 0;
  for (const Range& range : ranges) {
    if (range.begin != end) {
      throw CorruptFile(path + ": tensor " + *range.name + " begins at byte " +
                        std::to_string(range.begin) + " of the data, expected " +
                        std::to_string(end) + ", where the one before it ends");
    }
    end = range.end;
  }
  if (end != size) {
    throw CorruptFile(path + ": has " + std::to_string(size) + " bytes of data, its tensors take " +
                      std::to_string(end));
  }
}

std::string shard_path(const fs::path& folder, const json::Fields& map,
                       const json::Member& member) {
  const std::string& name = map.string(member.name);
  if (name.empty() || name == "." || name == ".." || fs::path(name).filename() != name)
    map.fail(member.name, "the name of a file in the folder");
  return (folder / name).string();
}

}  // namespace

void read_safetensors(std::shared_ptr<const MappedFile> file, StoredTensors& into) {
  const std::string& path = file->path();
  const auto bytes = file->bytes();
  if (bytes.size() < 8) throw CorruptFile(path + ": has no room for a safetensors header");
  const auto length = read_as<uint64_t>(bytes.data());
  if (length > std::min<uint64_t>(kMostHeader, bytes.size() - 8)) {
    throw CorruptFile(path + ": its header is said to have " + std::to_string(length) +
                      " bytes, the file has " + std::to_string(bytes.size()));
  }
  const json::Value header = json::parse(file->text().substr(8, length), path);
  const auto data = bytes.subspan(8 + length);

  std::vector<Range> ranges;
  const json::Fields fields(header, path);
  for (const json::Member& member : *header.as<json::Object>()) {
    if (member.name == "__metadata__") continue;
    StoredTensor tensor;
    ranges.push_back(read_tensor(fields.object(member.name), data, tensor));
    const auto [place, added] = into.tensors.emplace(member.name, std::move(tensor));
    ranges.back().name = &place->first;
    if (!added) throw CorruptFile(path + ": tensor " + member.name + " is in another file too");
  }
  check_ranges(ranges, static_cast<index_t>(data.size()), path);
  into.keep.push_back(std::move(file));
}

StoredTensors read_safetensors_folder(const std::string& folder) {
  StoredTensors all{folder, {}, {}};
  const fs::path root(folder);
  const std::string index_path = (root / "model.safetensors.index.json").string();
  if (fs::exists(root / "model.safetensors") || !fs::exists(index_path)) {
    read_safetensors(MappedFile::open((root / "model.safetensors").string()), all);
    return all;
  }
  const auto index_file = MappedFile::open(index_path);
  const json::Value index = json::parse(index_file->text(), index_path);
  const json::Fields map = json::Fields(index, index_path).object("weight_map");

  std::map<std::string, std::vector<std::string>> shards;  // path -> what should be in it
  for (const json::Member& member :
       *json::Fields(index, index_path).get("weight_map").as<json::Object>())
    shards[shard_path(root, map, member)].push_back(member.name);
  size_t expected = 0;
  for (const auto& [path, names] : shards) {
    std::error_code unreadable;
    if (!fs::is_regular_file(path, unreadable))
      throw CorruptFile(index_path + ": names " + path + ", which is no file");
  }
  for (const auto& [path, names] : shards) {
    StoredTensors shard{path, {}, {}};
    read_safetensors(MappedFile::open(path), shard);
    for (const std::string& name : names) {
      if (!shard.tensors.contains(name))
        throw CorruptFile(path + ": lacks tensor " + name + ", which the index says is in it");
    }
    expected += names.size();
    for (auto& [name, tensor] : shard.tensors) {
      if (!all.tensors.emplace(name, std::move(tensor)).second)
        throw CorruptFile(path + ": tensor " + name + " is in another file too");
    }
    all.keep.insert(all.keep.end(), shard.keep.begin(), shard.keep.end());
  }
  if (all.tensors.size() != expected) {
    throw CorruptFile(index_path + ": names " + std::to_string(expected) +
                      " tensors, its files hold " + std::to_string(all.tensors.size()));
  }
  return all;
}

}  // namespace fusedlm
