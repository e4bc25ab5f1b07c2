// Models from GGUF files, and the rates of rotary positions.

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <numbers>

#include "fusedlm/model.h"
#include "small_llama.h"

namespace fusedlm::test {
namespace {

Gguf gguf_of(const std::string& arch, const Tensors& tensors) {
  Gguf g;
  g.string("general.architecture", arch).number(arch + ".block_count", L);
  g.number(arch + ".context_length", 32).number(arch + ".embedding_length", C);
  g.number(arch + ".feed_forward_length", F).number(arch + ".attention.head_count", H);
  g.number(arch + ".attention.head_count_kv", G).real(arch + ".rope.freq_base", 5000.0f);
  g.real(arch + ".attention.layer_norm_rms_epsilon", 1e-5f);
  for (const auto& [name, tensor] : tensors) g.tensor(name, tensor.shape, tensor.bytes);
  return g;
}

class GgufModel : public ::testing::Test {
 protected:
  std::shared_ptr<const Model> load(const Gguf& gguf) {
    return Model::load(folder_.write("model.gguf", gguf.file()));
  }
  Folder folder_;
};

TEST_F(GgufModel, LlamaTurnsItsHeadsInterleaved) {
  Gguf gguf = gguf_of("llama", llama_tensors(kGguf));
  gguf.string("general.name", "tiny").number("tokenizer.ggml.eos_token_id", 2);
  gguf.number("tokenizer.ggml.eot_token_id", 4).number("tokenizer.ggml.bos_token_id", 1);
  const auto model = load(gguf);
  EXPECT_TRUE(model->config.rope_interleaved);
  EXPECT_EQ(model->config.rope_base, 5000);
  EXPECT_EQ(model->config.vocab_size, V);
  EXPECT_EQ(model->config.eos_ids, (std::vector<int32_t>{2, 4}));
  EXPECT_EQ(model->config.bos_id, 1);
  EXPECT_EQ(model->metadata.at("general.name"), "tiny");
  EXPECT_EQ(model->metadata.at("llama.block_count"), "2");
  EXPECT_EQ(value(model->layers[1].qkv[1], 0, 1), 2200.25f);
  EXPECT_EQ(value(model->head, 0, 0), 200);
}

#ifdef __linux__
TEST_F(GgufModel, MatricesStayWhereTheyLieInTheFile) {
  const auto model = load(gguf_of("llama", llama_tensors(kGguf)));
  const std::string file = std::filesystem::canonical(folder_ / "model.gguf");
  for (const Weight& w : matrices_of(*model)) EXPECT_EQ(file_mapped_at(w.data), file);
}
#endif

TEST_F(GgufModel, WithoutAnOutputMatrixTheHeadIsTied) {
  const auto model = load(gguf_of("llama", llama_tensors(kGguf, true)));
  EXPECT_EQ(model->head.data, model->embedding.data);
}

TEST_F(GgufModel, QwenTurnsItsHeadsInHalvesAndNeedsItsOwnTensors) {
  Tensors tensors = llama_tensors(kGguf);
  expect_says(message_of<CorruptFile>([&] { load(gguf_of("qwen2", tensors)); }),
              "blk.1.attn_v.bias");
  expect_says(message_of<CorruptFile>([&] { load(gguf_of("qwen3", tensors)); }),
              "blk.1.attn_k_norm.weight");
  for (index_t i = 0; i < L; ++i) {
    tensors[at("blk.{}.attn_q.bias", i)] = numbered({H * D}, 1);
    tensors[at("blk.{}.attn_k.bias", i)] = numbered({G * D}, 2);
    tensors[at("blk.{}.attn_v.bias", i)] = numbered({G * D}, 3);
  }
  const auto model = load(gguf_of("qwen2", tensors));
  EXPECT_FALSE(model->config.rope_interleaved);
  EXPECT_EQ(model->layers[0].qkv_bias[1][1], 2.25f);
}

TEST_F(GgufModel, FactorsOfTheFrequenciesAreATensor) {
  Tensors tensors = llama_tensors(kGguf);
  tensors["rope_freqs.weight"] = {{1}, raw(4.0f)};
  const auto model = load(gguf_of("llama", tensors));
  EXPECT_EQ(model->config.rope_scaling.factors, (std::vector<float>{4.0f}));
  EXPECT_EQ(rope_rates(model->config), (std::vector<double>{0.25}));
}

TEST_F(GgufModel, AFactorOfTheRopeIsLinearUnlessItsTypeIsNone) {
  const Tensors tensors = llama_tensors(kGguf);
  const std::string type = "llama.rope.scaling.type", factor = "llama.rope.scaling.factor";
  const auto rates = [&](Gguf gguf) { return rope_rates(load(gguf)->config); };
  const auto plain = gguf_of("llama", tensors);
  EXPECT_EQ(rates(plain), (std::vector<double>{1.0}));
  EXPECT_EQ(rates(Gguf(plain).string(type, "linear").real(factor, 4)), (std::vector<double>{0.25}));
  EXPECT_EQ(rates(Gguf(plain).real(factor, 4)), (std::vector<double>{0.25}));
  EXPECT_EQ(rates(Gguf(plain).real("llama.rope.scale_linear", 4)), (std::vector<double>{0.25}));
  EXPECT_EQ(rates(Gguf(plain).string(type, "none").real(factor, 4)), (std::vector<double>{1.0}));
}

TEST_F(GgufModel, FactorsOfTheFrequenciesDoNotGoWithALinearScaling) {
  Tensors tensors = llama_tensors(kGguf);
  tensors["rope_freqs.weight"] = {{1}, raw(4.0f)};
  const auto both = gguf_of("llama", tensors).real("llama.rope.scaling.factor", 2);
  expect_says(message_of<Unsupported>([&] { load(both); }), "both rope_freqs.weight");
  const auto none = Gguf(both).string("llama.rope.scaling.type", "none");
  EXPECT_EQ(rope_rates(load(none)->config), (std::vector<double>{0.25}));
}

TEST_F(GgufModel, AllMissingTensorsAreNamedAtOnceTheEmbeddingAmongThem) {
  for (const bool tied : {false, true}) {
    Tensors tensors = llama_tensors(kGguf, tied);
    for (const char* name : {"token_embd.weight", "output_norm.weight", "blk.1.ffn_up.weight"})
      tensors.erase(name);
    Gguf gguf = gguf_of("llama", tensors);
    gguf.number("tokenizer.ggml.eos_token_id", 2);
    try {
      load(gguf);
      FAIL() << "it was read";
    } catch (const CorruptFile& error) {
      expect_says(error.what(),
                  "missing: token_embd.weight, output_norm.weight, blk.1.ffn_up.weight");
    }
  }
}

TEST_F(GgufModel, WhatTheEngineCannotComputeIsRefusedByName) {
  const Tensors tensors = llama_tensors(kGguf);
  const auto refusal = [&](Gguf gguf) { return message_of<Unsupported>([&] { load(gguf); }); };
  expect_says(refusal(gguf_of("llama", tensors).number("llama.expert_count", 8)), "expert_count");
  expect_says(refusal(gguf_of("llama", tensors).string("llama.rope.scaling.type", "longrope")),
              "longrope");
  expect_says(refusal(gguf_of("llama", tensors).number("llama.rope.dimension_count", 1)),
              "a part of each head");
  expect_says(refusal(gguf_of("falcon", tensors)), "falcon");
}

TEST(RopeRates, FollowTheFormulaOfEachScaling) {
  DecoderConfig c;
  c.head_width = 8;
  c.rope_base = 10000;
  const std::vector<double> plain = rope_rates(c);
  EXPECT_EQ(plain[0], 1.0);
  EXPECT_NEAR(plain[1], 0.1, 1e-15);
  c.rope_scaling = {RopeScaling::Kind::linear, 4};
  EXPECT_EQ(rope_rates(c)[0], 0.25);
  // Waves that turn often within the context stay, those that hardly turn are stretched, and between
  // it is a blend.
  c.rope_scaling = {RopeScaling::Kind::llama3, 8, 1, 4, 128};
  const std::vector<double> rates = rope_rates(c);
  EXPECT_EQ(rates[0], 1.0);
  const double share = (128 * 0.1 / (2 * std::numbers::pi) - 1) / 3;
  EXPECT_NEAR(rates[1], 0.1 * (share + (1 - share) / 8), 1e-15);
  EXPECT_NEAR(rates[3], plain[3] / 8, 1e-18);
  // Pair 0 turns more than beta_fast times within the context, pair 3 less than beta_slow times.
  c.rope_scaling = {.kind = RopeScaling::Kind::yarn, .factor = 4, .original_context = 512};
  c.rope_scaling.beta_fast = 16;
  const std::vector<double> yarn = rope_rates(c);
  EXPECT_EQ(yarn[0], 1.0);
  EXPECT_NEAR(yarn[1], plain[1] * (0.5 + 0.5 / 4), 1e-15);
  EXPECT_NEAR(yarn[3], plain[3] / 4, 1e-18);
}

TEST(RopeRates, RefuseAShapeThatCannotBe) {
  DecoderConfig c;
  c.head_width = -2;
  EXPECT_EQ(message_of<InvalidArgument>([&] { rope_rates(c); }),
            "rope_rates: head_width is -2, expected at least 0");
  c.head_width = 8;
  c.rope_scaling.kind = RopeScaling::Kind::factors;
  c.rope_scaling.factors = {1, 2, 3};
  EXPECT_EQ(message_of<InvalidArgument>([&] { rope_rates(c); }),
            "rope_rates: rope_scaling has 3 factors, expected head_width / 2 = 4");
}

}  // namespace
}  // namespace fusedlm::test
