#include "engine/model_builder.h"

#include <algorithm>
#include <cstring>

#include "engine/to_float32.h"
#include "fusedlm/arena.h"
#include "fusedlm/device.h"
#include "fusedlm/errors.h"

namespace fusedlm {
namespace {

std::string joined(const std::vector<std::string>& list) {
  std::string text;
  for (const std::string& item : list) text += (text.empty() ? "" : ", ") + item;
  return text;
}

/// The name that a pattern means for a layer; kind is "weight" or "bias".
std::string name_from(std::string pattern, index_t layer, const char* kind) {
  if (const size_t at = pattern.find("{}"); at != std::string::npos)
    pattern.replace(at, 2, std::to_string(layer));
  if (const size_t at = pattern.find('*'); at != std::string::npos) pattern.replace(at, 1, kind);
  return pattern;
}

}  // namespace

void check_config(const DecoderConfig& c, const std::string& where) {
  const auto bad = [&](const std::string& what) { throw CorruptFile(where + ": " + what); };
  const auto in_range = [&](const char* name, index_t value, index_t most) {
    if (value < 1 || value > most) {
      bad(std::string(name) + " is " + std::to_string(value) + ", expected 1 to " +
          std::to_string(most));
    }
  };
  in_range("vocab_size", c.vocab_size, kMostSize);
  in_range("context", c.context, kMostSize);
  in_range("layers", c.layers, kMostLayers);
  in_range("width", c.width, kMostSize);
  in_range("heads", c.heads, kMostSize);
  in_range("kv_heads", c.kv_heads, c.heads);
  in_range("head_width", c.head_width, kMostSize);
  in_range("heads * head_width", c.heads * c.head_width, kMostSize);
  in_range("ffn_width", c.ffn_width, kMostSize);
  if (c.heads % c.kv_heads != 0) {
    bad("kv_heads is " + std::to_string(c.kv_heads) +
        ", expected a divisor of heads = " + std::to_string(c.heads));
  }
  if (c.positions == Positions::rope && c.head_width % 2 != 0)
    bad("head_width is " + std::to_string(c.head_width) + ", expected an even number with RoPE");
  if (!(c.norm_eps > 0 && c.norm_eps < 1))
    bad("norm_eps is " + std::to_string(c.norm_eps) + ", expected a number above 0 and below 1");
  if (!c.windows.empty() && static_cast<index_t>(c.windows.size()) != c.layers) {
    bad("windows has " + std::to_string(c.windows.size()) + " entries, expected one for each of " +
        std::to_string(c.layers) + " layers");
  }
  for (index_t window : c.windows) {
    if (window < 0) bad("windows holds " + std::to_string(window) + ", expected at least 0");
  }
  if (c.rope_scaling.kind == RopeScaling::Kind::factors &&
      static_cast<index_t>(c.rope_scaling.factors.size()) * 2 != c.head_width) {
    bad("rope_scaling has " + std::to_string(c.rope_scaling.factors.size()) +
        " factors, expected head_width / 2 = " + std::to_string(c.head_width / 2));
  }
  for (int32_t id : c.eos_ids) {
    if (id < 0 || id >= c.vocab_size) {
      bad("the end-of-text token is " + std::to_string(id) +
          ", expected 0 to vocab_size - 1 = " + std::to_string(c.vocab_size - 1));
    }
  }
}

ModelBuilder::ModelBuilder(DecoderConfig config, Layout layout, const StoredTensors& stored,
                           const LoadOptions& options)
    : layout_(std::move(layout)),
      stored_(stored),
      options_(options),
      model_(std::make_shared<Model>()) {
  check_config(config, stored.path);
  config.windows.resize(config.layers);  // none given: no windows
  model_->config = std::move(config);
  for (const auto& keep : stored.keep)
    model_->owned_.push_back(std::const_pointer_cast<void>(keep));
}

std::shared_ptr<Model> ModelBuilder::build() {
  const DecoderConfig& c = model_->config;
  const TensorNames& names = layout_.names;
  Model& m = *model_;
  matrix(m.embedding, names.embedding, 0, c.vocab_size, c.width);
  if (c.positions == Positions::learned)
    matrix(m.position_embedding, names.position_embedding, 0, c.context, c.width);
  const bool tied = layout_.head == Presence::never ||
                    (layout_.head == Presence::if_stored &&
                     !stored_.tensors.contains(name_from(names.head, 0, "weight")));
  if (!tied) matrix(m.head, names.head, 0, c.vocab_size, c.width);
  if (layout_.head == Presence::never) used_.insert(name_from(names.head, 0, "weight"));
  m.final_norm = norm(names.final_norm, 0, c.width, layout_.norm_bias);
  m.layers.resize(c.layers);
  for (index_t i = 0; i < c.layers; ++i) layer(i);
  refuse_problems();
  finish();
  if (tied) m.head = m.embedding;

  count(m.embedding, tied);
  count(m.position_embedding, false);
  if (!tied) count(m.head, true);
  for (const LayerWeights& l : m.layers) {
    for (const Weight& w : l.qkv) count(w, true);
    for (const Weight* w : {&l.out, &l.gate, &l.up, &l.down}) count(*w, true);
  }
  return model_;
}

void ModelBuilder::layer(index_t index) {
  const DecoderConfig& c = model_->config;
  const TensorNames& names = layout_.names;
  LayerWeights& l = model_->layers[index];
  const index_t q = c.heads * c.head_width, kv = c.kv_heads * c.head_width;
  l.attention_norm = norm(names.attention_norm, index, c.width, layout_.norm_bias);
  l.ffn_norm = norm(names.ffn_norm, index, c.width, layout_.norm_bias);
  if (layout_.qk_norm != Presence::never) {
    l.query_norm.weight = vector(names.query_norm, "weight", index, c.head_width, layout_.qk_norm);
    l.key_norm.weight = vector(names.key_norm, "weight", index, c.head_width, layout_.qk_norm);
  }
  l.qkv_count = static_cast<int>(names.qkv.size());
  for (int i = 0; i < l.qkv_count; ++i) {
    const index_t rows = l.qkv_count == 1 ? q + 2 * kv : i == 0 ? q : kv;
    matrix(l.qkv[i], names.qkv[i], index, rows, c.width, layout_.transposed);
    l.qkv_bias[i] = vector(names.qkv[i], "bias", index, rows, layout_.qkv_bias);
  }
  matrix(l.out, names.out, index, c.width, q, layout_.transposed);
  l.out_bias = vector(names.out, "bias", index, c.width, layout_.out_bias);
  if (c.gated) {
    matrix(l.gate, names.gate, index, c.ffn_width, c.width, layout_.transposed);
    l.gate_bias = vector(names.gate, "bias", index, c.ffn_width, layout_.ffn_bias);
  }
  matrix(l.up, names.up, index, c.ffn_width, c.width, layout_.transposed);
  l.up_bias = vector(names.up, "bias", index, c.ffn_width, layout_.ffn_bias);
  matrix(l.down, names.down, index, c.width, c.ffn_width, layout_.transposed);
  l.down_bias = vector(names.down, "bias", index, c.width, layout_.ffn_bias);
}

NormWeights ModelBuilder::norm(const std::string& pattern, index_t layer, index_t size,
                               Presence bias) {
  return {vector(pattern, "weight", layer, size, Presence::always),
          vector(pattern, "bias", layer, size, bias)};
}

void ModelBuilder::matrix(Weight& into, const std::string& pattern, index_t layer, index_t rows,
                          index_t cols, bool transposed) {
  const std::string name = name_from(pattern, layer, "weight");
  const std::vector<index_t> shape = transposed ? std::vector{cols, rows} : std::vector{rows, cols};
  if (const auto found = find(name, shape, Presence::always)) {
    into = {found->data, nullptr, found->format, shape[0], shape[1]};
    placed_.push_back({&into, name, transposed});
  }
}

const float* ModelBuilder::vector(const std::string& pattern, const char* kind, index_t layer,
                                  index_t size, Presence presence) {
  if (presence == Presence::never) return nullptr;
  const auto found = find(name_from(pattern, layer, kind), {size}, presence);
  if (!found) return nullptr;
  const auto [data, format] = *found;
  const index_t stored_bytes = row_bytes(format, size);
  model_->parameters += size;
  model_->bytes += size * index_t{sizeof(float)};
  const bool aligned = reinterpret_cast<uintptr_t>(data) % alignof(float) == 0;
  if (format == WeightFormat::float32 && aligned) return static_cast<const float*>(data);
  auto* copy = static_cast<float*>(own(size * index_t{sizeof(float)}));
  if (format == WeightFormat::float32) {
    std::memcpy(copy, data, stored_bytes);
  } else {
    to_float32({data, nullptr, format, 1, size}, 0, 1, copy);
  }
  return copy;
}

std::optional<ModelBuilder::Found> ModelBuilder::find(const std::string& name,
                                                      const std::vector<index_t>& shape,
                                                      Presence presence) {
  const auto found = stored_.tensors.find(name);
  if (found == stored_.tensors.end()) {
    if (presence == Presence::always) missing_.push_back(name);
    return {};
  }
  used_.insert(name);
  const StoredTensor& tensor = found->second;
  if (tensor.shape != shape) {
    wrong_.push_back(name + " has shape " + shape_string(tensor.shape) + ", expected " +
                     shape_string(shape));
    return {};
  }
  if (!tensor.format) {
    throw Unsupported(stored_.path + ": tensor " + name + " is of type " + tensor.type +
                      ", expected F32, F16 or BF16");
  }
  return Found{tensor.data, *tensor.format};
}

Weight ModelBuilder::transpose(const Weight& weight) {
  const index_t size = row_bytes(weight.format, 1);  // families that need this have no blocks
  auto* to = static_cast<std::byte*>(own(weight.rows * weight.cols * size));
  const auto* from = static_cast<const std::byte*>(weight.data);
  constexpr index_t kTile = 32;  // rows of both sides stay in L1
  for (index_t r0 = 0; r0 < weight.rows; r0 += kTile) {
    for (index_t c0 = 0; c0 < weight.cols; c0 += kTile) {
      for (index_t c = c0; c < std::min(c0 + kTile, weight.cols); ++c) {
        for (index_t r = r0; r < std::min(r0 + kTile, weight.rows); ++r)
          std::memcpy(to + (c * weight.rows + r) * size, from + (r * weight.cols + c) * size, size);
      }
    }
  }
  return {to, nullptr, weight.format, weight.cols, weight.rows};
}

Weight ModelBuilder::convert(const Weight& from, const std::string& name, WeightFormat format) {
  if (from.format == format) return from;
  if (from.cols % block_size(format) != 0) {
    throw InvalidArgument("Model: " + name + " has rows of " + std::to_string(from.cols) +
                          " weights, " + name_of(format) + " takes whole blocks of " +
                          std::to_string(block_size(format)));
  }
  const index_t bytes = row_bytes(format, from.cols);
  auto* data = static_cast<std::byte*>(own(bytes * from.rows));
  const bool scaled = format == WeightFormat::int8;
  auto* scales = scaled ? static_cast<float*>(own(from.rows * index_t{sizeof(float)})) : nullptr;
  // Some rows at a time: as much float32 as stays in L2.
  const index_t step = std::clamp<index_t>((index_t{1} << 18) / from.cols, 1, from.rows);
  std::vector<float> rows(step * from.cols);
  for (index_t first = 0; first < from.rows; first += step) {
    const index_t count = std::min(step, from.rows - first);
    to_float32(from, first, count, rows.data());
    try {
      quantize({TensorView(rows.data(), DType::float32, {count, from.cols}), format,
                data + first * bytes, scaled ? scales + first : nullptr},
               Context::current());
    } catch (const InvalidArgument& error) {
      throw CorruptFile(stored_.path + ": " + name + ": " + error.what());
    }
  }
  return {data, scales, format, from.rows, from.cols};
}

void* ModelBuilder::own(index_t bytes) {
  auto block = std::make_shared<ArenaBlock>(static_cast<size_t>(bytes));
  void* data = block->data;
  model_->owned_.push_back(std::move(block));
  return data;
}

void ModelBuilder::count(const Weight& weight, bool read_each_step) {
  if (!weight.defined()) return;
  model_->parameters += weight.rows * weight.cols;
  if (!read_each_step) return;
  model_->bytes += weight.rows * row_bytes(weight.format, weight.cols);
  if (weight.scales) model_->bytes += weight.rows * index_t{sizeof(float)};
}

void ModelBuilder::refuse_problems() const {
  std::vector<std::string> unknown;
  for (const auto& [name, tensor] : stored_.tensors) {
    const auto is_end = [&](const std::string& ending) { return name.ends_with(ending); };
    const auto& ignored = layout_.names.ignored;
    if (!used_.contains(name) && std::none_of(ignored.begin(), ignored.end(), is_end))
      unknown.push_back(name);
  }
  std::string problems;
  const auto note = [&](const std::string& head, const std::vector<std::string>& list) {
    if (!list.empty()) problems += (problems.empty() ? "" : "; ") + head + joined(list);
  };
  note("tensors are missing: ", missing_);
  note("", wrong_);
  note("tensors that " + model_->config.family + " with this config does not have: ", unknown);
  if (!problems.empty()) throw CorruptFile(stored_.path + ": " + problems);
}

void ModelBuilder::finish() {
  for (auto& [weight, name, transposed] : placed_) {
    if (transposed) *weight = transpose(*weight);
    // Learned positions are read a few rows a step, and are small: they keep their format.
    if (options_.format && weight != &model_->position_embedding)
      *weight = convert(*weight, name, *options_.format);
  }
}

}  // namespace fusedlm
