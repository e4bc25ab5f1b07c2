// Models from a folder in Hugging Face's form: what config and weights become, and that what is missing,
// misshapen or not supported is refused by name.

#include "fusedlm/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "small_llama.h"

namespace fusedlm::test {
namespace {

class HuggingFace : public ModelFolder {};

TEST_F(HuggingFace, LlamaHasItsShapeAndWeights) {
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

#ifdef __linux__
TEST_F(HuggingFace, MatricesStayWhereTheyLieInTheFileUnlessTheyAreConverted) {
  const auto model = load(config("llama"), llama_tensors(kLlama));
  const std::string file = std::filesystem::canonical(folder_ / "model.safetensors");
  for (const Weight& w : matrices_of(*model)) EXPECT_EQ(file_mapped_at(w.data), file);
  EXPECT_EQ(file_mapped_at(model->layers[1].ffn_norm.weight), file);
  const LoadOptions options{.format = WeightFormat::bfloat16};
  const auto converted = load(config("llama"), llama_tensors(kLlama), options);
  for (const Weight& w : matrices_of(*converted)) EXPECT_EQ(file_mapped_at(w.data), "");
}
#endif

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

TEST_F(HuggingFace, YarnHasItsUsualOptionsWhereNothingIsSaid) {
  const auto scaling = [&](const std::string& more) {
    const std::string yarn = R"("rope_scaling":{"rope_type":"yarn","factor":4)" + more + "}";
    return load(config("llama", yarn), llama_tensors(kLlama))->config;
  };
  const DecoderConfig plain = scaling("");
  EXPECT_EQ(plain.rope_scaling.kind, RopeScaling::Kind::yarn);
  EXPECT_EQ(plain.rope_scaling.original_context, plain.context);
  EXPECT_EQ(plain.rope_scaling.beta_fast, 32);
  EXPECT_DOUBLE_EQ(plain.rope_scaling.attention_factor, 0.1 * std::log(4.0) + 1);
  const RopeScaling own = scaling(R"(,"original_max_position_embeddings":16,"beta_slow":0.5,)"
                                  R"("attention_factor":0.75,"beta_fast":null)")
                              .rope_scaling;
  EXPECT_EQ(own.original_context, 16);
  EXPECT_EQ(own.beta_slow, 0.5);
  EXPECT_EQ(own.attention_factor, 0.75);
}

TEST_F(HuggingFace, WhatTheEngineCannotComputeIsRefusedByName) {
  const std::pair<const char*, const char*> cases[] = {
      {R"("rope_scaling":{"rope_type":"longrope","factor":2})", "longrope"},
      {R"("rope_scaling":{"rope_type":"yarn","factor":2,"mscale":1.0})", "mscale"},
      {R"("rope_scaling":{"rope_type":"yarn","factor":2,"truncate":false})", "truncate"},
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

}  // namespace
}  // namespace fusedlm::test
