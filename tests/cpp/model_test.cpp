// Models from every kind of source: what config and weights become, and that what is missing, misshapen or
// not supported is refused by name.

#include "fusedlm/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "files.h"
#include "fusedlm/device.h"

namespace fusedlm::test {
namespace {

constexpr index_t V = 11, C = 8, H = 4, G = 2, D = 2, F = 6, L = 2;

std::string at(const std::string& pattern, index_t layer) {
  std::string name = pattern;
  name.replace(name.find("{}"), 2, std::to_string(layer));
  return name;
}

/// A family's tensors under given names; every value is its own.
struct Names {
  std::string embedding, head, final_norm, attention_norm, ffn_norm, q, k, v, out, gate, up, down;
};
const Names kLlama{"model.embed_tokens.weight",
                   "lm_head.weight",
                   "model.norm.weight",
                   "model.layers.{}.input_layernorm.weight",
                   "model.layers.{}.post_attention_layernorm.weight",
                   "model.layers.{}.self_attn.q_proj.weight",
                   "model.layers.{}.self_attn.k_proj.weight",
                   "model.layers.{}.self_attn.v_proj.weight",
                   "model.layers.{}.self_attn.o_proj.weight",
                   "model.layers.{}.mlp.gate_proj.weight",
                   "model.layers.{}.mlp.up_proj.weight",
                   "model.layers.{}.mlp.down_proj.weight"};
const Names kGguf{"token_embd.weight",       "output.weight",          "output_norm.weight",
                  "blk.{}.attn_norm.weight", "blk.{}.ffn_norm.weight", "blk.{}.attn_q.weight",
                  "blk.{}.attn_k.weight",    "blk.{}.attn_v.weight",   "blk.{}.attn_output.weight",
                  "blk.{}.ffn_gate.weight",  "blk.{}.ffn_up.weight",   "blk.{}.ffn_down.weight"};

Tensors llama_tensors(const Names& n, bool tied = false) {
  Tensors t;
  t[n.embedding] = numbered({V, C}, 100);
  if (!tied) t[n.head] = numbered({V, C}, 200);
  t[n.final_norm] = numbered({C}, 300);
  for (index_t i = 0; i < L; ++i) {
    const auto base = static_cast<float>(1000 * (i + 1));
    t[at(n.attention_norm, i)] = numbered({C}, base);
    t[at(n.ffn_norm, i)] = numbered({C}, base + 50);
    t[at(n.q, i)] = numbered({H * D, C}, base + 100);
    t[at(n.k, i)] = numbered({G * D, C}, base + 200);
    t[at(n.v, i)] = numbered({G * D, C}, base + 300);
    t[at(n.out, i)] = numbered({C, H * D}, base + 400);
    t[at(n.gate, i)] = numbered({F, C}, base + 500);
    t[at(n.up, i)] = numbered({F, C}, base + 600);
    t[at(n.down, i)] = numbered({C, F}, base + 700);
  }
  return t;
}

std::string config(const std::string& family, const std::string& more = "") {
  return R"({"model_type":")" + family +
         R"(","vocab_size":11,"hidden_size":8,"num_hidden_layers":2,"num_attention_heads":4,)"
         R"("num_key_value_heads":2,"intermediate_size":6,"max_position_embeddings":32,"head_dim":2)" +
         (more.empty() ? "" : "," + more) + "}";
}

float value(const Weight& w, index_t row, index_t col) {
  float v;
  std::memcpy(&v, static_cast<const char*>(w.data) + (row * w.cols + col) * 4, 4);
  return v;
}

class HuggingFace : public ::testing::Test {
 protected:
  std::shared_ptr<const Model> load(const std::string& config, const Tensors& tensors,
                                    const LoadOptions& options = {}) {
    folder_.write("config.json", config);
    folder_.write("model.safetensors", safetensors(tensors));
    return Model::load(folder_.path(), options);
  }
  template <class E = CorruptFile>
  std::string refusal(const std::string& config, const Tensors& tensors = llama_tensors(kLlama)) {
    return message_of<E>([&] { load(config, tensors); });
  }
  Folder folder_;
};

TEST_F(HuggingFace, LlamaKeepsItsMatricesWhereTheyLieInTheFile) {
  const auto model = load(config("llama"), llama_tensors(kLlama));
  const DecoderConfig& c = model->config;
  EXPECT_EQ(c.family, "llama");
  EXPECT_EQ(c.kv_heads, G);
  EXPECT_EQ(c.norm_eps, 1e-6f);
  EXPECT_EQ(c.windows, (std::vector<index_t>{0, 0}));
  EXPECT_FALSE(c.rope_interleaved);
  const LayerWeights& layer = model->layers[1];
  EXPECT_EQ(layer.qkv_count, 3);
  EXPECT_EQ(layer.qkv[1].rows, G * D);
  EXPECT_EQ(value(layer.qkv[1], 0, 1), 2200.25f);
  EXPECT_EQ(value(layer.down, 1, 0), 2700 + 0.25f * F);
  EXPECT_EQ(layer.ffn_norm.weight[2], 2050.5f);
  EXPECT_EQ(layer.ffn_norm.bias, nullptr);
  EXPECT_EQ(value(model->head, 0, 0), 200);
  EXPECT_EQ(model->parameters,
            2 * V * C + C + L * (2 * C + 2 * H * D * C + 2 * G * D * C + 3 * F * C));
  EXPECT_EQ(model->bytes, 4 * (model->parameters - V * C));  // of the embedding a step reads rows
}

TEST_F(HuggingFace, TiedHeadsAreTheEmbeddingEvenIfOneIsStored) {
  const auto model = load(config("llama", R"("tie_word_embeddings":true)"), llama_tensors(kLlama));
  EXPECT_EQ(model->head.data, model->embedding.data);
  EXPECT_EQ(model->bytes, 4 * model->parameters);
}

TEST_F(HuggingFace, BaseModelsAreSavedWithoutAPrefix) {
  Tensors without;
  for (const auto& [name, tensor] : llama_tensors(kLlama, true))
    without[name.substr(std::strlen("model."))] = tensor;
  EXPECT_EQ(load(config("llama", R"("tie_word_embeddings":true)"), without)->layers.size(), 2u);
}

TEST_F(HuggingFace, AllMissingMisshapenAndUnknownTensorsAreNamedAtOnce) {
  Tensors tensors = llama_tensors(kLlama);
  tensors.erase("model.norm.weight");
  tensors.erase("model.layers.1.mlp.up_proj.weight");
  tensors["model.layers.0.self_attn.q_proj.weight"] = numbered({3, 5});
  tensors["model.layers.0.self_attn.q_proj.bias"] = numbered({8});
  const std::string message = refusal(config("llama"), tensors);
  expect_says(message, "missing: model.norm.weight, model.layers.1.mlp.up_proj.weight");
  expect_says(message, "q_proj.weight has shape [3, 5], expected [8, 8]");
  expect_says(message, "does not have: model.layers.0.self_attn.q_proj.bias");
}

TEST_F(HuggingFace, NormsAndBiasesBecomeFloat32) {
  Tensors tensors = llama_tensors(kLlama);
  std::string halves;  // 1, -2, 65504, 2^-24, then zeros
  for (uint16_t h : {0x3c00, 0xc000, 0x7bff, 0x0001, 0, 0, 0, 0}) halves += raw(h);
  tensors["model.norm.weight"] = {{C}, halves, "F16"};
  const auto model = load(config("llama"), tensors);
  EXPECT_EQ(model->final_norm.weight[0], 1.0f);
  EXPECT_EQ(model->final_norm.weight[1], -2.0f);
  EXPECT_EQ(model->final_norm.weight[2], 65504.0f);
  EXPECT_EQ(model->final_norm.weight[3], 0x1p-24f);
}

TEST_F(HuggingFace, Float32OfABiasIsCopiedWhereItLiesAtAnOddAddress) {
  Tensors tensors = llama_tensors(kLlama);
  tensors["a"] = {{1}, "x", "U8"};  // the first in the data, so all others move by one byte
  const std::string message = refusal(config("llama"), tensors);
  expect_says(message, "does not have: a");
  tensors.erase("a");
  tensors["a.rotary_emb.inv_freq"] = {{1}, "x", "U8"};
  const auto model = load(config("llama"), tensors);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(model->final_norm.weight) % 4, 0u);
  EXPECT_EQ(model->final_norm.weight[1], 300.25f);
  EXPECT_EQ(value(model->embedding, 0, 1), 100.25f);
}

TEST_F(HuggingFace, WeightsOfATypeThatIsNoneAreRefused) {
  Tensors tensors = llama_tensors(kLlama);
  tensors["lm_head.weight"] = {{V, C}, std::string(V * C, 'x'), "F8_E4M3"};
  expect_says(refusal<Unsupported>(config("llama"), tensors), "lm_head.weight is of type F8_E4M3");
}

TEST_F(HuggingFace, RopeIsReadInBothNotations) {
  const std::string scaling =
      R"("rope_type":"llama3","factor":8.0,"low_freq_factor":1,"high_freq_factor":4,)"
      R"("original_max_position_embeddings":16)";
  for (const std::string& more : {R"("rope_theta":500000,"rope_scaling":{)" + scaling + "}",
                                  R"("rope_parameters":{"rope_theta":500000.0,)" + scaling + "}"}) {
    const DecoderConfig c = load(config("llama", more), llama_tensors(kLlama))->config;
    EXPECT_EQ(c.rope_base, 500000);
    EXPECT_EQ(c.rope_scaling.kind, RopeScaling::Kind::llama3);
    EXPECT_EQ(c.rope_scaling.factor, 8);
    EXPECT_EQ(c.rope_scaling.original_context, 16);
  }
  const auto old = load(config("llama", R"("rope_scaling":{"type":"linear","factor":2})"),
                        llama_tensors(kLlama));
  EXPECT_EQ(old->config.rope_scaling.kind, RopeScaling::Kind::linear);
}

TEST_F(HuggingFace, WhatTheEngineCannotComputeIsRefusedByName) {
  const std::pair<const char*, const char*> cases[] = {
      {R"("rope_scaling":{"rope_type":"yarn","factor":2})", "yarn"},
      {R"("rope_scaling":{"type":"dynamic","factor":2})", "dynamic"},
      {R"("partial_rotary_factor":0.5)", "partial_rotary_factor"},
      {R"("rope_parameters":{"rope_theta":1e4,"partial_rotary_factor":0.25})", "partial_rotary"},
      {R"("num_local_experts":8)", "num_local_experts"},
      {R"("final_logit_softcapping":30.0)", "final_logit_softcapping"},
      {R"("quantization_config":{"bits":4})", "quantization_config"},
      {R"("hidden_act":"mish")", "mish"},
      {R"("sliding_window":8)", "sliding_window"},
  };
  for (const auto& [more, named] : cases)
    expect_says(refusal<Unsupported>(config("llama", more)), named);
  EXPECT_EQ(refusal(config("llama", R"("partial_rotary_factor":1.0,"num_experts":null)")), "");
  expect_says(refusal<Unsupported>(config("mamba")), "mamba");
}

TEST_F(HuggingFace, ShapesThatCannotBeAreRefused) {
  for (const char* bad : {R"("num_attention_heads":3)", R"("num_hidden_layers":1000000000)",
                          R"("vocab_size":0)", R"("hidden_size":-8)", R"("head_dim":3)",
                          R"("intermediate_size":"6")", R"("vocab_size":1e9)"}) {
    std::string text = config("llama");
    const std::string name = std::string(bad).substr(0, std::string(bad).find(':'));
    const size_t begin = text.find(name);
    text.replace(begin, text.find_first_of(",}", begin) - begin, bad);
    EXPECT_NE(refusal(text), "") << bad;
  }
}

TEST_F(HuggingFace, Qwen2HasBiasesAndWindowsInItsLaterLayers) {
  Tensors tensors = llama_tensors(kLlama, true);
  const std::string tied = R"("tie_word_embeddings":true)";
  expect_says(refusal(config("qwen2", tied), tensors), "model.layers.0.self_attn.q_proj.bias");
  for (index_t i = 0; i < L; ++i) {
    const std::string attention = "model.layers." + std::to_string(i) + ".self_attn.";
    tensors[attention + "q_proj.bias"] = numbered({H * D}, 5);
    tensors[attention + "k_proj.bias"] = numbered({G * D}, 6);
    tensors[attention + "v_proj.bias"] = numbered({G * D}, 7);
  }
  const auto windows = [&](const std::string& more) {
    return load(config("qwen2", tied + more), tensors)->config.windows;
  };
  EXPECT_EQ(load(config("qwen2", tied), tensors)->layers[1].qkv_bias[2][1], 7.25f);
  EXPECT_EQ(windows(R"(,"sliding_window":8)"), (std::vector<index_t>{0, 0}));
  EXPECT_EQ(windows(R"(,"use_sliding_window":true,"sliding_window":8,"max_window_layers":1)"),
            (std::vector<index_t>{0, 8}));
  EXPECT_EQ(windows(R"(,"use_sliding_window":true,"sliding_window":8,)"
                    R"("layer_types":["sliding_attention","full_attention"])"),
            (std::vector<index_t>{8, 0}));
}

TEST_F(HuggingFace, Qwen3HasNormsOfQueryAndKey) {
  Tensors tensors = llama_tensors(kLlama);
  for (index_t i = 0; i < L; ++i) {
    tensors["model.layers." + std::to_string(i) + ".self_attn.q_norm.weight"] = numbered({D}, 5);
    tensors["model.layers." + std::to_string(i) + ".self_attn.k_norm.weight"] = numbered({D}, 6);
  }
  const auto model = load(config("qwen3"), tensors);
  EXPECT_EQ(model->layers[0].query_norm.weight[1], 5.25f);
  EXPECT_EQ(model->layers[1].key_norm.weight[0], 6.0f);
}

TEST_F(HuggingFace, MistralHasOneWindowForAllLayers) {
  const auto windows = [&](const std::string& more) {
    return load(config("mistral", more), llama_tensors(kLlama))->config.windows;
  };
  EXPECT_EQ(windows(R"("sliding_window":5)"), (std::vector<index_t>{5, 5}));
  EXPECT_EQ(windows(R"("sliding_window":null)"), (std::vector<index_t>{0, 0}));
  EXPECT_EQ(windows(""), (std::vector<index_t>{4096, 4096}));
}

TEST_F(HuggingFace, TokensThatEndATextComeFromBothConfigs) {
  folder_.write("generation_config.json", R"({"eos_token_id":[3,7]})");
  const auto model =
      load(config("llama", R"("eos_token_id":7,"bos_token_id":1)"), llama_tensors(kLlama));
  EXPECT_EQ(model->config.eos_ids, (std::vector<int32_t>{7, 3}));
  EXPECT_EQ(model->config.bos_id, 1);
}

Tensors gpt2_tensors() {
  Tensors t{{"transformer.wte.weight", numbered({V, C}, 100)},
            {"transformer.wpe.weight", numbered({16, C}, 150)},
            {"transformer.ln_f.weight", numbered({C}, 200)},
            {"transformer.ln_f.bias", numbered({C}, 250)}};
  for (index_t i = 0; i < L; ++i) {
    const std::string h = "transformer.h." + std::to_string(i) + ".";
    for (const char* norm : {"ln_1.", "ln_2."}) {
      t[h + norm + "weight"] = numbered({C}, 300);
      t[h + norm + "bias"] = numbered({C}, 350);
    }
    const std::tuple<const char*, index_t, index_t> matrices[] = {{"attn.c_attn.", C, 3 * C},
                                                                  {"attn.c_proj.", C, C},
                                                                  {"mlp.c_fc.", C, 4 * C},
                                                                  {"mlp.c_proj.", 4 * C, C}};
    for (const auto& [name, in, out] : matrices) {
      t[h + name + "weight"] = numbered({in, out}, 400);
      t[h + name + "bias"] = numbered({out}, 450);
    }
    t[h + "attn.bias"] = {{1, 1, 16, 16}, std::string(256, 'x'), "BOOL"};
  }
  return t;
}
constexpr const char* kGpt2 =
    R"({"model_type":"gpt2","vocab_size":11,"n_embd":8,"n_layer":2,"n_head":4,"n_positions":16})";

TEST_F(HuggingFace, Gpt2IsTransposedAndHasBiasesAndLearnedPositions) {
  const auto model = load(kGpt2, gpt2_tensors());
  const DecoderConfig& c = model->config;
  EXPECT_EQ(c.norm, Norm::layer_norm);
  EXPECT_EQ(c.positions, Positions::learned);
  EXPECT_EQ(c.activation, Activation::gelu_tanh);
  EXPECT_FALSE(c.gated);
  const LayerWeights& layer = model->layers[0];
  EXPECT_EQ(layer.qkv_count, 1);
  EXPECT_EQ(layer.qkv[0].rows, 3 * C);
  EXPECT_EQ(value(layer.qkv[0], 1, 0), 400.25f);
  EXPECT_EQ(value(layer.qkv[0], 0, 1), 400 + 0.25f * 3 * C);
  EXPECT_EQ(value(layer.down, 7, 31), 400 + 0.25f * (32 * C - 1));
  EXPECT_EQ(layer.up_bias[1], 450.25f);
  EXPECT_EQ(layer.attention_norm.bias[0], 350);
  EXPECT_FALSE(layer.gate.defined());
  EXPECT_EQ(model->position_embedding.rows, 16);
  EXPECT_EQ(model->head.data, model->embedding.data);
}

/// Row by row as float32, whatever the format.
std::vector<float> floats(const Weight& w) {
  std::vector<float> values(w.rows * w.cols);
  dequantize({w, 0, TensorView(values.data(), DType::float32, {w.rows, w.cols})},
             Context::current());
  return values;
}

TEST_F(HuggingFace, MatricesAreConvertedOnRequestAndNormsAreNot) {
  const auto exact = load(kGpt2, gpt2_tensors());
  const std::pair<WeightFormat, double> formats[] = {{WeightFormat::float16, 0x1p-11},
                                                     {WeightFormat::bfloat16, 0x1p-8},
                                                     {WeightFormat::int8, 0.5 / 127}};
  for (const auto& [format, tolerance] : formats) {
    const auto model = load(kGpt2, gpt2_tensors(), {format});
    EXPECT_EQ(model->head.data, model->embedding.data) << "the head stays tied";
    EXPECT_EQ(model->position_embedding.format, WeightFormat::float32);
    EXPECT_EQ(model->layers[1].attention_norm.weight[1], 300.25f);
    EXPECT_EQ(model->parameters, exact->parameters);
    EXPECT_LT(model->bytes, exact->bytes);
    for (const auto matrix : {+[](const Model& m) { return m.embedding; },
                              +[](const Model& m) { return m.layers[0].qkv[0]; },
                              +[](const Model& m) { return m.layers[1].down; }}) {
      EXPECT_EQ(matrix(*model).format, format);
      const std::vector<float> got = floats(matrix(*model)), truth = floats(matrix(*exact));
      for (size_t i = 0; i < truth.size(); ++i) {
        // 600 is beyond the largest magnitude of any row.
        ASSERT_LE(std::abs(got[i] - truth[i]), tolerance * 600) << name_of(format) << " " << i;
      }
    }
  }
}

TEST_F(HuggingFace, ConversionNamesTheMatrixThatDoesNotFit) {
  expect_says(message_of<InvalidArgument>(
                  [&] { load(config("llama"), llama_tensors(kLlama), {WeightFormat::q4_0}); }),
              "model.embed_tokens.weight has rows of 8 weights, q4_0 takes whole blocks of 32");
  Tensors tensors = llama_tensors(kLlama);
  const float nan = std::nanf("");
  std::memcpy(tensors["lm_head.weight"].bytes.data() + 40, &nan, sizeof nan);
  expect_says(
      message_of<CorruptFile>([&] { load(config("llama"), tensors, {WeightFormat::int8}); }),
      "lm_head.weight");
}

TEST_F(HuggingFace, FoldersWithoutConfigOrWeightsNameTheFile) {
  const Folder empty;
  expect_says(message_of<std::system_error>([&] { Model::load(empty.path()); }), "config.json");
  empty.write("config.json", config("llama"));
  expect_says(message_of<std::system_error>([&] { Model::load(empty.path()); }),
              "model.safetensors");
  empty.write("config.json", "{");
  expect_says(message_of<CorruptFile>([&] { Model::load(empty.path()); }), "config.json");
}

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

TEST_F(GgufModel, WhatTheEngineCannotComputeIsRefusedByName) {
  const Tensors tensors = llama_tensors(kGguf);
  const auto refusal = [&](Gguf gguf) { return message_of<Unsupported>([&] { load(gguf); }); };
  expect_says(refusal(gguf_of("llama", tensors).number("llama.expert_count", 8)), "expert_count");
  expect_says(refusal(gguf_of("llama", tensors).string("llama.rope.scaling.type", "yarn")), "yarn");
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
}

/// Our own folder: the names of models/decoder.py.
Tensors own_tensors(bool gated = true, bool bias = false) {
  Tensors t{{"embedding.weight", numbered({V, C}, 100)}, {"final_norm.weight", numbered({C}, 200)}};
  for (index_t i = 0; i < L; ++i) {
    const std::string b = "blocks." + std::to_string(i) + ".";
    t[b + "attention_norm.weight"] = numbered({C}, 300);
    t[b + "ffn_norm.weight"] = numbered({C}, 310);
    t[b + "attention.qkv.weight"] = numbered({(H + 2 * G) * D, C}, 400);
    t[b + "attention.out.weight"] = numbered({C, H * D}, 500);
    t[b + "ffn.up_weight"] = numbered({F, C}, 600);
    if (gated) t[b + "ffn.gate_weight"] = numbered({F, C}, 700);
    t[b + "ffn.down_weight"] = numbered({C, F}, 800);
    if (bias) t[b + "attention.qkv.bias"] = numbered({(H + 2 * G) * D}, 900);
  }
  return t;
}
std::string own_config(const std::string& more = "") {
  return R"({"format_version":1,"vocab_size":11,"context":32,"layers":2,"width":8,"heads":4,"kv_heads":2,)"
         R"("head_width":null,"ffn_width":6,"norm":"rms_norm","activation":"swiglu","position":"rope",)"
         R"("bias":false,"tied":true)" +
         (more.empty() ? "" : "," + more) + "}";
}

TEST_F(HuggingFace, OurOwnFoldersLoadWithAllTheirFields) {
  folder_.write("tokenizer.json", R"({"added_tokens":[{"id":3,"content":"<|endoftext|>"}]})");
  const auto model = load(own_config(R"("qkv_bias":true,"windows":[0,4],"rope_interleaved":true)"),
                          own_tensors(true, true));
  const DecoderConfig& c = model->config;
  EXPECT_EQ(c.family, "fusedlm");
  EXPECT_EQ(c.head_width, D);
  EXPECT_EQ(c.windows, (std::vector<index_t>{0, 4}));
  EXPECT_EQ(c.eos_ids, (std::vector<int32_t>{3}));
  EXPECT_TRUE(c.rope_interleaved && c.gated);
  EXPECT_EQ(c.activation, Activation::silu);
  EXPECT_EQ(model->layers[1].qkv_count, 1);
  EXPECT_EQ(model->layers[1].qkv_bias[0][1], 900.25f);
  EXPECT_EQ(value(model->layers[0].gate, 0, 1), 700.25f);
}

TEST_F(HuggingFace, OurOwnFoldersOfAnotherVersionOrWithUnknownFieldsAreRefused) {
  std::string newer = own_config();
  newer.replace(newer.find(":1,"), 3, ":2,");
  expect_says(refusal<Unsupported>(newer, own_tensors()), "format_version is 2");
  expect_says(refusal(own_config(R"("experts":8)"), own_tensors()), "a field experts");
  expect_says(refusal(own_config(R"("windows":[1])"), own_tensors()), "windows has 1 entries");
}

DecoderConfig memory_config() {
  DecoderConfig c;
  c.family = "fusedlm";
  c.vocab_size = V;
  c.context = 32;
  c.layers = L;
  c.width = C;
  c.heads = H;
  c.kv_heads = G;
  c.head_width = D;
  c.ffn_width = F;
  return c;
}

TEST(FromTensors, TakesThemWhereTheyAreAndKeepsTheirOwner) {
  auto tensors = std::make_shared<Tensors>(own_tensors());
  std::map<std::string, TensorView> views;
  for (auto& [name, tensor] : *tensors) {
    TensorView view(tensor.bytes.data(), DType::float32, {0, 0});
    view.ndim = static_cast<int>(tensor.shape.size());
    std::copy(tensor.shape.begin(), tensor.shape.end(), view.shape.begin());
    view.strides = {view.ndim == 2 ? view.shape[1] : 1, 1};
    views[name] = view;
  }
  const void* embedding = views.at("embedding.weight").data;
  const std::weak_ptr<Tensors> alive = tensors;
  auto model = Model::from_tensors(memory_config(), views, std::move(tensors));
  EXPECT_EQ(model->embedding.data, embedding);
  EXPECT_EQ(model->head.data, embedding);
  EXPECT_FALSE(alive.expired());
  model.reset();
  EXPECT_TRUE(alive.expired());

  views.erase("final_norm.weight");
  expect_says(
      message_of<InvalidArgument>([&] { Model::from_tensors(memory_config(), views, nullptr); }),
      "missing: final_norm.weight");
  views.at("embedding.weight").strides[0] = 99;
  expect_says(
      message_of<InvalidArgument>([&] { Model::from_tensors(memory_config(), views, nullptr); }),
      "embedding.weight is not contiguous");
}

}  // namespace
}  // namespace fusedlm::test
