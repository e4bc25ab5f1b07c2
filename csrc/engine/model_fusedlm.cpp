// fusedlm's own model folders and tensors in memory: python/fusedlm/models/{config,decoder}.py are the
// definition of both.

#include <filesystem>

#include "engine/mapped_file.h"
#include "engine/model_builder.h"
#include "engine/model_sources.h"
#include "engine/safetensors.h"
#include "fusedlm/errors.h"

namespace fusedlm {
namespace {

constexpr index_t kFormatVersion = 1;
constexpr const char* kEndOfText = "<|endoftext|>";

/// Every field that there is; another one may change what the model computes.
constexpr const char* kFields[] = {
    "format_version", "vocab_size", "context",      "layers",
    "width",          "heads",      "kv_heads",     "head_width",
    "ffn_width",      "norm",       "norm_eps",     "activation",
    "position",       "rope_base",  "rope_scaling", "rope_interleaved",
    "bias",           "tied",       "dropout",      "qkv_bias",
    "qk_norm",        "windows",    "ignore_index"};

TensorNames own_names() {
  TensorNames n;
  n.embedding = "embedding.*";
  n.position_embedding = "embedding.position_*";
  n.head = "head.*";
  n.final_norm = "final_norm.*";
  n.attention_norm = "blocks.{}.attention_norm.*";
  n.ffn_norm = "blocks.{}.ffn_norm.*";
  n.query_norm = "blocks.{}.attention.query_norm.*";
  n.key_norm = "blocks.{}.attention.key_norm.*";
  n.qkv = {"blocks.{}.attention.qkv.*"};
  n.out = "blocks.{}.attention.out.*";
  n.gate = "blocks.{}.ffn.gate_*";
  n.up = "blocks.{}.ffn.up_*";
  n.down = "blocks.{}.ffn.down_*";
  return n;
}

/// A name among `names`; its index is the value.
int choice(const json::Fields& fields, const char* name, const char* absent,
           std::initializer_list<const char*> names) {
  const std::string value = fields.string(name, absent);
  int index = 0;
  std::string all;
  for (const char* known : names) {
    if (value == known) return index;
    all += (index++ ? ", " : "") + std::string(known);
  }
  fields.fail(name, "one of " + all);
}

void read_activation(const json::Fields& fields, DecoderConfig& c) {
  constexpr struct {
    Activation activation;
    bool gated;
  } kMeaning[] = {{Activation::gelu, false}, {Activation::gelu_tanh, false},
                  {Activation::relu, false}, {Activation::silu, true},
                  {Activation::gelu, true},  {Activation::gelu_tanh, true}};
  const auto [activation, gated] =
      kMeaning[choice(fields, "activation", "gelu_tanh",
                      {"gelu", "gelu_tanh", "relu", "swiglu", "geglu", "geglu_tanh"})];
  c.activation = activation;
  c.gated = gated;
}

Layout own_layout(const json::Fields& fields, const DecoderConfig& c) {
  const bool bias = fields.boolean("bias", true);
  Layout layout{own_names()};
  layout.norm_bias = always_if(bias && c.norm == Norm::layer_norm);
  layout.out_bias = layout.ffn_bias = always_if(bias);
  layout.qkv_bias = always_if(fields.boolean("qkv_bias", bias));
  layout.qk_norm = always_if(fields.boolean("qk_norm", false));
  layout.head = always_if(!fields.boolean("tied", true));
  return layout;
}

/// The end-of-text token of the tokenizer beside the model, as the Python package takes it.
std::vector<int32_t> find_end_of_text(const std::filesystem::path& folder, index_t vocab_size) {
  const std::string path = (folder / "tokenizer.json").string();
  if (!std::filesystem::exists(path)) return {};
  const auto file = MappedFile::open(path);
  const json::Value tokenizer = json::parse(file->text(), path);
  const json::Value* added = tokenizer.find("added_tokens");
  if (!added || !added->as<json::Array>()) return {};
  for (const json::Value& token : *added->as<json::Array>()) {
    const json::Fields fields(token, path + ": added_tokens");
    if (fields.string("content") == kEndOfText)
      return {static_cast<int32_t>(fields.integer("id", 0, vocab_size - 1))};
  }
  return {};
}

}  // namespace

DecoderConfig read_own_config(const json::Fields& fields) {
  fields.refuse_others(kFields);
  DecoderConfig c;
  c.family = "fusedlm";
  c.vocab_size = fields.integer("vocab_size", 1, kMostInConfig);
  c.context = fields.integer("context", 1, kMostInConfig, 256);
  c.layers = fields.integer("layers", 1, kMostInConfig, 6);
  c.width = fields.integer("width", 1, kMostInConfig, 384);
  c.heads = fields.integer("heads", 1, kMostInConfig, 6);
  c.kv_heads = fields.integer("kv_heads", 1, kMostInConfig, c.heads);
  if (!fields.find("head_width") && c.width % c.heads != 0)
    fields.fail("heads", "a divisor of width = " + std::to_string(c.width));
  c.head_width = fields.integer("head_width", 1, kMostInConfig, c.width / c.heads);
  read_activation(fields, c);
  const index_t gated_width = (8 * c.width + 3 * 64 - 1) / (3 * 64) * 64;
  c.ffn_width = fields.integer("ffn_width", 1, kMostInConfig, c.gated ? gated_width : 4 * c.width);
  c.norm = choice(fields, "norm", "layer_norm", {"layer_norm", "rms_norm"}) ? Norm::rms_norm
                                                                            : Norm::layer_norm;
  c.norm_eps = static_cast<float>(fields.positive("norm_eps", 1e-5));
  c.positions = choice(fields, "position", "learned", {"learned", "rope"}) ? Positions::rope
                                                                           : Positions::learned;
  c.rope_base = fields.positive("rope_base", 10000.0);
  c.rope_interleaved = fields.boolean("rope_interleaved", false);
  if (fields.find("rope_scaling")) {
    if (c.positions != Positions::rope) fields.fail("rope_scaling", "null with learned positions");
    c.rope_scaling = read_rope_scaling(fields.object("rope_scaling"), c.context);
  }
  if (fields.find("windows")) {
    for (const json::Value& window : fields.array("windows")) {
      const int64_t* value = window.as<int64_t>();
      if (!value) fields.fail("windows", "an array of integers");
      c.windows.push_back(*value);
    }
  }
  return c;
}

std::shared_ptr<const Model> load_fusedlm(const std::string& folder, const json::Fields& fields,
                                          const LoadOptions& options) {
  const index_t version = fields.integer("format_version", 1, kMostInConfig);
  if (version > kFormatVersion) {
    throw Unsupported(fields.where() + ": format_version is " + std::to_string(version) +
                      ", this fusedlm reads up to " + std::to_string(kFormatVersion));
  }
  DecoderConfig config = read_own_config(fields);
  check_config(config, fields.where());
  config.eos_ids = find_end_of_text(folder, config.vocab_size);
  const Layout layout = own_layout(fields, config);
  return ModelBuilder(config, layout, read_safetensors_folder(folder), options).build();
}

std::shared_ptr<const Model> Model::from_tensors(const DecoderConfig& config,
                                                 const std::map<std::string, TensorView>& tensors,
                                                 std::shared_ptr<void> keep,
                                                 const LoadOptions& options) {
  StoredTensors stored{"Model::from_tensors", {}, {keep}};
  for (const auto& [name, view] : tensors) {
    const std::string what = "Model::from_tensors: " + name;
    if (view.dtype != DType::float32 && view.dtype != DType::bfloat16) {
      throw InvalidArgument(what + " has dtype " + name_of(view.dtype) +
                            ", expected float32 or bfloat16");
    }
    if (view.device != DeviceType::cpu) throw InvalidArgument(what + " is on cuda, expected cpu");
    index_t step = 1;
    for (int i = view.ndim - 1; i >= 0; step *= view.shape[i--]) {
      if (view.shape[i] > 1 && view.strides[i] != step)
        throw InvalidArgument(what + " is not contiguous");
    }
    stored.tensors[name] = {
        {view.shape.begin(), view.shape.begin() + std::max(view.ndim, 0)},
        name_of(view.dtype),
        view.dtype == DType::float32 ? WeightFormat::float32 : WeightFormat::bfloat16,
        view.data};
  }
  Layout layout{own_names()};
  layout.norm_bias = layout.qkv_bias = layout.out_bias = layout.ffn_bias = Presence::if_stored;
  layout.qk_norm = layout.head = Presence::if_stored;
  try {
    return ModelBuilder(config, layout, stored, options).build();
  } catch (const CorruptFile& error) {
    throw InvalidArgument(error.what());  // there is no file
  }
}

}  // namespace fusedlm
