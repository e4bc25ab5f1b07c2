// GGUF: every type of metadata, and that no count, length or offset is believed.

#include "engine/gguf.h"

#include <gtest/gtest.h>

#include "files.h"

namespace fusedlm::test {
namespace {

GgufFile read(const Folder& folder, const std::string& content) {
  return GgufFile(MappedFile::open(folder.write("a.gguf", content)));
}
template <class E = CorruptFile>
std::string refusal(const std::string& content) {
  const Folder folder;
  return message_of<E>([&] { read(folder, content); });
}

TEST(Gguf, ReadsEveryTypeOfMetadata) {
  const Folder folder;
  Gguf gguf;
  gguf.add("u8", 0, raw(uint8_t{200})).add("i8", 1, raw(int8_t{-3}));
  gguf.add("u16", 2, raw(uint16_t{60000})).add("i16", 3, raw(int16_t{-300}));
  gguf.number("u32", 4'000'000'000u).add("i32", 5, raw(int32_t{-5})).real("f32", 1.5f);
  gguf.add("yes", 7, raw(uint8_t{1})).string("s", "text").strings("list", {"a", "", "ccc"});
  gguf.add("u64", 10, raw(uint64_t{1} << 62)).add("i64", 11, raw(int64_t{-1} << 62));
  gguf.add("f64", 12, raw(2.5));
  gguf.add("numbers", 9, raw(uint32_t{5}) + raw(uint64_t{2}) + raw(int32_t{7}) + raw(int32_t{-8}));
  gguf.add("nested", 9,
           raw(uint32_t{9}) + raw(uint64_t{1}) + raw(uint32_t{0}) + raw(uint64_t{2}) + "ab");
  for (uint32_t version : {2u, 3u}) {
    const GgufFile file = read(folder, gguf.file(version));
    const index_t most = INT64_MAX;
    EXPECT_EQ(file.integer("u8", 0, most), 200);
    EXPECT_EQ(file.integer("i8", -9, 0), -3);
    EXPECT_EQ(file.integer("u16", 0, most), 60000);
    EXPECT_EQ(file.integer("i16", -999, 0), -300);
    EXPECT_EQ(file.integer("u32", 0, most), 4'000'000'000);
    EXPECT_EQ(file.integer("i32", -9, 0), -5);
    EXPECT_EQ(file.positive("f32"), 1.5);
    EXPECT_TRUE(file.boolean("yes", false));
    EXPECT_EQ(file.string("s"), "text");
    EXPECT_EQ(file.strings("list"), (std::vector<std::string_view>{"a", "", "ccc"}));
    EXPECT_EQ(file.integer("u64", 0, most), index_t{1} << 62);
    EXPECT_EQ(file.integer("i64", -most, 0), -(index_t{1} << 62));
    EXPECT_EQ(file.positive("f64"), 2.5);
    EXPECT_EQ(file.integers("numbers"), (std::vector<index_t>{7, -8}));
    EXPECT_TRUE(file.has("nested"));
  }
}

TEST(Gguf, TurnsDimensionsRoundAndGivesTheBytes) {
  const Folder folder;
  const auto a = numbered({3, 2});
  const GgufFile file =
      read(folder, Gguf().tensor("pad", {1}, raw(1.0f)).tensor("a", {3, 2}, a.bytes).file());
  const StoredTensor& tensor = file.tensors().tensors.at("a");
  EXPECT_EQ(tensor.shape, (std::vector<index_t>{3, 2}));
  EXPECT_EQ(std::memcmp(tensor.data, a.bytes.data(), a.bytes.size()), 0);
}

TEST(Gguf, ReadsTheBlockFormats) {
  const Folder folder;
  const GgufFile file = read(folder, Gguf()
                                         .tensor("q8", {2, 32}, std::string(2 * 34, 'x'), 8)
                                         .tensor("q6", {1, 256}, std::string(210, 'x'), 14)
                                         .file());
  EXPECT_EQ(file.tensors().tensors.at("q8").format, WeightFormat::q8_0);
  EXPECT_EQ(file.tensors().tensors.at("q6").format, WeightFormat::q6_k);
}

TEST(Gguf, NamesTypesAndVersionsThatItDoesNotRead) {
  expect_says(refusal<Unsupported>(Gguf().tensor("a", {256}, std::string(176, 'x'), 13).file()),
              "tensor a is of type Q5_K");
  expect_says(refusal<Unsupported>(Gguf().tensor("a", {1}, "x", 99).file()), "type number 99");
  expect_says(refusal<Unsupported>(Gguf().file(1)), "version 1");
  expect_says(refusal<Unsupported>(Gguf().file(0x03000000)), "big-endian");
}

TEST(Gguf, RefusesCountsForWhichTheFileIsTooShort) {
  const uint64_t huge = uint64_t{1} << 60;
  expect_says(refusal("GGUF" + raw(3u) + raw(huge) + raw(uint64_t{0})), "too short");
  expect_says(refusal("GGUF" + raw(3u) + raw(uint64_t{0}) + raw(huge)), "too short");
  expect_says(refusal(Gguf().add("k", 8, raw(huge)).file()), "the file ends inside a string");
  expect_says(refusal(Gguf().add("k", 9, raw(0u) + raw(huge)).file()), "an array of");
  expect_says(refusal(Gguf().add("k", 9, raw(8u) + raw(huge)).file()), "an array of");
  expect_says(refusal(Gguf().add("k", 9, raw(12u) + raw(~uint64_t{0})).file()), "an array of");
  expect_says(refusal("GGUX" + std::string(40, '\0')), "does not begin with \"GGUF\"");
  expect_says(refusal("GG"), "ends inside the head");
  expect_says(refusal(""), "ends inside the head");
}

TEST(Gguf, RefusesDeeplyNestedArraysTypesThatAreNoneAndSecondNames) {
  std::string nested;
  for (int i = 0; i < 1000; ++i) nested += raw(9u) + raw(uint64_t{1});
  expect_says(refusal(Gguf().add("k", 9, nested).file()), "nested more than");
  expect_says(refusal(Gguf().add("k", 13, "xxxx").file()), "type 13");
  expect_says(refusal(Gguf().number("k", 1).number("k", 2).file()), "a second value of k");
  expect_says(refusal(Gguf().tensor("a", {1}, raw(1.0f)).tensor("a", {1}, raw(1.0f)).file()),
              "a second tensor a");
}

TEST(Gguf, RefusesTensorsThatLeaveTheFileOverlapOrAreNotAligned) {
  const std::string data(64, 'x');
  const auto at = [&](std::vector<index_t> shape, uint64_t offset, uint32_t type = 0) {
    return refusal(Gguf().head("a", shape, type, offset).data(data).file());
  };
  EXPECT_EQ(at({16}, 0), "");
  expect_says(at({17}, 0), "tensor a at 0 ends at");
  expect_says(at({16}, 32), "tensor a at 32 ends at");
  expect_says(at({16}, ~uint64_t{31}), "larger than the file");
  expect_says(at({index_t{1} << 62, 4}, 0), "larger than the file");
  expect_says(at({1}, 4), "not aligned to 32");
  expect_says(at({0}, 0), "a dimension 0");
  expect_says(at({33}, 0, 8), "no whole blocks of 32");
  expect_says(at({1, 1, 1, 1, 1}, 0), "5 dimensions");
  expect_says(refusal(Gguf().head("a", {16}, 0, 0).head("b", {1}, 0, 32).data(data).file()),
              "tensor b at 32 overlaps");
}

TEST(Gguf, TakesAnAlignmentThatIsAPowerOfTwo) {
  const auto with = [](uint32_t alignment) {
    Gguf gguf;
    gguf.number("general.alignment", alignment).head("a", {1}, 0, 0).data(std::string(4096, 'x'));
    return refusal(gguf.file());
  };
  EXPECT_EQ(with(64), "");
  expect_says(with(48), "expected a power of two");
  expect_says(with(0), "general.alignment is 0");
}

TEST(Gguf, NamesKeyAndValueOfTheWrongType) {
  const Folder folder;
  const GgufFile file = read(folder, Gguf().string("s", "text").number("n", 7).file());
  expect_says(message_of<CorruptFile>([&] { file.integer("s", 0, 9); }),
              "s is text, expected an integer from 0 to 9");
  expect_says(message_of<CorruptFile>([&] { file.integer("n", 0, 6); }), "n is 7");
  expect_says(message_of<CorruptFile>([&] { file.strings("n"); }), "an array of strings");
  expect_says(message_of<CorruptFile>([&] { file.string("gone"); }), "lacks gone");
}

}  // namespace
}  // namespace fusedlm::test
