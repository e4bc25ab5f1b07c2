#include "fusedlm/model.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numbers>

#include "engine/mapped_file.h"
#include "engine/model_sources.h"
#include "fusedlm/errors.h"

namespace fusedlm {

std::shared_ptr<const Model> Model::load(const std::string& path, const LoadOptions& options) {
  const std::filesystem::path root(path);
  if (!std::filesystem::is_directory(root)) {
    if (root.extension() == ".safetensors") {
      throw InvalidArgument("Model::load: " + path +
                            " holds weights alone, expected its folder with the config.json");
    }
    return load_gguf(path, options);
  }
  const std::string config_path = (root / "config.json").string();
  const auto file = MappedFile::open(config_path);
  const json::Value value = json::parse(file->text(), config_path);
  const json::Fields config(value, config_path);
  return config.find("format_version") ? load_fusedlm(path, config, options)
                                       : load_huggingface(path, config, options);
}

namespace {

void read_yarn(const json::Fields& scaling, index_t context, RopeScaling& result) {
  for (const char* name : {"mscale", "mscale_all_dim"}) {
    if (scaling.find(name)) throw Unsupported(scaling.where() + ": " + name);
  }
  if (!scaling.boolean("truncate", true))
    throw Unsupported(scaling.where() + ": truncate is false");
  result.original_context =
      scaling.integer("original_max_position_embeddings", 1, kMostInConfig, context);
  result.beta_fast = scaling.positive("beta_fast", result.beta_fast);
  result.beta_slow = scaling.positive("beta_slow", result.beta_slow);
  result.attention_factor =
      scaling.positive("attention_factor", usual_attention_factor(result.factor));
}

/// What the rates of `pairs` pairs are multiplied by: 1 where they turn often within the original context,
/// 1 / factor where hardly ever, and between these what lies between.
std::vector<double> yarn_shares(const RopeScaling& s, double base, index_t pairs) {
  const auto pair = [&](double turns) {
    const double length = static_cast<double>(s.original_context);
    return static_cast<double>(pairs) * std::log(length / (turns * 2 * std::numbers::pi)) /
           std::log(base);
  };
  const double first = std::max(std::floor(pair(s.beta_fast)), 0.0);
  const double last = std::min(std::ceil(pair(s.beta_slow)), static_cast<double>(2 * pairs - 1));
  const double width = last == first ? 0.001 : last - first;  // as transformers has it
  std::vector<double> shares(static_cast<size_t>(pairs));
  for (size_t i = 0; i < shares.size(); ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - first) / width, 0.0, 1.0);
    shares[i] = 1.0 - stretched * (1.0 - 1.0 / s.factor);
  }
  return shares;
}

}  // namespace

double usual_attention_factor(double factor) { return 0.1 * std::log(std::max(1.0, factor)) + 1.0; }

RopeScaling read_rope_scaling(const json::Fields& scaling, index_t context) {
  using Kind = RopeScaling::Kind;
  const std::string kind =
      scaling.find("rope_type") ? scaling.string("rope_type") : scaling.string("type", "default");
  if (kind == "default") return {};
  RopeScaling result;
  if (kind != "linear" && kind != "llama3" && kind != "yarn") {
    throw Unsupported(scaling.where() + ": rope_type \"" + kind +
                      "\", expected default, linear, llama3 or yarn");
  }
  result.factor = scaling.positive("factor");
  result.kind = kind == "linear" ? Kind::linear : kind == "llama3" ? Kind::llama3 : Kind::yarn;
  if (result.kind == Kind::yarn) read_yarn(scaling, context, result);
  if (result.kind == Kind::llama3) {
    result.low_freq_factor = scaling.positive("low_freq_factor");
    result.high_freq_factor = scaling.positive("high_freq_factor");
    result.original_context = scaling.integer("original_max_position_embeddings", 1, kMostInConfig);
    if (!(result.high_freq_factor > result.low_freq_factor))
      scaling.fail("high_freq_factor", "more than low_freq_factor");
  }
  return result;
}

std::vector<double> rope_rates(const DecoderConfig& config) {
  const index_t pairs = config.head_width / 2;
  const RopeScaling& s = config.rope_scaling;
  if (config.head_width < 0) {
    throw InvalidArgument("rope_rates: head_width is " + std::to_string(config.head_width) +
                          ", expected at least 0");
  }
  if (s.kind == RopeScaling::Kind::factors && static_cast<index_t>(s.factors.size()) != pairs) {
    throw InvalidArgument("rope_rates: rope_scaling has " + std::to_string(s.factors.size()) +
                          " factors, expected head_width / 2 = " + std::to_string(pairs));
  }
  std::vector<double> rates(pairs), shares;
  if (s.kind == RopeScaling::Kind::yarn) shares = yarn_shares(s, config.rope_base, pairs);
  for (index_t i = 0; i < pairs; ++i) {
    double& rate = rates[i];
    rate = std::pow(config.rope_base, -(static_cast<double>(2 * i) / config.head_width));
    switch (s.kind) {
      case RopeScaling::Kind::none:
        break;
      case RopeScaling::Kind::linear:
        rate /= s.factor;
        break;
      case RopeScaling::Kind::factors:
        rate /= s.factors[i];
        break;
      case RopeScaling::Kind::llama3: {
        const double turns = s.original_context * rate / (2 * std::numbers::pi);
        const double kept = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
        const double share = std::clamp(kept, 0.0, 1.0);
        rate *= share + (1.0 - share) / s.factor;
        break;
      }
      case RopeScaling::Kind::yarn:
        rate *= shares[i];
        break;
    }
  }
  return rates;
}

}  // namespace fusedlm
