#pragma once
// A small Llama under the names of each kind of source, for the tests of what models become when loaded.

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>

#include "files.h"
#include "fusedlm/device.h"
#include "fusedlm/model.h"

namespace fusedlm::test {

constexpr index_t V = 11, C = 8, H = 4, G = 2, D = 2, F = 6, L = 2;

inline std::string at(const std::string& pattern, index_t layer) {
  std::string name = pattern;
  name.replace(name.find("{}"), 2, std::to_string(layer));
  return name;
}

/// A family's tensors under given names; every value is its own.
struct Names {
  std::string embedding, head, final_norm, attention_norm, ffn_norm, q, k, v, out, gate, up, down;
};
inline const Names kLlama{"model.embed_tokens.weight",
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
inline const Names kGguf{
    "token_embd.weight",       "output.weight",          "output_norm.weight",
    "blk.{}.attn_norm.weight", "blk.{}.ffn_norm.weight", "blk.{}.attn_q.weight",
    "blk.{}.attn_k.weight",    "blk.{}.attn_v.weight",   "blk.{}.attn_output.weight",
    "blk.{}.ffn_gate.weight",  "blk.{}.ffn_up.weight",   "blk.{}.ffn_down.weight"};

inline Tensors llama_tensors(const Names& n, bool tied = false) {
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

inline std::string config(const std::string& family, const std::string& more = "") {
  return R"({"model_type":")" + family +
         R"(","vocab_size":11,"hidden_size":8,"num_hidden_layers":2,"num_attention_heads":4,)"
         R"("num_key_value_heads":2,"intermediate_size":6,"max_position_embeddings":32,"head_dim":2)" +
         (more.empty() ? "" : "," + more) + "}";
}

inline float value(const Weight& w, index_t row, index_t col) {
  float v;
  std::memcpy(&v, static_cast<const char*>(w.data) + (row * w.cols + col) * 4, 4);
  return v;
}

/// Every matrix of a model.
inline std::vector<Weight> matrices_of(const Model& model) {
  std::vector<Weight> all{model.embedding, model.head};
  for (const LayerWeights& layer : model.layers) {
    all.insert(all.end(), layer.qkv.begin(), layer.qkv.begin() + layer.qkv_count);
    all.insert(all.end(), {layer.out, layer.gate, layer.up, layer.down});
  }
  return all;
}

/// A folder with config.json and model.safetensors.
class ModelFolder : public ::testing::Test {
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

}  // namespace fusedlm::test
