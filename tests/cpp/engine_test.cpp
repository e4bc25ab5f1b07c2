// The engine against a reference in double, and the rules that the generator relies on.

#include "fusedlm/engine.h"

#include "small_decoder.h"

namespace fusedlm::test {
namespace {

using Logits = Engine::Logits;
using Tokens = std::vector<int32_t>;

/// Logits of one append, [rows][V].
std::vector<float> forward(Engine& engine, Engine::Sequence sequence,
                           std::span<const int32_t> tokens, Logits logits = Logits::all) {
  const auto rows = logits == Logits::all ? static_cast<index_t>(tokens.size())
                                          : static_cast<index_t>(logits == Logits::last);
  std::vector<float> out(static_cast<size_t>(rows * engine.model().config.vocab_size), NAN);
  const Engine::Append append{sequence, tokens, logits};
  engine.forward({&append, 1}, out);
  return out;
}

std::vector<float> last_row(const std::vector<float>& logits, index_t V) {
  return {logits.end() - V, logits.end()};
}

/// The largest error relative to the largest logit.
double error_of(const std::vector<float>& logits, const Matrix& truth, index_t first_row = 0) {
  double error = 0, scale = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double t = truth.values[static_cast<size_t>(first_row * truth.columns) + i];
    error = std::max(error, std::isfinite(logits[i]) ? std::abs(logits[i] - t) : INFINITY);
    scale = std::max(scale, std::abs(t));
  }
  return error / scale;
}

const std::vector<SmallDecoder>& decoders() {
  static const auto* all = [] {
    auto* list = new std::vector<SmallDecoder>;
    list->emplace_back("llama", llama_config(), Extras{});
    list->emplace_back("gpt2", gpt2_config(), Extras{.bias = true});
    DecoderConfig c = llama_config();
    c.windows = {0, 20};
    list->emplace_back("mistral", c, Extras{.tied = false});
    c = llama_config();
    c.rope_interleaved = true;
    c.rope_scaling = {.kind = RopeScaling::Kind::llama3, .factor = 8, .original_context = 64};
    c.activation = Activation::gelu;
    list->emplace_back("interleaved, scaled", c, Extras{.bias = true});
    c = llama_config();
    c.head_width = 24;  // heads wider than the model, no whole vectors
    c.kv_heads = 1;
    list->emplace_back("qwen3", c, Extras{.qk_norm = true, .tied = false});
    return list;
  }();
  return *all;
}
const SmallDecoder& llama() { return decoders()[0]; }

TEST(Engine, LogitsEqualTheReferenceInFloat32) {
  on_every_isa([] {
    if (current_isa() == Isa::simt) return;
    for (const SmallDecoder& d : decoders()) {
      SCOPED_TRACE(d.name);
      const Tokens tokens = random_tokens(100, d.config.vocab_size, 1);
      const Matrix truth = reference_logits(d, tokens);
      for (const index_t piece : {1, 7, 16, 100}) {
        Engine engine(d.model, {.dtype = DType::float32});
        const auto sequence = engine.open();
        double error = 0;
        for (index_t at = 0; at < 100; at += piece) {
          const index_t count = std::min<index_t>(piece, 100 - at);
          error = std::max(
              error,
              error_of(forward(engine, sequence, std::span(tokens).subspan(at, count)), truth, at));
        }
        EXPECT_LT(error, 1e-5) << "in pieces of " << piece;
      }
    }
  });
}

TEST(Engine, LogitsAreCloseToTheReferenceInBfloat16) {
  on_every_isa([] {
    if (current_isa() == Isa::simt) return;
    for (const SmallDecoder& d : decoders()) {
      SCOPED_TRACE(d.name);
      const Tokens tokens = random_tokens(100, d.config.vocab_size, 1);
      const Matrix truth = reference_logits(d, tokens);
      for (const index_t piece : {1, 100}) {
        Engine engine(d.model);
        const auto sequence = engine.open();
        double error = 0;
        for (index_t at = 0; at < 100; at += piece) {
          error = std::max(
              error,
              error_of(forward(engine, sequence, std::span(tokens).subspan(at, piece)), truth, at));
        }
        EXPECT_LT(error, 0.03) << "in pieces of " << piece;
      }
    }
  });
}

// Up to 16 tokens in a call.
TEST(Engine, FewTokensGetTheSameBitsHoweverTheyAreCutAndWhateverIsBesideThem) {
  on_every_isa([] {
    if (current_isa() == Isa::simt) return;
    for (const DType dtype : kFloatTypes) {
      const SmallDecoder& d = llama();
      const Tokens a = random_tokens(40, d.config.vocab_size, 1),
                   b = random_tokens(40, d.config.vocab_size, 2);
      Engine engine(d.model, {.dtype = dtype});
      std::vector<float> alone;
      const auto first = engine.open();
      for (const int32_t& token : a) {
        const auto row = forward(engine, first, {&token, 1});
        alone.insert(alone.end(), row.begin(), row.end());
      }
      engine.close(first);
      const auto x = engine.open(), y = engine.open();
      std::vector<float> beside;
      const std::span<const int32_t> whole(a), other(b);
      for (index_t at = 0; at < 40; at += 8) {
        std::vector<float> out(static_cast<size_t>(9 * d.config.vocab_size));
        const Engine::Append appends[] = {{y, other.subspan(at, 5), Logits::last},
                                          {x, whole.subspan(at, 8), Logits::all}};
        engine.forward(appends, out);
        beside.insert(beside.end(), out.begin() + d.config.vocab_size, out.end());
      }
      EXPECT_EQ(alone, beside);
    }
  });
}

TEST(Engine, ManyTokensGetTheSameBitsWhateverIsBesideThem) {
  for (const DType dtype : kFloatTypes) {
    const SmallDecoder& d = llama();
    const index_t V = d.config.vocab_size;
    const Tokens a = random_tokens(96, V, 1), b = random_tokens(60, V, 2);
    Engine engine(d.model, {.dtype = dtype});
    const auto alone = forward(engine, engine.open(), a);
    const auto x = engine.open(), y = engine.open();
    std::vector<float> out(static_cast<size_t>(65 * V)), rest(static_cast<size_t>(32 * V));
    const Engine::Append appends[] = {{y, b, Logits::last},
                                      {x, std::span(a).first(64), Logits::all}};
    engine.forward(appends, out);
    const Engine::Append last{x, std::span(a).last(32), Logits::all};
    engine.forward({&last, 1}, rest);
    out.erase(out.begin(), out.begin() + V);
    out.insert(out.end(), rest.begin(), rest.end());
    EXPECT_EQ(alone, out);
  }
}

TEST(Engine, TheLastLogitsOfManyTokensAreTheSameBitsWhateverIsBesideThem) {
  for (const DType dtype : kFloatTypes) {
    const SmallDecoder& d = llama();
    const index_t V = d.config.vocab_size;
    const Tokens a = random_tokens(50, V, 1), b = random_tokens(60, V, 2);
    Engine engine(d.model, {.dtype = dtype, .cache_tokens = 1024});
    const auto alone = forward(engine, engine.open(), a, Logits::last);
    for (const Logits beside : {Logits::none, Logits::last}) {
      std::vector<float> out(static_cast<size_t>((beside == Logits::none ? 1 : 5) * V));
      std::vector<Engine::Append> appends(4, {0, b, beside});
      for (Engine::Append& append : appends) append.sequence = engine.open();
      appends.insert(appends.begin() + 2, {engine.open(), a, Logits::last});
      engine.forward(appends, out);
      const auto row = out.begin() + (beside == Logits::none ? 0 : 2 * V);
      EXPECT_EQ(alone, std::vector<float>(row, row + V));
    }
  }
}

TEST(Engine, OneThreadAndTwoGiveTheSameBits) {
  const SmallDecoder& d = llama();
  const Tokens tokens = random_tokens(200, d.config.vocab_size, 3);
  expect_same_bits_for_one_and_two_threads([&] {
    std::vector<Buffer> results;
    if (current_isa() == Isa::simt) return results;
    Engine engine(d.model);
    const auto sequence = engine.open();
    for (const auto& part : {std::span(tokens).first(180), std::span(tokens).subspan(180, 9)}) {
      const auto logits = forward(engine, sequence, part);
      results.emplace_back(std::initializer_list<index_t>{static_cast<index_t>(logits.size())},
                           DType::float32, logits);
    }
    return results;
  });
}

TEST(Engine, ALongCallIsDoneInPieces) {
  const SmallDecoder& d = decoders()[2];
  const Tokens a = random_tokens(150, d.config.vocab_size, 1),
               b = random_tokens(90, d.config.vocab_size, 2);
  Engine engine(d.model, {.dtype = DType::float32, .prefill_tokens = 64});
  const Engine::Append appends[] = {{engine.open(), a, Logits::all},
                                    {engine.open(), b, Logits::last},
                                    {engine.open(), b, Logits::none},
                                    {engine.open(), b, Logits::all}};
  std::vector<float> out(static_cast<size_t>(241 * d.config.vocab_size));
  engine.forward(appends, out);
  const index_t V = d.config.vocab_size;
  const Matrix of_a = reference_logits(d, a), of_b = reference_logits(d, b);
  EXPECT_LT(error_of({out.begin(), out.begin() + 150 * V}, of_a), 1e-5);
  EXPECT_LT(error_of({out.begin() + 150 * V, out.begin() + 151 * V}, of_b, 89), 1e-5);
  EXPECT_LT(error_of({out.begin() + 151 * V, out.end()}, of_b), 1e-5);
}

TEST(Engine, ASharedPrefixGivesTheSameLogitsAndTakesNoMemory) {
  const SmallDecoder& d = llama();
  Engine engine(d.model);
  Tokens prompt = random_tokens(100, d.config.vocab_size, 1);
  const auto first = engine.open(prompt);
  EXPECT_EQ(engine.length(first), 0);
  forward(engine, first, std::span(prompt).first(96));
  const auto expected = forward(engine, first, std::span(prompt).last(4));
  const index_t free = engine.free_tokens();

  const auto living = engine.open(prompt);
  EXPECT_EQ(engine.length(living), 96);
  EXPECT_EQ(engine.free_tokens(), free);
  EXPECT_EQ(forward(engine, living, std::span(prompt).last(4)), expected);

  engine.close(first);
  engine.close(living);
  const auto closed = engine.open(prompt);
  EXPECT_EQ(engine.length(closed), 96);
  EXPECT_EQ(forward(engine, closed, std::span(prompt).last(4)), expected);

  EXPECT_EQ(engine.length(engine.open(std::span(prompt).first(96))), 64) << "never the last token";
  EXPECT_EQ(engine.length(engine.open(std::span(prompt).first(97))), 96);
  prompt[40] ^= 1;
  EXPECT_EQ(engine.length(engine.open(prompt)), 32) << "pages after another page are others";
  prompt[3] ^= 1;
  EXPECT_EQ(engine.length(engine.open(prompt)), 0);
}

TEST(Engine, WhatFollowsATruncationIsAsIfNothingElseHadBeen) {
  for (const index_t kept : {0, 1, 31, 32, 33, 50, 64}) {
    const SmallDecoder& d = llama();
    Engine engine(d.model, {.dtype = DType::float32});
    Tokens tokens = random_tokens(80, d.config.vocab_size, 1);
    const auto sequence = engine.open(), sharing = engine.open();
    const auto all = forward(engine, sequence, tokens);
    const auto other = engine.open(tokens);  // reads the pages that are cut
    engine.truncate(sequence, kept);
    EXPECT_EQ(engine.length(sequence), kept);
    Tokens changed(tokens.begin() + kept, tokens.end());
    for (int32_t& token : changed) token = (token + 1) % 71;
    Tokens text(tokens.begin(), tokens.begin() + kept);
    text.insert(text.end(), changed.begin(), changed.end());
    EXPECT_LT(error_of(forward(engine, sequence, changed), reference_logits(d, text), kept), 1e-5);
    // Neither the one that shares the pages nor one that finds them later sees what was written.
    const auto rest = forward(engine, other, std::span(tokens).subspan(engine.length(other)));
    EXPECT_LT(error_of(rest, reference_logits(d, tokens), 64), 1e-5);
    const auto found = engine.open(tokens);
    const index_t length = engine.length(found);
    EXPECT_LT(error_of(forward(engine, found, std::span(tokens).subspan(length)),
                       reference_logits(d, tokens), length),
              1e-5);
    (void)sharing, (void)all;
  }
}

TEST(Engine, WithoutFreePagesNothingChanges) {
  const SmallDecoder& d = llama();
  const index_t V = d.config.vocab_size;
  Engine engine(d.model, {.cache_tokens = 100});
  EXPECT_EQ(engine.options().cache_tokens, 128);
  EXPECT_EQ(engine.free_tokens(), 128);
  const Tokens tokens = random_tokens(120, V, 1);
  const auto a = engine.open(), b = engine.open();
  forward(engine, a, std::span(tokens).first(60));
  std::vector<float> out(static_cast<size_t>(2 * V));
  const Engine::Append appends[] = {{a, std::span(tokens).subspan(60, 10)},
                                    {b, std::span(tokens).first(40)}};
  EXPECT_EQ(message_of<OutOfMemory>([&] { engine.forward(appends, out); }),
            "engine: 3 pages of the cache are needed, but 2 are free (cache_tokens is 128)");
  EXPECT_EQ(engine.length(a), 60);
  EXPECT_EQ(engine.length(b), 0);
  EXPECT_EQ(engine.free_tokens(), 64);
  forward(engine, b, std::span(tokens).first(33));
  EXPECT_EQ(engine.free_tokens(), 0);
  engine.close(b);
  EXPECT_EQ(engine.free_tokens(), 64);
  forward(engine, a, std::span(tokens).subspan(60, 60));
}

TEST(Engine, PagesOfTheLongestClosedAreGivenOutFirst) {
  const SmallDecoder& d = llama();
  Engine engine(d.model, {.cache_tokens = 128});
  const Tokens a = random_tokens(33, d.config.vocab_size, 1),
               b = random_tokens(33, d.config.vocab_size, 2);
  const auto run = [&](const Tokens& tokens) {
    const auto sequence = engine.open(tokens);
    const index_t found = engine.length(sequence);
    forward(engine, sequence, std::span(tokens).subspan(found));
    engine.close(sequence);
    return found;
  };
  EXPECT_EQ(run(a), 0);
  EXPECT_EQ(run(b), 0);
  EXPECT_EQ(run(a), 32);
  const auto large = engine.open();
  forward(engine, large, random_tokens(70, d.config.vocab_size, 3));  // three pages
  engine.close(large);
  EXPECT_EQ(run(a), 32);
  EXPECT_EQ(run(b), 0);
}

TEST(Engine, BadArgumentsAreNamedAndNothingChanges) {
  const SmallDecoder& d = llama();
  const index_t V = d.config.vocab_size;
  EXPECT_EQ(message_of([&] { Engine(nullptr); }), "engine: model is missing");
  EXPECT_EQ(message_of([&] { Engine(d.model, {.dtype = DType::float16}); }),
            "engine: dtype is float16, expected float32 or bfloat16");
  EXPECT_EQ(message_of([&] { Engine(d.model, {.cache_tokens = -1}); }),
            "engine: cache_tokens is -1, expected at least 0");
  for (const index_t many : {INT64_MAX, INT64_MAX / 2, (index_t{INT32_MAX} + 1) * 32}) {
    EXPECT_EQ(message_of([&] { Engine(d.model, {.cache_tokens = many}); }),
              "engine: cache_tokens is " + std::to_string(many) + ", expected at most 68719476704");
  }
  EXPECT_EQ(message_of([&] { Engine(d.model, {.prefill_tokens = 63}); }),
            "engine: prefill_tokens is 63, expected at least 64");
  Engine engine(d.model);
  const auto sequence = engine.open();
  const Tokens tokens = random_tokens(5, V, 1), bad = {1, 71}, negative = {-1};
  std::vector<float> one(static_cast<size_t>(V));
  const auto error = [&](std::initializer_list<Engine::Append> appends, std::span<float> logits) {
    const std::vector<Engine::Append> list(appends);
    return message_of([&] { engine.forward(list, logits); });
  };
  EXPECT_EQ(error({{7, tokens}}, one), "engine: sequence 7 is not open");
  EXPECT_EQ(error({{sequence, tokens}, {sequence, tokens}}, one),
            "engine: sequence 0 is given twice");
  EXPECT_EQ(error({{sequence, {}}}, one),
            "engine: sequence 0 gets no token, expected at least one");
  EXPECT_EQ(error({{sequence, bad}}, one), "engine: tokens holds 71, expected 0 <= id < V = 71");
  EXPECT_EQ(error({{sequence, negative}}, one),
            "engine: tokens holds -1, expected 0 <= id < V = 71");
  EXPECT_EQ(error({{sequence, tokens, Logits::all}}, one),
            "engine: logits has 71 elements, expected 5 rows of V = 71");
  EXPECT_EQ(
      error({{sequence, random_tokens(257, V, 1)}}, one),
      "engine: sequence 0 has 0 tokens and would get 257 more, expected at most the context of "
      "256");
  EXPECT_EQ(message_of([&] { engine.open(bad); }),
            "engine: prompt holds 71, expected 0 <= id < V = 71");
  EXPECT_EQ(message_of([&] { engine.truncate(sequence, 1); }),
            "engine: length is 1, expected 0 to the 0 tokens of sequence 0");
  EXPECT_EQ(engine.length(sequence), 0);
  engine.close(sequence);
  EXPECT_EQ(message_of([&] { engine.close(sequence); }), "engine: sequence 0 is not open");
  EXPECT_EQ(message_of([&] { engine.length(sequence); }), "engine: sequence 0 is not open");
}

/// The matrices as `format` holds them.
void round_matrices(SmallDecoder& d, WeightFormat format) {
  Context& ctx = Context::current();
  for (auto& [name, tensor] : d.tensors) {
    const TensorView view = tensor.view();
    if (view.ndim != 2) continue;
    const index_t rows = view.shape[0], cols = view.shape[1];
    std::vector<uint8_t> data(static_cast<size_t>(row_bytes(format, cols) * rows));
    std::vector<float> scales(static_cast<size_t>(rows));
    float* row_scales = format == WeightFormat::int8 ? scales.data() : nullptr;
    quantize({view, format, data.data(), row_scales}, ctx);
    dequantize({{data.data(), row_scales, format, rows, cols}, 0, view}, ctx);
  }
}

TEST(Engine, QuantisedWeightsGiveTheLogitsOfWhatTheyHold) {
  const Tokens tokens = random_tokens(60, llama_config().vocab_size, 1);
  for (const WeightFormat format :
       {WeightFormat::bfloat16, WeightFormat::int8, WeightFormat::q8_0, WeightFormat::q4_0,
        WeightFormat::q4_1, WeightFormat::q4_k, WeightFormat::q6_k}) {
    SCOPED_TRACE(name_of(format));
    DecoderConfig c = llama_config();
    const bool wide = block_size(format) == 256;  // rows are whole blocks
    c.width = wide ? 256 : 64, c.ffn_width = wide ? 256 : 96, c.head_width = wide ? 64 : 16;
    const SmallDecoder d("", c, Extras{}, DType::float32, {.format = format});
    SmallDecoder rounded("", c, Extras{});
    round_matrices(rounded, format);
    const Matrix truth = reference_logits(rounded, tokens);
    for (const DType dtype : kFloatTypes) {
      for (const index_t piece : {60, 10}) {
        Engine engine(d.model, {.dtype = dtype});
        const auto sequence = engine.open();
        double error = 0;
        for (index_t at = 0; at < 60; at += piece) {
          const auto logits = forward(engine, sequence, std::span(tokens).subspan(at, piece));
          error = std::max(error, error_of(logits, truth, at));
        }
        EXPECT_LT(error, dtype == DType::float32 ? 1e-5 : 0.05) << "in pieces of " << piece;
      }
    }
  }
}

TEST(Engine, LastLogitsAreTheLastOfAll) {
  const SmallDecoder& d = llama();
  const index_t V = d.config.vocab_size;
  for (const index_t count : {9, 70}) {
    Engine engine(d.model, {.dtype = DType::float32});
    const Tokens tokens = random_tokens(count, V, 1);
    const auto all = forward(engine, engine.open(), tokens);
    EXPECT_EQ(forward(engine, engine.open(), tokens, Logits::last), last_row(all, V));
    EXPECT_TRUE(forward(engine, engine.open(), tokens, Logits::none).empty());
  }
}

}  // namespace
}  // namespace fusedlm::test
