// The JSON reader: what it accepts, and that a refusal says where.

#include "engine/json.h"

#include <gtest/gtest.h>

#include "fusedlm/errors.h"

namespace fusedlm::json {
namespace {

std::string refusal(std::string_view text) {
  try {
    parse(text, "f.json");
  } catch (const CorruptFile& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Json, ReadsEveryKindOfValue) {
  const Value v = parse(
      R"( {"n": null, "t": true, "f": false, "i": -12, "d": 2.5e-1, "s": "x", "a": [1, []], "o": {}} )",
      "f.json");
  EXPECT_TRUE(v.find("n")->is_null());
  EXPECT_TRUE(*v.find("t")->as<bool>());
  EXPECT_FALSE(*v.find("f")->as<bool>());
  EXPECT_EQ(*v.find("i")->as<int64_t>(), -12);
  EXPECT_EQ(*v.find("d")->as<double>(), 0.25);
  EXPECT_EQ(*v.find("s")->as<std::string>(), "x");
  EXPECT_EQ(v.find("a")->as<Array>()->size(), 2u);
  EXPECT_TRUE(v.find("o")->as<Object>()->empty());
  EXPECT_EQ(v.find("z"), nullptr);
}

TEST(Json, KeepsIntegersOf64BitsAndMakesLargerOnesDouble) {
  EXPECT_EQ(*parse("9223372036854775807", "f").as<int64_t>(), INT64_MAX);
  EXPECT_EQ(*parse("-9223372036854775808", "f").as<int64_t>(), INT64_MIN);
  EXPECT_EQ(*parse("9223372036854775808", "f").as<double>(), 0x1p63);
}

TEST(Json, ReadsEscapesAndSurrogatePairs) {
  EXPECT_EQ(*parse(R"("\"\\\/\b\f\n\r\t")", "f").as<std::string>(), "\"\\/\b\f\n\r\t");
  EXPECT_EQ(*parse(R"("\u00e9\u4f60\ud83d\udc4d\u0000")", "f").as<std::string>(),
            std::string("\u00e9\u4f60\U0001f44d\0", 10));
}

TEST(Json, RefusesWhatRfc8259DoesNotHave) {
  for (const char* text : {"",
                           " ",
                           "{",
                           "[1,]",
                           "{\"a\":1,}",
                           "[1 2]",
                           "{\"a\" 1}",
                           "{a:1}",
                           "'a'",
                           "nul",
                           "NaN",
                           "Infinity",
                           "01",
                           "-",
                           "1.",
                           ".5",
                           "1e",
                           "+1",
                           "\"\\x\"",
                           "\"\\u12g4\"",
                           "\"\\ud800\"",
                           "\"\\udc00\"",
                           "\"\\ud800\\u0041\"",
                           "\"a",
                           "\"\n\"",
                           "1 2",
                           "// c\n1",
                           "\"\xff\"",
                           "\"\xc0\xaf\"",
                           "\"\xed\xa0\x80\"",
                           "1e999",
                           "{\"a\":1,\"a\":2}",
                           "\xef\xbb\xbf{}"}) {
    EXPECT_THROW(parse(text, "f.json"), CorruptFile) << text;
  }
}

TEST(Json, SaysFileAndByteOfAFault) {
  EXPECT_EQ(refusal("{\"a\": [1, x]}"), "f.json: not valid JSON at byte 10: expected a value");
  EXPECT_EQ(refusal("[1"), "f.json: not valid JSON at byte 2: expected ], the text ends");
}

TEST(Json, RefusesNestingThatCouldExhaustTheStack) {
  EXPECT_NO_THROW(parse(std::string(kDepth, '[') + std::string(kDepth, ']'), "f"));
  EXPECT_NE(refusal(std::string(1'000'000, '[')).find("nested more than 64 deep"),
            std::string::npos);
}

TEST(Fields, NameMemberExpectationAndWhatCame) {
  const Value v = parse(R"({"layers": "six", "eps": -1, "on": 1, "null": null})", "f.json");
  const Fields fields(v, "f.json");
  const auto message = [](auto&& call) -> std::string {
    try {
      call();
    } catch (const CorruptFile& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message([&] { fields.integer("layers", 1, 9); }),
            "f.json: layers is \"six\", expected an integer from 1 to 9");
  EXPECT_EQ(message([&] { fields.positive("eps"); }),
            "f.json: eps is -1, expected a number above 0");
  EXPECT_EQ(message([&] { fields.boolean("on", false); }),
            "f.json: on is 1, expected true or false");
  EXPECT_EQ(message([&] { fields.string("gone"); }), "f.json: gone is missing");
  EXPECT_EQ(fields.integer("null", 1, 9, 7), 7);
  EXPECT_TRUE(fields.has("null"));
  EXPECT_FALSE(fields.has("gone"));
}

}  // namespace
}  // namespace fusedlm::json
