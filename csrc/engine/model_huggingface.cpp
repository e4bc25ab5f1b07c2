// Folders as `transformers` saves them: GPT-2, Llama 2 and 3, SmolLM2, Qwen2, Qwen3, Mistral.
//
// What a config asks for beyond that is refused by name. Defaults are those of the configuration
// classes of transformers, which leaves out of config.json what equals them.

#include <algorithm>
#include <filesystem>

#include "engine/mapped_file.h"
#include "engine/model_builder.h"
#include "engine/model_sources.h"
#include "engine/safetensors.h"
#include "fusedlm/errors.h"

namespace fusedlm {
namespace {

using json::Fields;

/// Members that change what a model computes in ways the engine has not; neutral are null, false, 0, an
/// empty list, and 1 where it is a factor.
constexpr struct {
  const char* name;
  bool factor;
} kRefused[] = {{"quantization_config", false},
                {"num_experts", false},
                {"num_local_experts", false},
                {"n_routed_experts", false},
                {"attn_logit_softcapping", false},
                {"final_logit_softcapping", false},
                {"partial_rotary_factor", true},
                {"embedding_multiplier", true},
                {"residual_multiplier", true},
                {"logits_scaling", true},
                {"logit_scale", true},
                {"scale_attn_by_inverse_layer_idx", false},
                {"add_cross_attention", false},
                {"use_mrope", false},
                {"no_rope_layers", false},
                {"attention_chunk_size", false},
                {"parallel_residual", false},
                {"alibi", false}};

void refuse_unknown_features(const Fields& config) {
  for (const auto& [name, factor] : kRefused) {
    const json::Value* value = config.find(name);
    if (!value) continue;
    const auto is = [&](auto neutral) {
      const auto* v = value->as<decltype(neutral)>();
      return v && *v == neutral;
    };
    const json::Array* list = value->as<json::Array>();
    const bool neutral =
        factor ? is(int64_t{1}) || is(1.0) : is(false) || is(int64_t{0}) || (list && list->empty());
    if (!neutral) {
      throw Unsupported(config.where() + ": " + name + " is " + json::describe(*value) +
                        ", which fusedlm cannot compute");
    }
  }
}

Activation read_activation(const Fields& config, const char* name, const char* absent) {
  constexpr struct {
    const char* name;
    Activation activation;
  } kKnown[] = {{"silu", Activation::silu},
                {"swish", Activation::silu},
                {"gelu", Activation::gelu},
                {"gelu_new", Activation::gelu_tanh},
                {"gelu_pytorch_tanh", Activation::gelu_tanh},
                {"gelu_fast", Activation::gelu_tanh},
                {"relu", Activation::relu}};
  const std::string value = config.string(name, absent);
  for (const auto& known : kKnown) {
    if (value == known.name) return known.activation;
  }
  throw Unsupported(config.where() + ": " + name + " is \"" + value +
                    "\", expected one of silu, gelu, gelu_new, relu");
}

/// Base and scaling: rope_theta and rope_scaling, or transformers 5's rope_parameters, which holds both.
void read_rope(const Fields& config, DecoderConfig& c) {
  c.rope_base = config.positive("rope_theta", 10000.0);
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    if (!config.find(name)) continue;
    const Fields rope = config.object(name);
    for (const char* kind : {"full_attention", "sliding_attention"}) {
      if (rope.find(kind))
        throw Unsupported(rope.where() + ": rotary embeddings that differ between layers");
    }
    if (rope.positive("partial_rotary_factor", 1.0) != 1.0)
      throw Unsupported(rope.where() + ": partial_rotary_factor");
    c.rope_base = rope.positive("rope_theta", c.rope_base);
    c.rope_scaling = read_rope_scaling(rope, c.context);
  }
}

void add_ids(const Fields& fields, const char* name, std::vector<int32_t>& ids) {
  const auto add = [&](const json::Value& value) {
    const int64_t* id = value.as<int64_t>();
    if (!id || *id < 0 || *id > INT32_MAX) fields.fail(name, "a token id or a list of them");
    if (std::find(ids.begin(), ids.end(), *id) == ids.end())
      ids.push_back(static_cast<int32_t>(*id));
  };
  const json::Value* value = fields.find(name);
  if (!value) return;
  if (const json::Array* list = value->as<json::Array>()) {
    for (const json::Value& id : *list) add(id);
  } else {
    add(*value);
  }
}

/// Ends of a text, by config.json and generation_config.json, and the token that begins one. Those that
/// are not in the vocabulary can never come (configs of small models keep the defaults of large ones).
void read_special_tokens(const std::filesystem::path& folder, const Fields& config,
                         std::optional<int32_t> absent, DecoderConfig& c) {
  add_ids(config, "eos_token_id", c.eos_ids);
  const std::string path = (folder / "generation_config.json").string();
  if (std::filesystem::exists(path)) {
    const auto file = MappedFile::open(path);
    const json::Value generation = json::parse(file->text(), path);
    add_ids(Fields(generation, path), "eos_token_id", c.eos_ids);
  }
  std::vector<int32_t> bos;
  add_ids(config, "bos_token_id", bos);
  if (!config.has("eos_token_id") && c.eos_ids.empty() && absent) c.eos_ids.push_back(*absent);
  std::erase_if(c.eos_ids, [&](int32_t id) { return id >= c.vocab_size; });
  if (!bos.empty() && bos.front() < c.vocab_size) c.bos_id = bos.front();
}

struct Source {
  DecoderConfig config;
  Layout layout;
};

Source gpt2(const Fields& config) {
  if (!config.boolean("scale_attn_weights", true))
    throw Unsupported(config.where() + ": scale_attn_weights is false");
  Source s;
  DecoderConfig& c = s.config;
  c.vocab_size = config.integer("vocab_size", 1, kMostInConfig, 50257);
  c.context = config.integer("n_positions", 1, kMostInConfig, 1024);
  c.width = config.integer("n_embd", 1, kMostInConfig, 768);
  c.layers = config.integer("n_layer", 1, kMostInConfig, 12);
  c.heads = c.kv_heads = config.integer("n_head", 1, kMostInConfig, 12);
  if (c.width % c.heads != 0) config.fail("n_head", "a divisor of n_embd");
  c.head_width = c.width / c.heads;
  c.ffn_width = config.integer("n_inner", 1, kMostInConfig, 4 * c.width);
  c.norm = Norm::layer_norm;
  c.norm_eps = static_cast<float>(config.positive("layer_norm_epsilon", 1e-5));
  c.activation = read_activation(config, "activation_function", "gelu_new");
  c.gated = false;
  c.positions = Positions::learned;

  TensorNames& n = s.layout.names;
  n.embedding = "transformer.wte.*";
  n.position_embedding = "transformer.wpe.*";
  n.head = "lm_head.*";
  n.final_norm = "transformer.ln_f.*";
  n.attention_norm = "transformer.h.{}.ln_1.*";
  n.ffn_norm = "transformer.h.{}.ln_2.*";
  n.qkv = {"transformer.h.{}.attn.c_attn.*"};
  n.out = "transformer.h.{}.attn.c_proj.*";
  n.up = "transformer.h.{}.mlp.c_fc.*";
  n.down = "transformer.h.{}.mlp.c_proj.*";
  n.ignored = {".attn.bias", ".attn.masked_bias"};
  s.layout.norm_bias = s.layout.qkv_bias = s.layout.out_bias = s.layout.ffn_bias = Presence::always;
  s.layout.head = always_if(!config.boolean("tie_word_embeddings", true));
  s.layout.transposed = true;
  return s;
}

TensorNames llama_names() {
  TensorNames n;
  n.embedding = "model.embed_tokens.*";
  n.head = "lm_head.*";
  n.final_norm = "model.norm.*";
  n.attention_norm = "model.layers.{}.input_layernorm.*";
  n.ffn_norm = "model.layers.{}.post_attention_layernorm.*";
  n.query_norm = "model.layers.{}.self_attn.q_norm.*";
  n.key_norm = "model.layers.{}.self_attn.k_norm.*";
  n.qkv = {"model.layers.{}.self_attn.q_proj.*", "model.layers.{}.self_attn.k_proj.*",
           "model.layers.{}.self_attn.v_proj.*"};
  n.out = "model.layers.{}.self_attn.o_proj.*";
  n.gate = "model.layers.{}.mlp.gate_proj.*";
  n.up = "model.layers.{}.mlp.up_proj.*";
  n.down = "model.layers.{}.mlp.down_proj.*";
  n.ignored = {".rotary_emb.inv_freq"};
  return n;
}

/// Qwen's: layers of layer_types "sliding_attention", or from max_window_layers on, have the window.
void read_qwen_windows(const Fields& config, DecoderConfig& c) {
  const bool used = config.boolean("use_sliding_window", false);
  const index_t window = used ? config.integer("sliding_window", 1, kMostInConfig, 4096) : 0;
  if (!config.find("layer_types")) {
    const index_t first = config.integer("max_window_layers", 0, kMostInConfig, 28);
    for (index_t i = 0; i < c.layers; ++i) c.windows.push_back(i >= first ? window : 0);
    return;
  }
  for (const json::Value& type : config.array("layer_types")) {
    const std::string* name = type.as<std::string>();
    if (!name) config.fail("layer_types", "an array of strings");
    const bool sliding = *name == "sliding_attention";
    if (!sliding && *name != "full_attention")
      throw Unsupported(config.where() + ": layer_types holds \"" + *name + "\"");
    if (sliding && !used)
      config.fail("use_sliding_window", "true, as layer_types has sliding layers");
    c.windows.push_back(sliding ? window : 0);
  }
}

void read_windows(const Fields& config, const std::string& family, DecoderConfig& c) {
  if (family == "qwen2" || family == "qwen3") return read_qwen_windows(config, c);
  // transformers reads neither of these here, whatever they say.
  if (config.find("layer_types"))
    throw Unsupported(config.where() + ": layer_types in a model of type " + family);
  if (family == "mistral") {
    // Null is no window; the member left out is the default.
    const index_t absent = config.has("sliding_window") ? 0 : 4096;
    c.windows.assign(c.layers, config.integer("sliding_window", 1, kMostInConfig, absent));
  } else if (config.find("sliding_window")) {
    throw Unsupported(config.where() + ": sliding_window in a model of type " + family);
  }
}

Source llama_like(const Fields& config, const std::string& family) {
  const bool qwen = family == "qwen2" || family == "qwen3", mistral = family == "mistral";
  Source s;
  DecoderConfig& c = s.config;
  c.vocab_size = config.integer("vocab_size", 1, kMostInConfig, qwen ? 151936 : 32000);
  c.context = config.integer("max_position_embeddings", 1, kMostInConfig,
                             qwen      ? 32768
                             : mistral ? 131072
                                       : 2048);
  c.width = config.integer("hidden_size", 1, kMostInConfig, 4096);
  c.layers = config.integer("num_hidden_layers", 1, 4096, 32);
  c.heads = config.integer("num_attention_heads", 1, kMostInConfig, 32);
  // Null is as many as heads; the member left out is the default.
  const index_t kv_heads = config.has("num_key_value_heads") || family == "llama" ? c.heads
                           : mistral                                              ? 8
                                                                                  : 32;
  c.kv_heads = config.integer("num_key_value_heads", 1, kMostInConfig, kv_heads);
  index_t head_width = family == "qwen3" ? 128 : 0;
  if (head_width == 0 && !config.find("head_dim")) {
    if (c.width % c.heads != 0) config.fail("num_attention_heads", "a divisor of hidden_size");
    head_width = c.width / c.heads;
  }
  c.head_width = config.integer("head_dim", 1, kMostInConfig, head_width);
  c.ffn_width = config.integer("intermediate_size", 1, kMostInConfig,
                               qwen      ? 22016
                               : mistral ? 14336
                                         : 11008);
  c.norm_eps = static_cast<float>(config.positive("rms_norm_eps", 1e-6));
  c.activation = read_activation(config, "hidden_act", "silu");
  read_rope(config, c);
  read_windows(config, family, c);

  const bool bias = config.boolean("attention_bias", false);
  s.layout.names = llama_names();
  s.layout.qkv_bias = always_if(family == "qwen2" || bias);
  s.layout.out_bias = always_if(family != "qwen2" && bias);
  s.layout.ffn_bias = always_if(config.boolean("mlp_bias", false));
  s.layout.qk_norm = always_if(family == "qwen3");
  s.layout.head = always_if(!config.boolean("tie_word_embeddings", false));
  return s;
}

/// Base models are saved without the prefix that the names of a language model have.
void drop_prefix(const std::string& prefix, const StoredTensors& stored, TensorNames& n) {
  for (const auto& [name, tensor] : stored.tensors) {
    if (name.starts_with(prefix)) return;
  }
  const auto drop = [&](std::string& name) {
    if (name.starts_with(prefix)) name.erase(0, prefix.size());
  };
  for (std::string* name :
       {&n.embedding, &n.position_embedding, &n.final_norm, &n.attention_norm, &n.ffn_norm,
        &n.query_norm, &n.key_norm, &n.out, &n.gate, &n.up, &n.down})
    drop(*name);
  for (std::string& name : n.qkv) drop(name);
}

}  // namespace

std::shared_ptr<const Model> load_huggingface(const std::string& folder, const Fields& config,
                                              const LoadOptions& options) {
  const std::string& family = config.string("model_type");
  const bool is_gpt2 = family == "gpt2";
  if (!is_gpt2 && family != "llama" && family != "qwen2" && family != "qwen3" &&
      family != "mistral") {
    throw Unsupported(config.where() + ": model_type is \"" + family +
                      "\", expected gpt2, llama, qwen2, qwen3 or mistral");
  }
  refuse_unknown_features(config);
  Source source = is_gpt2 ? gpt2(config) : llama_like(config, family);
  source.config.family = family;
  const int32_t default_eos = is_gpt2 ? 50256 : 2;
  const bool has_default = is_gpt2 || family == "llama" || family == "mistral";
  read_special_tokens(folder, config, has_default ? std::optional(default_eos) : std::nullopt,
                      source.config);
  const StoredTensors stored = read_safetensors_folder(folder);
  drop_prefix(is_gpt2 ? "transformer." : "model.", stored, source.layout.names);
  return ModelBuilder(source.config, source.layout, stored, options).build();
}

}  // namespace fusedlm
