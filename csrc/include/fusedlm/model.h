#pragma once
// A decoder as the engine runs it: its shape, and views of its weights in mapped files or in memory.

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fusedlm/activation.h"
#include "fusedlm/weight.h"

namespace fusedlm {

enum class Norm : uint8_t { layer_norm, rms_norm };
enum class Positions : uint8_t { learned, rope };

/// Frequencies of the rotary embedding as Llama 3 stretches them (`llama3`), or divided by a factor.
struct RopeScaling {
  enum class Kind : uint8_t { none, linear, llama3 } kind = Kind::none;
  float factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  index_t original_context = 8192;
};

/// What decides what a decoder computes (GPT-2, Llama, SmolLM2, Qwen2, Qwen3, Mistral). Biases, norms of
/// query and key, and an untied head are there where their tensors are.
struct DecoderConfig {
  std::string family;  ///< "gpt2", "llama", "qwen2", "qwen3", "mistral" or "fusedlm"
  index_t vocab_size = 0, context = 0, layers = 0, width = 0;
  index_t heads = 0, kv_heads = 0, head_width = 0, ffn_width = 0;
  Norm norm = Norm::rms_norm;
  float norm_eps = 1e-5f;
  Activation activation = Activation::silu;
  bool gated = true;
  Positions positions = Positions::rope;
  float rope_base = 10000.0f;
  RopeScaling rope_scaling;
  bool rope_interleaved = false;
  /// Of each layer: keys farther away than so many tokens are not seen; 0: all are.
  std::vector<index_t> windows;
  std::vector<int32_t> eos_ids;  ///< tokens that end a text
  std::optional<int32_t> bos_id;
};

/// The weights of a norm, float32 [C]; bias is null where there is none.
struct NormWeights {
  const float *weight = nullptr, *bias = nullptr;
};

/// One layer. Query, key and value are one matrix (qkv[0]) or three, as the file has them.
struct LayerWeights {
  NormWeights attention_norm, ffn_norm, query_norm, key_norm;  ///< the last two [D] or null
  std::array<Weight, 3> qkv;
  std::array<const float*, 3> qkv_bias{};
  int qkv_count = 3;
  Weight out, gate, up, down;
  const float *out_bias = nullptr, *gate_bias = nullptr, *up_bias = nullptr, *down_bias = nullptr;
};

struct LoadOptions {
  /// What matrices become; by default they stay what they are in the file, mapped and not copied.
  std::optional<WeightFormat> format;
};

/// Weights and shape of a decoder; never changes once made, and may be shared by engines and threads.
class Model {
 public:
  /// A folder with config.json and safetensors (Hugging Face's layout, sharded too, or fusedlm's own),
  /// or a .gguf file. Files are mapped: loading reads no more than their heads. Throws CorruptFile
  /// naming file and fault (all missing tensors at once, a wrong shape, a length beyond the file),
  /// Unsupported for an architecture or a format that is not known, std::system_error for a file
  /// that cannot be opened.
  static std::shared_ptr<const Model> load(const std::string& path, const LoadOptions& = {});

  /// From tensors in memory under fusedlm's own names ("blocks.0.attention.qkv.weight", ...), float32
  /// or bfloat16, dense. They are not copied where the format stays: `keep` lives as long as the model.
  static std::shared_ptr<const Model> from_tensors(const DecoderConfig& config,
                                                   const std::map<std::string, TensorView>& tensors,
                                                   std::shared_ptr<void> keep,
                                                   const LoadOptions& = {});

  DecoderConfig config;
  Weight embedding;           ///< [V, C]
  Weight position_embedding;  ///< [context, C] where positions are learned
  Weight head;                ///< [V, C]; the embedding where tied
  NormWeights final_norm;
  std::vector<LayerWeights> layers;
  index_t parameters = 0;  ///< number of weights, tied ones once
  index_t bytes = 0;       ///< of all weights, as they are read in one step
  /// Strings of the file that are not weights: of a GGUF file its metadata ("tokenizer.chat_template",
  /// ...), of a folder nothing.
  std::map<std::string, std::string> metadata;

 private:
  friend class ModelBuilder;
  std::vector<std::shared_ptr<void>> owned_;  // mappings and converted tensors
};

}  // namespace fusedlm
