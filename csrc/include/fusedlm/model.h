#pragma once
// A decoder as the engine runs it: its shape, and views of its weights in mapped files or in memory.

#include <array>
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

/// Frequencies of the rotary embedding, stretched as Llama 3 (`llama3`) or YaRN (`yarn`, Peng et al. 2023,
/// arXiv:2309.00071) does it, or divided by one factor (`linear`) or by one for each pair (`factors`, which is
/// how GGUF files say it).
struct RopeScaling {
  enum class Kind : uint8_t { none, linear, llama3, factors, yarn } kind = Kind::none;
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  index_t original_context = 8192;
  std::vector<float> factors;  ///< [D / 2]
  /// Of yarn: pairs that turn so often within the original context are left, or divided by all of factor.
  double beta_fast = 32, beta_slow = 1;
  double attention_factor =
      1;  ///< cos and sin are multiplied by it; yarn's usual one is 0.1 ln(factor) + 1
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
  double rope_base = 10000.0;
  RopeScaling rope_scaling;
  bool rope_interleaved = false;
  /// Of each layer, as attention.h has it: a window W keeps keys at a distance below W; 0: all.
  std::vector<index_t> windows;
  std::vector<int32_t> eos_ids;  ///< tokens that end a text
  /// The token that begins a text. Whether prompts carry it is for the tokenizer to say.
  std::optional<int32_t> bos_id;
};

/// [D / 2]: by how much the angle of each pair grows from one position to the next, scaling included.
/// The tables of rope.h are cos and sin of position * rate, times attention_factor, in double, rounded to
/// float32.
/// Throws InvalidArgument for a negative head_width, or factors that are not D / 2.
std::vector<double> rope_rates(const DecoderConfig& config);

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
  /// What matrices become (learned positions stay); by default they stay what they are in the file,
  /// mapped and not copied.
  std::optional<WeightFormat> format;
};

/// Weights and shape of a decoder; never changes once made, and may be shared by engines and threads.
class Model {
 public:
  /// A folder with config.json and safetensors (Hugging Face's layout, sharded too, or fusedlm's own),
  /// or a .gguf file. Files are mapped: loading reads no more than their heads. Throws CorruptFile
  /// naming file and fault (all missing tensors at once, a wrong shape, a length beyond the file),
  /// Unsupported for an architecture or a format that is not known, std::system_error for a file
  /// that cannot be opened; InvalidArgument for a .safetensors file without its folder, or for rows that are no
  /// whole blocks of options.format; OutOfMemory where what is converted finds no memory.
  static std::shared_ptr<const Model> load(const std::string& path,
                                           const LoadOptions& options = {});

  /// From tensors in memory under fusedlm's own names ("blocks.0.attention.qkv.weight", ...), float32
  /// or bfloat16, dense. They are not copied where the format stays: `keep` lives as long as the model.
  /// Throws InvalidArgument for a config that cannot be, for all tensors that are missing, misshapen or unknown at
  /// once, and for rows that are no whole blocks of options.format; OutOfMemory as `load`.
  static std::shared_ptr<const Model> from_tensors(const DecoderConfig& config,
                                                   const std::map<std::string, TensorView>& tensors,
                                                   std::shared_ptr<void> keep,
                                                   const LoadOptions& options = {});

  DecoderConfig config;
  Weight embedding;           ///< [V, C]
  Weight position_embedding;  ///< [context, C] where positions are learned
  Weight head;                ///< [V, C]; the embedding where tied
  NormWeights final_norm;
  std::vector<LayerWeights> layers;
  index_t parameters = 0;  ///< number of weights, tied ones once
  index_t bytes = 0;       ///< of all weights, as they are read in one step
  /// What the file says besides, as text: of a GGUF file its metadata but for arrays
  /// ("tokenizer.chat_template", ...), of a folder nothing.
  std::map<std::string, std::string> metadata;

 private:
  friend class ModelBuilder;
  std::vector<std::shared_ptr<void>> owned_;  // mappings and converted tensors
};

}  // namespace fusedlm
