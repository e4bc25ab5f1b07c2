#pragma once
// Decoders with random weights in memory, and what they compute in double.

#include <map>
#include <memory>

#include "fusedlm/engine.h"
#include "support.h"

namespace fusedlm::test {

/// What a decoder of the tests has besides its config.
struct Extras {
  bool bias = false, qk_norm = false, tied = true;
};

struct SmallDecoder {
  std::string name;
  DecoderConfig config;
  std::map<std::string, Buffer> tensors;
  std::shared_ptr<const Model> model;

  SmallDecoder(std::string name, DecoderConfig given, Extras extras, DType dtype = DType::float32,
               LoadOptions options = {})
      : name(std::move(name)), config(std::move(given)) {
    const index_t C = config.width, D = config.head_width, F = config.ffn_width;
    const index_t heads = config.heads * D, all_heads = heads + 2 * config.kv_heads * D;
    const auto matrix = [&](const std::string& tensor, index_t rows, index_t cols) {
      // Some signal at every depth, and logits that differ.
      const double scale = 2.0 / std::sqrt(static_cast<double>(cols));
      tensors.emplace(tensor, random({rows, cols}, tensors.size(), dtype, scale));
    };
    const auto vector = [&](const std::string& tensor, index_t size, double around) {
      Buffer values = random({size}, tensors.size(), DType::float32, 0.3);
      for (index_t i = 0; i < size; ++i) values.set(i, values[i] + around);
      tensors.emplace(tensor, values);
    };
    const auto norm = [&](const std::string& tensor) {
      vector(tensor + ".weight", C, 1.0);
      if (config.norm == Norm::layer_norm && extras.bias) vector(tensor + ".bias", C, 0.0);
    };
    matrix("embedding.weight", config.vocab_size, C);
    if (config.positions == Positions::learned) {
      matrix("embedding.position_weight", config.context, C);
    }
    for (index_t layer = 0; layer < config.layers; ++layer) {
      const std::string block = "blocks." + std::to_string(layer) + ".";
      norm(block + "attention_norm");
      norm(block + "ffn_norm");
      matrix(block + "attention.qkv.weight", all_heads, C);
      matrix(block + "attention.out.weight", C, heads);
      if (config.gated) matrix(block + "ffn.gate_weight", F, C);
      matrix(block + "ffn.up_weight", F, C);
      matrix(block + "ffn.down_weight", C, F);
      if (extras.bias) {
        vector(block + "attention.qkv.bias", all_heads, 0.0);
        vector(block + "attention.out.bias", C, 0.0);
        if (config.gated) vector(block + "ffn.gate_bias", F, 0.0);
        vector(block + "ffn.up_bias", F, 0.0);
        vector(block + "ffn.down_bias", C, 0.0);
      }
      if (extras.qk_norm) {
        vector(block + "attention.query_norm.weight", D, 1.0);
        vector(block + "attention.key_norm.weight", D, 1.0);
      }
    }
    norm("final_norm");
    if (!extras.tied) matrix("head.weight", config.vocab_size, C);
    std::map<std::string, TensorView> views;
    for (const auto& [tensor, buffer] : tensors) views[tensor] = buffer.view();
    model = Model::from_tensors(config, views, nullptr, options);
  }

  const Buffer& at(const std::string& tensor) const { return tensors.at(tensor); }
  const Buffer* find(const std::string& tensor) const {
    const auto found = tensors.find(tensor);
    return found == tensors.end() ? nullptr : &found->second;
  }
};

inline DecoderConfig llama_config() {
  DecoderConfig c;
  c.family = "fusedlm";
  c.vocab_size = 71, c.context = 256, c.layers = 2, c.width = 48;
  c.heads = 4, c.kv_heads = 2, c.head_width = 16, c.ffn_width = 80;
  return c;
}

inline DecoderConfig gpt2_config() {
  DecoderConfig c = llama_config();
  c.kv_heads = 4;
  c.norm = Norm::layer_norm;
  c.activation = Activation::gelu_tanh;
  c.gated = false;
  c.positions = Positions::learned;
  return c;
}

namespace detail {

inline Matrix norm_of(const SmallDecoder& d, const Matrix& x, const std::string& tensor) {
  const Buffer& weight = d.at(tensor + ".weight");
  const Buffer* bias = d.find(tensor + ".bias");
  Matrix y = x;
  for (index_t r = 0; r < x.rows; ++r) {
    double mean = 0, squares = 0;
    for (index_t c = 0; c < x.columns && d.config.norm == Norm::layer_norm; ++c) {
      mean += x(r, c) / static_cast<double>(x.columns);
    }
    for (index_t c = 0; c < x.columns; ++c) squares += std::pow(x(r, c) - mean, 2.0);
    const double scale =
        1.0 / std::sqrt(squares / static_cast<double>(x.columns) + d.config.norm_eps);
    for (index_t c = 0; c < x.columns; ++c) {
      y(r, c) = (x(r, c) - mean) * scale * weight[c] + (bias ? (*bias)[c] : 0.0);
    }
  }
  return y;
}

inline Matrix linear_of(const SmallDecoder& d, const Matrix& x, const std::string& weight,
                        const std::string& bias) {
  const Matrix y = x * Matrix(d.at(weight)).transposed();
  const Buffer* b = d.find(bias);
  return b ? y.plus_to_each_row(*b) : y;
}

// A head of row r, starting at column c, normalised and turned to position r.
inline void turn(const SmallDecoder& d, Matrix& x, index_t r, index_t c, const Buffer* norm) {
  const index_t D = d.config.head_width;
  if (norm) {
    double squares = 0;
    for (index_t i = 0; i < D; ++i) squares += x(r, c + i) * x(r, c + i);
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(D) + d.config.norm_eps);
    for (index_t i = 0; i < D; ++i) x(r, c + i) *= scale * (*norm)[i];
  }
  if (d.config.positions != Positions::rope) return;
  const std::vector<double> rates = rope_rates(d.config);
  for (index_t i = 0; i < D / 2; ++i) {
    const index_t first = d.config.rope_interleaved ? c + 2 * i : c + i;
    const index_t second = d.config.rope_interleaved ? first + 1 : first + D / 2;
    const double angle = static_cast<double>(r) * rates[static_cast<size_t>(i)];
    const double a = x(r, first), b = x(r, second);
    x(r, first) = a * std::cos(angle) - b * std::sin(angle);
    x(r, second) = b * std::cos(angle) + a * std::sin(angle);
  }
}

inline Matrix attention_of(const SmallDecoder& d, Matrix qkv, index_t layer) {
  const DecoderConfig& c = d.config;
  const index_t D = c.head_width, T = qkv.rows;
  const std::string block = "blocks." + std::to_string(layer) + ".attention.";
  for (index_t r = 0; r < T; ++r) {
    for (index_t h = 0; h < c.heads + c.kv_heads; ++h) {
      turn(d, qkv, r, h * D,
           d.find(block + (h < c.heads ? "query_norm.weight" : "key_norm.weight")));
    }
  }
  const index_t window = c.windows.empty() ? 0 : c.windows[static_cast<size_t>(layer)];
  Matrix mixed(T, c.heads * D);
  for (index_t h = 0; h < c.heads; ++h) {
    const index_t g = h / (c.heads / c.kv_heads);
    const index_t key = (c.heads + g) * D, value = (c.heads + c.kv_heads + g) * D;
    for (index_t t = 0; t < T; ++t) {
      const index_t first = window ? std::max<index_t>(0, t - window + 1) : 0;
      std::vector<double> weight;
      double sum = 0;
      for (index_t j = first; j <= t; ++j) {
        double score = 0;
        for (index_t i = 0; i < D; ++i) score += qkv(t, h * D + i) * qkv(j, key + i);
        weight.push_back(std::exp(score / std::sqrt(static_cast<double>(D))));
        sum += weight.back();
      }
      for (index_t j = first; j <= t; ++j) {
        for (index_t i = 0; i < D; ++i) {
          mixed(t, h * D + i) += weight[static_cast<size_t>(j - first)] / sum * qkv(j, value + i);
        }
      }
    }
  }
  return mixed;
}

inline void add(Matrix& to, const Matrix& from) {
  for (size_t i = 0; i < to.values.size(); ++i) to.values[i] += from.values[i];
}

}  // namespace detail

/// Logits [T, V] after each of the tokens.
inline Matrix reference_logits(const SmallDecoder& d, const std::vector<int32_t>& tokens) {
  using namespace detail;
  const DecoderConfig& c = d.config;
  const auto T = static_cast<index_t>(tokens.size());
  Matrix x(T, c.width);
  for (index_t t = 0; t < T; ++t) {
    for (index_t i = 0; i < c.width; ++i) {
      x(t, i) = d.at("embedding.weight")[tokens[static_cast<size_t>(t)] * c.width + i];
      if (const Buffer* p = d.find("embedding.position_weight")) x(t, i) += (*p)[t * c.width + i];
    }
  }
  for (index_t layer = 0; layer < c.layers; ++layer) {
    const std::string block = "blocks." + std::to_string(layer) + ".";
    const Matrix qkv = linear_of(d, norm_of(d, x, block + "attention_norm"),
                                 block + "attention.qkv.weight", block + "attention.qkv.bias");
    add(x, linear_of(d, attention_of(d, qkv, layer), block + "attention.out.weight",
                     block + "attention.out.bias"));
    const Matrix y = norm_of(d, x, block + "ffn_norm");
    Matrix hidden = linear_of(d, y, block + "ffn.up_weight", block + "ffn.up_bias");
    if (c.gated) {
      const Matrix gate = linear_of(d, y, block + "ffn.gate_weight", block + "ffn.gate_bias");
      for (size_t i = 0; i < hidden.values.size(); ++i) {
        hidden.values[i] *= activate(c.activation, gate.values[i]);
      }
    } else {
      for (double& value : hidden.values) value = activate(c.activation, value);
    }
    add(x, linear_of(d, hidden, block + "ffn.down_weight", block + "ffn.down_bias"));
  }
  const Buffer* head = d.find("head.weight");
  return norm_of(d, x, "final_norm") * Matrix(head ? *head : d.at("embedding.weight")).transposed();
}

inline std::vector<int32_t> random_tokens(index_t count, index_t V, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::vector<int32_t> tokens;
  for (index_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(engine() % static_cast<uint64_t>(V)));
  }
  return tokens;
}

}  // namespace fusedlm::test
