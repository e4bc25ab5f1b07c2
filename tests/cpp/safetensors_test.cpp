// Safetensors: what is read, and that every lie in a header is found.

#include "engine/safetensors.h"

#include <gtest/gtest.h>

#include "files.h"

namespace fusedlm::test {
namespace {

StoredTensors read(const Folder& folder, const std::string& content) {
  StoredTensors tensors;
  read_safetensors(MappedFile::open(folder.write("a.safetensors", content)), tensors);
  return tensors;
}

std::string refusal(const std::string& header, const std::string& data) {
  const Folder folder;
  return message_of<CorruptFile>([&] { read(folder, safetensors_file(header, data)); });
}

TEST(Safetensors, GivesShapesTypesAndBytesInTheMapping) {
  const Folder folder;
  const auto a = numbered({2, 3}), b = TensorBytes{{4}, "12345678", "BF16"};
  const auto file =
      MappedFile::open(folder.write("a.safetensors", safetensors({{"a", a}, {"b", b}})));
  StoredTensors tensors;
  read_safetensors(file, tensors);
  const StoredTensor& tensor = tensors.tensors.at("a");
  EXPECT_EQ(tensor.shape, a.shape);
  EXPECT_EQ(tensor.format, WeightFormat::float32);
  EXPECT_EQ(std::memcmp(tensor.data, a.bytes.data(), a.bytes.size()), 0);
  EXPECT_EQ(tensors.tensors.at("b").format, WeightFormat::bfloat16);
  // The last of the file's bytes, a before b.
  const std::byte* end = file->bytes().data() + file->bytes().size();
  EXPECT_EQ(tensors.tensors.at("b").data, end - b.bytes.size());
  EXPECT_EQ(tensor.data, end - b.bytes.size() - a.bytes.size());
}

TEST(Safetensors, ReadsScalarsEmptyTensorsAndTypesThatAreNoWeights) {
  const Folder folder;
  const StoredTensors tensors = read(folder, safetensors({{"s", {{}, raw(1.0f)}},
                                                          {"e", {{0, 5}, ""}},
                                                          {"i", {{1}, raw(int64_t{3}), "I64"}}}));
  EXPECT_TRUE(tensors.tensors.at("s").shape.empty());
  EXPECT_EQ(tensors.tensors.at("e").shape, (std::vector<index_t>{0, 5}));
  EXPECT_FALSE(tensors.tensors.at("i").format.has_value());
}

TEST(Safetensors, RefusesAFileThatIsShorterThanItsHeaderSays) {
  const Folder folder;
  for (const std::string& content : {std::string(), std::string("abc"), raw(uint64_t{100}) + "{}",
                                     raw(~uint64_t{0}) + "{}", raw(uint64_t{1} << 40) + "{}"}) {
    EXPECT_THROW(read(folder, content), CorruptFile);
  }
}

TEST(Safetensors, RefusesRangesThatLeaveTheFileOverlapOrLeaveGaps) {
  const auto entry = [](const char* name, int begin, int end) {
    return std::string("\"") + name + "\":{\"dtype\":\"F32\",\"shape\":[" +
           std::to_string((end - begin) / 4) + "],\"data_offsets\":[" + std::to_string(begin) +
           "," + std::to_string(end) + "]}";
  };
  const std::string data(16, 'x');
  expect_says(refusal("{" + entry("a", 0, 32) + "}", data), "16 bytes of data");
  expect_says(refusal("{" + entry("a", 0, 12) + "," + entry("b", 8, 16) + "}", data),
              "tensor b begins at byte 8 of the data, expected 12");
  expect_says(refusal("{" + entry("a", 0, 4) + "," + entry("b", 8, 16) + "}", data), "expected 4");
  expect_says(refusal("{" + entry("a", 0, 12) + "}", data), "its tensors take 12");
  expect_says(refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[16,8]}})", data),
              "expected a begin and an end");
}

TEST(Safetensors, RefusesSizesThatDisagreeWithTheShape) {
  const auto header = [](const std::string& shape) {
    return R"({"a":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":[0,16]}})";
  };
  const std::string data(16, 'x');
  EXPECT_EQ(refusal(header("[4]"), data), "");
  expect_says(refusal(header("[5]"), data), "F32 of shape [5]");
  expect_says(refusal(header("[4611686018427387904,4611686018427387904]"), data), "not what");
  expect_says(refusal(header("[-4]"), data), "integers of at least 0");
  expect_says(refusal(header("[2.0,2]"), data), "integers of at least 0");
}

TEST(Safetensors, RefusesAHeaderThatIsNoObjectOfObjects) {
  expect_says(refusal("[]", ""), "expected an object");
  expect_says(refusal("{\"a\":1}", ""), "expected an object");
  expect_says(refusal("{\"a\":{\"dtype\":\"F32\",\"shape\":[0]}}", ""), "data_offsets is missing");
  expect_says(refusal("{", ""), "not valid JSON at byte 1");
}

TEST(Safetensors, RefusesATypeThatIsNotKnownByName) {
  const Folder folder;
  const std::string file = safetensors({{"a", {{1}, "1", "F4"}}});
  expect_says(message_of<Unsupported>([&] { read(folder, file); }), "dtype F4");
}

class Shards : public ::testing::Test {
 protected:
  void write(const std::string& index_entries) {
    folder_.write("one.safetensors", safetensors({{"a", numbered({2})}}));
    folder_.write("two.safetensors", safetensors({{"b", numbered({3})}}));
    folder_.write("model.safetensors.index.json", "{\"weight_map\":{" + index_entries + "}}");
  }
  std::string refusal() {
    return message_of<CorruptFile>([&] { read_safetensors_folder(folder_.path()); });
  }
  Folder folder_;
};

TEST_F(Shards, AreReadAsOne) {
  write(R"("a":"one.safetensors","b":"two.safetensors")");
  const StoredTensors all = read_safetensors_folder(folder_.path());
  EXPECT_EQ(all.tensors.size(), 2u);
  EXPECT_EQ(all.keep.size(), 2u);
}

TEST_F(Shards, MustHoldWhatTheIndexSays) {
  write(R"("a":"one.safetensors","b":"two.safetensors","c":"two.safetensors")");
  expect_says(refusal(), "two.safetensors: lacks tensor c");
  write(R"("a":"one.safetensors")");
  EXPECT_EQ(refusal(), "");  // a file that the index does not name is none of the model
  write(R"("a":"../one.safetensors")");
  expect_says(refusal(), "the name of a file in the folder");
  write(R"("a":1)");
  expect_says(refusal(), "a is 1, expected a string");
}

TEST_F(Shards, ThatAreMissingAreNamed) {
  write(R"("a":"one.safetensors","b":"gone.safetensors")");
  expect_says(refusal(), "gone.safetensors");
}

}  // namespace
}  // namespace fusedlm::test
