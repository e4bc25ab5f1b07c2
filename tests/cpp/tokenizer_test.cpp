// The tokenizer's parts: how text is cut, in what order pairs merge, normal form C, and which files are
// refused. That ids are those of the `tokenizers` library is tests/engine/test_tokenizer.py's to say.

#include "fusedlm/tokenizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/bpe.h"
#include "engine/pre_tokenizer.h"
#include "engine/unicode.h"
#include "engine/utf8.h"
#include "files.h"
#include "threads.h"

namespace fusedlm::test {
namespace {

using Words = std::vector<std::string>;
using Kind = SplitStep::Kind;

Words words(const std::vector<SplitStep>& steps, std::string_view text) {
  Words list;
  Splitter(steps, [&](std::string_view word) { list.emplace_back(word); }).split(text);
  return list;
}

TEST(Splitter, CutsAsGpt2Does) {
  const std::vector<SplitStep> gpt2 = {{Kind::gpt2}};
  EXPECT_EQ(words(gpt2, "I'll say it's 42!"), (Words{"I", "'ll", " say", " it", "'s", " 42", "!"}));
  EXPECT_EQ(words(gpt2, "IT'S"), (Words{"IT", "'", "S"}));
  EXPECT_EQ(words(gpt2, "a   b\n\nc  "), (Words{"a", "  ", " b", "\n", "\n", "c", "  "}));
  EXPECT_EQ(words(gpt2, "\u4f60\u597d, \u00fcb\u00fc\u00b2"),
            (Words{"\u4f60\u597d", ",", " \u00fcb\u00fc", "\u00b2"}));
  EXPECT_EQ(words(gpt2, ""), Words{});
}

TEST(Splitter, CutsAsLlama3AndQwen2Do) {
  const std::vector<SplitStep> llama3 = {{Kind::llama3, 3}}, qwen2 = {{Kind::llama3, 1}};
  EXPECT_EQ(words(llama3, "IT'S 12345.\r\n\n x"),
            (Words{"IT", "'S", " ", "123", "45", ".\r\n\n", " x"}));
  EXPECT_EQ(words(qwen2, "a 123"), (Words{"a", " ", "1", "2", "3"}));
  EXPECT_EQ(words(llama3, "\tx (y) \n \n  z"), (Words{"\tx", " (", "y", ")", " \n \n", " ", " z"}));
}

TEST(Splitter, CutsAsTekkenDoes) {
  const std::vector<SplitStep> tekken = {{Kind::tekken}};
  EXPECT_EQ(words(tekken, "HelloWorld HTTPServer"), (Words{"Hello", "World", " HTTPServer"}));
  EXPECT_EQ(words(tekken, "it's 123"), (Words{"it", "'s", " ", "1", "2", "3"}));
  // What has no case goes with either; where nothing lower follows, the capital is given back.
  EXPECT_EQ(words(tekken, "\u4f60A\u4f60a \u4f60A"), (Words{"\u4f60A\u4f60a", " \u4f60", "A"}));
  EXPECT_EQ(words(tekken, "e\u0301E\u0301e"), (Words{"e\u0301", "E\u0301e"}));
  EXPECT_EQ(words(tekken, " ?!\n//\n x"), (Words{" ?!\n//\n", " x"}));
  EXPECT_EQ(words(tekken, "\u0301 \n b"), (Words{"\u0301", " \n", " b"}));
}

TEST(Splitter, LeavesBytesThatAreNoUtf8InTheirWord) {
  EXPECT_EQ(words({{Kind::gpt2}}, "a\xff\xfe b"), (Words{"a", "\xff\xfe", " b"}));
}

TEST(Splitter, StepsCutThePiecesOfTheStepBefore) {
  const std::vector<SplitStep> smollm = {{Kind::digits}, {Kind::gpt2}};
  EXPECT_EQ(words(smollm, "a  12 b"), (Words{"a", "  ", "1", "2", " b"}));
  EXPECT_EQ(words({{Kind::prefix}, {Kind::gpt2}}, "a b"), (Words{" a", " b"}));
  EXPECT_EQ(words({{Kind::characters}}, "a\u00e9"), (Words{"a", "\u00e9"}));
}

TEST(Nfc, ComposesOrdersAndLeavesTheRest) {
  using unicode::nfc;
  EXPECT_EQ(nfc("plain, \u00e9"), "plain, \u00e9");
  EXPECT_EQ(nfc("e\u0301"), "\u00e9");
  EXPECT_EQ(nfc("q\u0307\u0323"), "q\u0323\u0307");         // marks in canonical order
  EXPECT_EQ(nfc("o\u0302\u0323"), "\u1ed9");                // through an order that differs
  EXPECT_EQ(nfc("\u1112\u1161\u11ab"), "\ud55c");           // Hangul
  EXPECT_EQ(nfc("\u212b\u2126"), "\u00c5\u03a9");           // singletons
  EXPECT_EQ(nfc("\u0958"), "\u0915\u093c");                 // never composed again
  EXPECT_EQ(nfc("e\u0301\xff\u0301"), "\u00e9\xff\u0301");  // no UTF-8
}

TEST(Bpe, MergesTheEarliestRuleFirstAndTheLeftmostOfEquals) {
  ByteTokens bytes;
  bytes.fill(-1);
  bytes['a'] = 0, bytes['b'] = 1, bytes['c'] = 2;
  MergeTable merges;
  merges.reserve(4);
  merges.add(1, 2, {0, 3});  // bc
  merges.add(0, 1, {1, 4});  // ab
  merges.add(0, 0, {2, 5});  // aa
  merges.add(5, 0, {3, 6});  // aaa
  BpeMerger merger(merges);
  const auto merged = [&](const char* word) {
    std::vector<int32_t> smallest, ids;
    append_bytes(word, bytes, -1, smallest);
    merger.merge(smallest, ids);
    return ids;
  };
  EXPECT_EQ(merged("abc"), (std::vector<int32_t>{0, 3}));
  EXPECT_EQ(merged("abab"), (std::vector<int32_t>{4, 4}));
  EXPECT_EQ(merged("aaa"), (std::vector<int32_t>{6}));
  EXPECT_EQ(merged("aaaaa"), (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(merged("axb"), (std::vector<int32_t>{4}));  // a byte without a token vanishes
  EXPECT_EQ(merged(""), (std::vector<int32_t>{}));
}

std::string tokenizer_json(const std::string& model, const std::string& more = "") {
  return R"({"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"})" +
         (more.empty() ? "" : "," + more) + R"(,"model":{"type":"BPE",)" + model + "}}";
}
const std::string kModel =
    R"("vocab":{"a":0,"b":1,"ab":2,"\u0120":3,"\u0120ab":4,"\u00c3":5,"\u00a9":6},"merges":["a b","\u0120 ab"])";
const std::string kAdded =
    R"("added_tokens":[{"id":7,"content":"<e>","special":true},{"id":8,"content":"<e><e>","special":true}])";

class TokenizerFile : public ::testing::Test {
 protected:
  std::shared_ptr<const Tokenizer> load(const std::string& text) {
    folder_.write("tokenizer.json", text);
    return Tokenizer::load(folder_.path());
  }
  template <class E = CorruptFile>
  std::string refusal(const std::string& text) {
    return message_of<E>([&] { load(text); });
  }
  Folder folder_;
};
using Ids = std::vector<int32_t>;

TEST_F(TokenizerFile, EncodesAndDecodesBytes) {
  const auto tokenizer = load(tokenizer_json(kModel));
  EXPECT_EQ(tokenizer->encode("ab ab\u00e9"), (Ids{2, 4, 5, 6}));
  EXPECT_EQ(tokenizer->decode(Ids{2, 4, 5, 6}), "ab ab\u00e9");
  EXPECT_EQ(tokenizer->decode(Ids{5}), "\xc3");  // half a character
  EXPECT_EQ(tokenizer->id_of("\u0120ab"), 4);
  EXPECT_EQ(tokenizer->id_of("nothing"), -1);
  EXPECT_EQ(tokenizer->vocab_size(), 7);
  expect_says(message_of<InvalidArgument>([&] { tokenizer->decode(Ids{7}); }),
              "holds 7, expected 0 to 6");
}

TEST_F(TokenizerFile, ServesFourThreadsAtOnce) {
  const auto tokenizer = load(tokenizer_json(kModel, kAdded));
  std::string texts[4];  // words in another order each, some that come again
  for (int i = 0; i < 4; ++i) {
    for (int word = 0; word < 300; ++word) {
      texts[i] += std::string(static_cast<size_t>((word * (2 * i + 1)) % 7 + 1), "ab"[word % 2]);
      texts[i] += word % 5 == i ? "<e>" : " ab";
    }
  }
  std::vector<Ids> ids[4];
  in_threads(4, [&](int i) {
    for (int round = 0; round < 50; ++round) ids[i].push_back(tokenizer->encode(texts[i]));
  });
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(tokenizer->decode(ids[i][0], false), texts[i]);
    for (const Ids& found : ids[i]) EXPECT_EQ(found, tokenizer->encode(texts[i]));
  }
}

TEST_F(TokenizerFile, FindsTheLongestAddedTokenAndLeavesSpecialOnesOutOnRequest) {
  const auto tokenizer = load(tokenizer_json(kModel, kAdded));
  EXPECT_EQ(tokenizer->encode("a<e><e><e>b"), (Ids{0, 8, 7, 1}));
  EXPECT_EQ(tokenizer->encode("a<e>b", false), (Ids{0, 1}));  // no token for < e >
  EXPECT_EQ(tokenizer->decode(Ids{0, 7, 1}), "ab");
  EXPECT_EQ(tokenizer->decode(Ids{0, 7, 1}, false), "a<e>b");
}

TEST_F(TokenizerFile, WhatDoesNotFitTogetherIsNamed) {
  const std::string vocab = R"("vocab":{"a":0,"b":1},)";
  expect_says(refusal(tokenizer_json(vocab + R"("merges":["a b"])")), "needs the token \"ab\"");
  expect_says(refusal(tokenizer_json(vocab + R"("merges":["a b c"])")), "expected two tokens");
  expect_says(refusal(tokenizer_json(vocab + R"("merges":[["a"]])")), "expected two tokens");
  expect_says(refusal(tokenizer_json(R"("vocab":{"a":4000000000},"merges":[])")),
              "has the id 4000000000");
  expect_says(refusal(tokenizer_json(R"("vocab":{"a":-1},"merges":[])")), "has the id -1");
  expect_says(refusal(tokenizer_json(R"("vocab":{"a":"x"},"merges":[])")), "has the id \"x\"");
  expect_says(refusal(tokenizer_json(R"("vocab":{"a":1,"b":1},"merges":[])")),
              "token \"b\" has the id 1, which another token has");
  expect_says(refusal(tokenizer_json(kModel, R"("added_tokens":[{"id":6,"content":"<e>"}])")),
              "token \"<e>\" has the id 6, which another token has");
  expect_says(refusal(tokenizer_json(kModel, R"("added_tokens":[{"id":1,"content":"a"}])")),
              "in the vocabulary it has 0");
  expect_says(refusal(tokenizer_json(kModel, R"("added_tokens":[{"id":9,"content":""}])")),
              "is empty");
  expect_says(refusal("{}"), "model is missing");
}

TEST_F(TokenizerFile, WhatIsNotSupportedIsNamed) {
  const auto refused = [&](const std::string& more) {
    return refusal<Unsupported>(tokenizer_json(kModel, more));
  };
  expect_says(refused(R"("normalizer":{"type":"Lowercase"})"), "Lowercase");
  expect_says(refused(R"("post_processor":{"type":"BertProcessing"})"), "BertProcessing");
  expect_says(refused(R"("added_tokens":[{"id":9,"content":"x","single_word":true}])"),
              "single_word");
  expect_says(refusal<Unsupported>(tokenizer_json(kModel + R"(,"byte_fallback":true)")),
              "byte_fallback");
}

TEST_F(TokenizerFile, GgufCarriesATokenizerToo) {
  Gguf gguf;
  gguf.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "smollm");
  gguf.strings("tokenizer.ggml.tokens", {"<end>", "a", "b", "ab", "1"});
  gguf.strings("tokenizer.ggml.merges", {"a b"});
  std::string types = raw(uint32_t{5}) + raw(uint64_t{5}) + raw(int32_t{3});
  for (int i = 0; i < 4; ++i) types += raw(int32_t{1});
  gguf.add("tokenizer.ggml.token_type", 9, types);
  const auto tokenizer = Tokenizer::load(folder_.write("a.gguf", gguf.file()));
  EXPECT_EQ(tokenizer->encode("ab<end>11"), (Ids{3, 0, 4, 4}));
  EXPECT_EQ(tokenizer->decode(Ids{3, 0}), "ab");
  EXPECT_FALSE(tokenizer->bos_id().has_value());
}

std::string typed(const std::vector<int32_t>& types) {
  std::string list = raw(uint32_t{5}) + raw(uint64_t{types.size()});
  for (int32_t type : types) list += raw(type);
  return list;
}
std::string scored(const std::vector<float>& scores) {
  std::string list = raw(uint32_t{6}) + raw(uint64_t{scores.size()});
  for (float score : scores) list += raw(score);
  return list;
}

class SentencePieceFile : public TokenizerFile {
 protected:
  // 0 unknown, 1 control, 2 byte; then letters, and what they join to.
  const std::vector<std::string> tokens_ = {"<unk>", "<s>", "<0x0A>", "\u2581", "a",
                                            "b",     "ab",  "ba",     "aba",    "\u2581a"};
  std::vector<int32_t> types_ = {2, 3, 6, 1, 1, 1, 1, 1, 1, 1};
  std::vector<float> scores_ = {0, 0, 0, -9, -9, -9, -1, -1, -2, -3};

  std::shared_ptr<const Tokenizer> gguf(bool prefix = true) {
    Gguf file;
    file.string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", tokens_);
    file.add("tokenizer.ggml.token_type", 9, typed(types_));
    file.add("tokenizer.ggml.scores", 9, scored(scores_));
    file.number("tokenizer.ggml.bos_token_id", 1);
    if (!prefix) file.add("tokenizer.ggml.add_space_prefix", 7, std::string(1, '\0'));
    return Tokenizer::load(folder_.write("a.gguf", file.file()));
  }
};

TEST_F(SentencePieceFile, TheHighestScoreJoinsFirstAndTheLeftmostOfEquals) {
  const auto tokenizer = gguf();
  EXPECT_EQ(tokenizer->encode("abab"), (Ids{3, 6, 6}));  // not a, ba, b
  EXPECT_EQ(tokenizer->encode("ba"), (Ids{3, 7}));
  EXPECT_EQ(tokenizer->encode("bab"), (Ids{3, 7, 5}));
  EXPECT_EQ(tokenizer->encode("aba"), (Ids{3, 8}));
  EXPECT_EQ(tokenizer->encode("a\n"), (Ids{9, 2}));
  EXPECT_EQ(tokenizer->encode("zz\u00e9b\xff"), (Ids{3, 0, 5, 0}));
  EXPECT_EQ(tokenizer->encode(""), Ids{});
  EXPECT_EQ(gguf(false)->encode("ab"), Ids{6});
  EXPECT_EQ(tokenizer->bos_id(), 1);
}

TEST_F(SentencePieceFile, OnlyTheSpaceBeforeATextIsLost) {
  const auto tokenizer = gguf();
  EXPECT_EQ(tokenizer->decode(Ids{1, 9, 2, 9, 3}), "a\n a ");
  EXPECT_EQ(tokenizer->decode(Ids{3}), "");
  EXPECT_EQ(gguf(false)->decode(Ids{9}), " a");
  TextStream text(tokenizer);
  EXPECT_EQ(text.add(Ids{1}), "");
  EXPECT_EQ(text.add(Ids{9}), "a");
  EXPECT_EQ(text.add(Ids{9}), " a");
}

TEST_F(SentencePieceFile, WhatDoesNotFitTogetherIsNamed) {
  const auto refusal = [&] { return message_of<CorruptFile>([&] { gguf(); }); };
  types_[4] = 6;
  expect_says(refusal(), "\"a\" is of the type of bytes, expected <0x00> to <0xFF>");
  types_.pop_back();
  expect_says(refusal(), "token_type has 9 entries, expected 10");
  types_.assign(10, 1);
  scores_[3] = NAN;
  expect_says(refusal(), "tokenizer.ggml.scores holds nan, expected finite numbers");
  scores_.pop_back();
  scores_[3] = 0;
  expect_says(refusal(), "scores has 9 entries, expected 10");
}

TEST_F(TokenizerFile, ATokenThatIsTooLongToMergeIsRefused) {
  Gguf gguf;
  gguf.string("tokenizer.ggml.model", "llama");
  gguf.strings("tokenizer.ggml.tokens", {std::string(513, 'a')});
  gguf.add("tokenizer.ggml.scores", 9, scored({0}));
  expect_says(
      message_of<Unsupported>([&] { Tokenizer::load(folder_.write("a.gguf", gguf.file())); }),
      "token 0 has 513 characters, expected at most 512");
}

TEST_F(TokenizerFile, AStreamHoldsBackCharactersThatAreNotWhole) {
  const auto tokenizer = load(tokenizer_json(kModel));
  TextStream text(tokenizer);
  EXPECT_EQ(text.add(Ids{3, 5}), " ");  // the first byte of two
  EXPECT_EQ(text.add({}), "");
  EXPECT_EQ(text.add(Ids{6}), "\u00e9");
  EXPECT_EQ(text.add(Ids{6}), "\xa9");  // begins no character
  EXPECT_EQ(text.add(Ids{5}), "");
  EXPECT_FALSE(message_of<InvalidArgument>([&] { text.add(Ids{0, 7}); }).empty());
  EXPECT_EQ(text.add(Ids{5}), "\xc3");  // the one before stays alone
  EXPECT_EQ(text.finish(), "\xc3");
  EXPECT_EQ(text.finish(), "");
}

TEST(Utf8, CountsTheBytesOfAnUnfinishedCharacter) {
  using utf8::unfinished;
  EXPECT_EQ(unfinished(""), 0u);
  EXPECT_EQ(unfinished("a\u00e9\u4f60\U0001f600"), 0u);
  EXPECT_EQ(unfinished("a\xf0\x9f\x98"), 3u);
  EXPECT_EQ(unfinished("a\xf0\x9f"), 2u);
  EXPECT_EQ(unfinished("\xe4"), 1u);
  EXPECT_EQ(unfinished("\xe0\xa0"), 2u);
  EXPECT_EQ(unfinished("\xe0\x80"), 0u);  // overlong
  EXPECT_EQ(unfinished("\xed\xa0"), 0u);  // a surrogate
  EXPECT_EQ(unfinished("\xf4\x90"), 0u);  // beyond U+10FFFF
  EXPECT_EQ(unfinished("\xff"), 0u);
  EXPECT_EQ(unfinished("\x80\x80\x80\x80"), 0u);
}

TEST_F(TokenizerFile, GgufOfAnotherKindIsRefusedByName) {
  Gguf gguf;
  gguf.string("tokenizer.ggml.model", "t5");
  expect_says(
      message_of<Unsupported>([&] { Tokenizer::load(folder_.write("a.gguf", gguf.file())); }),
      "tokenizer.ggml.model is \"t5\"");
}

}  // namespace
}  // namespace fusedlm::test
