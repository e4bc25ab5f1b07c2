#pragma once
// Where models come from; Model::load chooses.

#include <string>

#include "engine/json.h"
#include "fusedlm/model.h"

namespace fusedlm {

/// A folder as `transformers` saves it; `config` is its config.json.
std::shared_ptr<const Model> load_huggingface(const std::string& folder, const json::Fields& config,
                                              const LoadOptions& options);
/// fusedlm's own folder, whose config.json has a "format_version".
std::shared_ptr<const Model> load_fusedlm(const std::string& folder, const json::Fields& config,
                                          const LoadOptions& options);
std::shared_ptr<const Model> load_gguf(const std::string& path, const LoadOptions& options);

/// Largest number a config may hold; sizes are checked more closely by the builder.
inline constexpr index_t kMostInConfig = index_t{1} << 40;

/// The fields of ModelConfig (python/fusedlm/models/config.py); others are refused. Throws CorruptFile.
DecoderConfig read_own_config(const json::Fields& config);

/// The object rope_scaling, as Hugging Face and fusedlm write it; `context` is the original one of yarn where
/// it is not said. Throws Unsupported for a kind that is not default, linear, llama3 or yarn.
RopeScaling read_rope_scaling(const json::Fields& scaling, index_t context);
/// What yarn multiplies cos and sin by where nothing else is said.
double usual_attention_factor(double factor);

}  // namespace fusedlm
