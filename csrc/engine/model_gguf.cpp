// GGUF files of the architectures llama (Llama, SmolLM2, Mistral), qwen2, qwen3 and gpt2. What they say
// beyond that is refused by name.

#include <algorithm>

#include "engine/gguf.h"
#include "engine/model_builder.h"
#include "engine/model_sources.h"
#include "engine/utf8.h"
#include "fusedlm/errors.h"

namespace fusedlm {
namespace {

/// Keys, behind the architecture's name, of what the engine does not compute; 0 and false are neutral.
constexpr const char* kRefused[] = {
    "expert_count",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
    "attention.scale",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "use_parallel_residual",
    "attention.sliding_window_pattern",
    "attention.temperature_length",
    "rope.scaling.attn_factor",
    "rope.dimension_sections",
};

bool is_neutral(const GgufValue& value) {
  if (const auto* u = std::get_if<uint64_t>(&value)) return *u == 0;
  if (const auto* i = std::get_if<int64_t>(&value)) return *i == 0;
  if (const auto* d = std::get_if<double>(&value)) return *d == 0.0;
  if (const auto* b = std::get_if<bool>(&value)) return !*b;
  return false;
}

class GgufSource {
 public:
  GgufSource(const GgufFile& file, const LoadOptions& options)
      : file_(file), options_(options), arch_(file.string("general.architecture")) {}

  std::shared_ptr<const Model> load() {
    if (arch_ != "llama" && arch_ != "qwen2" && arch_ != "qwen3" && arch_ != "gpt2") {
      throw Unsupported(file_.path() + ": general.architecture is \"" + arch_ +
                        "\", expected llama, qwen2, qwen3 or gpt2");
    }
    for (const char* name : kRefused) {
      const auto found = file_.metadata().find(key(name));
      if (found != file_.metadata().end() && !is_neutral(found->second)) {
        throw Unsupported(file_.path() + ": " + found->first + " is " + to_string(found->second) +
                          ", which fusedlm cannot compute");
      }
    }
    read_shape();
    if (config_.positions == Positions::rope) read_rope();
    read_special_tokens();
    auto model = ModelBuilder(config_, layout(), stored(), options_).build();
    for (const auto& [name, value] : file_.metadata()) {
      if (std::holds_alternative<GgufArray>(value)) continue;
      std::string text = to_string(value);
      if (!utf8::valid(text)) file_.fail(name + " is not UTF-8");
      model->metadata[name] = std::move(text);
    }
    return model;
  }

 private:
  std::string key(const std::string& name) const { return arch_ + "." + name; }
  index_t size(const char* name) const { return file_.integer(key(name), 1, kMostInConfig); }

  /// A number that may be written once for each layer, as long as all are the same.
  index_t same_in_all_layers(const char* name, index_t absent) const {
    const auto found = file_.metadata().find(key(name));
    if (found == file_.metadata().end()) return absent;
    if (!std::holds_alternative<GgufArray>(found->second)) return size(name);
    const std::vector<index_t> values = file_.integers(found->first);
    if (values.empty() ||
        std::any_of(values.begin(), values.end(), [&](index_t v) { return v != values.front(); })) {
      throw Unsupported(file_.path() + ": " + found->first + " differs between layers");
    }
    return values.front();
  }

  /// Rows of the embedding. Where that is missing, which the builder tells with all other tensors that
  /// are, of what else has as many, or any size that check_config lets pass.
  index_t vocabulary() const {
    const auto& tensors = file_.tensors().tensors;
    for (const char* name : {"token_embd.weight", "output.weight"}) {
      if (const auto found = tensors.find(name); found != tensors.end())
        return found->second.shape.front();
    }
    const auto tokens = file_.metadata().find("tokenizer.ggml.tokens");
    if (tokens != file_.metadata().end()) {
      if (const auto* array = std::get_if<GgufArray>(&tokens->second))
        return std::max<index_t>(1, static_cast<index_t>(array->count));
    }
    return kMostSize;
  }

  void read_shape() {
    DecoderConfig& c = config_;
    c.family = arch_;
    c.vocab_size = vocabulary();
    c.context = size("context_length");
    c.layers = file_.integer(key("block_count"), 1, kMostLayers);
    c.width = size("embedding_length");
    c.ffn_width = same_in_all_layers("feed_forward_length", 4 * c.width);
    c.heads = same_in_all_layers("attention.head_count", 0);
    if (c.heads < 1) file_.fail("lacks " + key("attention.head_count"));
    c.kv_heads = same_in_all_layers("attention.head_count_kv", c.heads);
    c.head_width = file_.integer(key("attention.key_length"), 1, kMostInConfig, c.width / c.heads);
    if (file_.integer(key("attention.value_length"), 1, kMostInConfig, c.head_width) !=
        c.head_width)
      throw Unsupported(file_.path() + ": values of another width than keys");
    const index_t window = file_.integer(key("attention.sliding_window"), 0, kMostInConfig, 0);
    c.windows.assign(c.layers, window);
    if (arch_ == "gpt2") {
      c.norm = Norm::layer_norm;
      c.norm_eps = static_cast<float>(file_.positive(key("attention.layer_norm_epsilon")));
      c.activation = Activation::gelu_tanh;
      c.gated = false;
      c.positions = Positions::learned;
    } else {
      c.norm_eps = static_cast<float>(file_.positive(key("attention.layer_norm_rms_epsilon")));
    }
  }

  void read_rope() {
    DecoderConfig& c = config_;
    if (file_.integer(key("rope.dimension_count"), 0, kMostInConfig, c.head_width) != c.head_width)
      throw Unsupported(file_.path() + ": rotary embedding of a part of each head");
    // Files of llama have the rows of query and key in the order of the interleaved form.
    c.rope_interleaved = arch_ == "llama";
    c.rope_base = file_.positive(key("rope.freq_base"), 10000.0);
    // As llama.cpp reads it: a factor is linear unless the type says otherwise, and nothing with "none".
    const std::string kind(file_.string(key("rope.scaling.type"), "linear"));
    if (kind != "none" && kind != "linear" && kind != "yarn")
      throw Unsupported(file_.path() + ": " + key("rope.scaling.type") + " is \"" + kind + "\"");
    double factor = 1.0;
    if (kind != "none") {  // scale_linear is what older files call it
      factor =
          file_.positive(key("rope.scaling.factor"), file_.positive(key("rope.scale_linear"), 1.0));
    }
    const auto factors = file_.tensors().tensors.find("rope_freqs.weight");
    if (factors != file_.tensors().tensors.end()) {
      if (factor != 1.0)
        throw Unsupported(file_.path() + ": both rope_freqs.weight and another scaling");
      c.rope_scaling.kind = RopeScaling::Kind::factors;
      c.rope_scaling.factors = read_factors(factors->second);
    } else if (kind == "yarn") {
      read_yarn(factor);
    } else if (factor != 1.0) {
      c.rope_scaling.kind = RopeScaling::Kind::linear;
      c.rope_scaling.factor = factor;
    }
  }

  void read_yarn(double factor) {
    RopeScaling& s = config_.rope_scaling;
    s.kind = RopeScaling::Kind::yarn;
    s.factor = factor;
    if (file_.positive(key("rope.scaling.yarn_ext_factor"), 1.0) != 1.0)
      throw Unsupported(file_.path() + ": " + key("rope.scaling.yarn_ext_factor"));
    if (file_.has(key("rope.scaling.yarn_log_multiplier")))
      throw Unsupported(file_.path() + ": " + key("rope.scaling.yarn_log_multiplier"));
    s.original_context = file_.integer(key("rope.scaling.original_context_length"), 1,
                                       kMostInConfig, config_.context);
    s.beta_fast = file_.positive(key("rope.scaling.yarn_beta_fast"), s.beta_fast);
    s.beta_slow = file_.positive(key("rope.scaling.yarn_beta_slow"), s.beta_slow);
    s.attention_factor =
        usual_attention_factor(factor) * file_.positive(key("rope.scaling.yarn_attn_factor"), 1.0);
  }

  std::vector<float> read_factors(const StoredTensor& tensor) const {
    if (tensor.format != WeightFormat::float32 ||
        tensor.shape != std::vector{config_.head_width / 2}) {
      file_.fail("rope_freqs.weight is " + tensor.type + " " + shape_string(tensor.shape) +
                 ", expected F32 [" + std::to_string(config_.head_width / 2) + "]");
    }
    std::vector<float> factors(config_.head_width / 2);
    for (size_t i = 0; i < factors.size(); ++i) {
      factors[i] = read_as<float>(static_cast<const std::byte*>(tensor.data) + i * sizeof(float));
      if (!(factors[i] > 0)) file_.fail("rope_freqs.weight holds a factor that is not above 0");
    }
    return factors;
  }

  void read_special_tokens() {
    for (const char* name : {"eos", "eot", "eom"}) {
      const std::string id = "tokenizer.ggml." + std::string(name) + "_token_id";
      if (!file_.has(id)) continue;
      const auto token = static_cast<int32_t>(file_.integer(id, 0, config_.vocab_size - 1));
      auto& ids = config_.eos_ids;
      if (std::find(ids.begin(), ids.end(), token) == ids.end()) ids.push_back(token);
    }
    if (file_.has("tokenizer.ggml.bos_token_id")) {
      config_.bos_id = static_cast<int32_t>(
          file_.integer("tokenizer.ggml.bos_token_id", 0, config_.vocab_size - 1));
    }
  }

  /// The tensors but those that are settings.
  StoredTensors stored() const {
    StoredTensors stored = file_.tensors();
    stored.tensors.erase("rope_freqs.weight");
    return stored;
  }

  Layout layout() const {
    Layout layout;
    TensorNames& n = layout.names;
    n.embedding = "token_embd.*";
    n.position_embedding = "position_embd.*";
    n.head = "output.*";
    n.final_norm = "output_norm.*";
    n.attention_norm = "blk.{}.attn_norm.*";
    n.ffn_norm = "blk.{}.ffn_norm.*";
    n.query_norm = "blk.{}.attn_q_norm.*";
    n.key_norm = "blk.{}.attn_k_norm.*";
    n.qkv = {"blk.{}.attn_q.*", "blk.{}.attn_k.*", "blk.{}.attn_v.*"};
    n.out = "blk.{}.attn_output.*";
    n.gate = "blk.{}.ffn_gate.*";
    n.up = "blk.{}.ffn_up.*";
    n.down = "blk.{}.ffn_down.*";
    layout.head = Presence::if_stored;
    if (arch_ == "gpt2") {
      n.qkv = {"blk.{}.attn_qkv.*"};
      layout.norm_bias = layout.qkv_bias = Presence::always;
      layout.out_bias = layout.ffn_bias = Presence::always;
    } else {
      layout.qkv_bias = arch_ == "qwen2" ? Presence::always : Presence::if_stored;
      layout.out_bias = layout.ffn_bias = Presence::if_stored;
      layout.qk_norm = arch_ == "qwen3" ? Presence::always : Presence::never;
    }
    return layout;
  }

  const GgufFile& file_;
  LoadOptions options_;
  std::string arch_;
  DecoderConfig config_;
};

}  // namespace

std::shared_ptr<const Model> load_gguf(const std::string& path, const LoadOptions& options) {
  const GgufFile file(MappedFile::open(path));
  return GgufSource(file, options).load();
}

}  // namespace fusedlm
