#include "engine/step.h"

#include <algorithm>
#include <cmath>

#include "engine/decoder_kernels.h"
#include "engine/exact_linear.h"

namespace fusedlm::engine {
namespace {

size_t bytes_of(const DecoderConfig& c, index_t rows) {
  const index_t columns =
      2 * c.width + (2 * c.heads + 2 * c.kv_heads) * c.head_width + c.ffn_width + c.heads;
  return static_cast<size_t>(rows * columns) * sizeof(float);
}

index_t asked_rows(std::span<const Segment> segments) {
  index_t rows = 0;
  for (const Segment& s : segments) {
    rows += logit_rows(s.logits, static_cast<index_t>(s.tokens.size()));
  }
  return rows;
}

TensorView vector_view(const float* data, index_t size) {
  if (!data) return {};
  return {const_cast<float*>(data), DType::float32, {size}};
}

}  // namespace

DecoderStep::DecoderStep(std::shared_ptr<const Model> model, DType dtype, index_t most_rows)
    : model_(std::move(model)),
      config_(model_->config),
      dtype_(dtype),
      rope_(config_),
      memory_(bytes_of(config_, most_rows), "activations") {
  auto* at = reinterpret_cast<float*>(memory_.data());
  const auto take = [&](index_t columns) {
    float* start = at;
    at += most_rows * columns;
    return start;
  };
  const index_t heads = config_.heads * config_.head_width;
  stream_ = take(config_.width);
  x_ = take(config_.width);
  qkv_ = take(heads + 2 * config_.kv_heads * config_.head_width);
  mixed_ = take(heads);
  hidden_ = take(config_.ffn_width);
  lse_ = take(config_.heads);
}

void DecoderStep::run(std::span<const Segment> segments, PagedCache& cache, float* logits,
                      Context& ctx) {
  place_rows(segments);
  embed(ctx);
  for (index_t layer = 0; layer < config_.layers; ++layer) {
    attention_block(layer, segments, cache, ctx);
    if (rows_ == 0) return;
    ffn_block(model_->layers[static_cast<size_t>(layer)], ctx);
  }
  rows_ = asked_rows(segments);
  write_logits(logits, ctx);
}

void DecoderStep::place_rows(std::span<const Segment> segments) {
  tokens_.clear(), positions_.clear(), slots_.clear();
  index_t longest = 0;
  for (const Segment& s : segments) {
    const auto count = static_cast<index_t>(s.tokens.size());
    for (index_t at = s.start; at < s.start + count; ++at) {
      positions_.push_back(static_cast<int32_t>(at));
      const int32_t page = s.pages[static_cast<size_t>(at / kPageTokens)];
      slots_.push_back(page * kPageTokens + at % kPageTokens);
    }
    tokens_.insert(tokens_.end(), s.tokens.begin(), s.tokens.end());
    longest = std::max(longest, s.start + count);
  }
  rows_ = static_cast<index_t>(tokens_.size());
  streamed_ = rows_ <= QuantizedLinear::kStreamedRows;
  act_ = streamed_ ? DType::float32 : dtype_;
  turns_ = rope_.rows(longest);
  table_width_ = pages_of(longest);
  tables_for_rows(segments);
}

// A row of the table for each token where every token is a row of attention, else for each segment.
void DecoderStep::tables_for_rows(std::span<const Segment> segments) {
  lengths_.clear(), table_.clear();
  const auto add = [&](const Segment& s, index_t length) {
    lengths_.push_back(static_cast<int32_t>(length));
    const index_t used = pages_of(length);
    table_.insert(table_.end(), s.pages.begin(), s.pages.begin() + used);
    table_.resize(table_.size() + static_cast<size_t>(table_width_ - used));
  };
  for (const Segment& s : segments) {
    const auto count = static_cast<index_t>(s.tokens.size());
    if (!streamed_) {
      add(s, s.start + count);
      continue;
    }
    for (index_t i = 1; i <= count; ++i) add(s, s.start + i);
  }
}

void DecoderStep::embed(Context& ctx) {
  const index_t C = config_.width;
  const auto row_of = [&](const Weight& table, index_t row, void* to) {
    dequantize({.weight = table, .first = row, .out = {to, DType::float32, {1, C}}}, ctx);
  };
  for (index_t n = 0; n < rows_; ++n) {
    float* to = stream_ + n * C;
    row_of(model_->embedding, tokens_[static_cast<size_t>(n)], to);
    if (!model_->position_embedding.defined()) continue;
    auto* position = static_cast<float*>(x_);
    row_of(model_->position_embedding, positions_[static_cast<size_t>(n)], position);
    for (index_t c = 0; c < C; ++c) to[c] += position[c];
  }
}

void DecoderStep::norm(const TensorView& x, const NormWeights& weights, const TensorView& y,
                       Context& ctx) {
  norm_rows({.x = x, .y = y, .weights = weights, .norm = config_.norm, .eps = config_.norm_eps},
            ctx);
}

void DecoderStep::product(const QuantizedLinear& args, Context& ctx) {
  dtype_ == DType::float32 ? exact_linear(args, ctx) : quantized_linear(args, ctx);
}

void DecoderStep::attention_block(index_t layer, std::span<const Segment> segments,
                                  PagedCache& cache, Context& ctx) {
  const LayerWeights& w = model_->layers[static_cast<size_t>(layer)];
  const index_t H = config_.heads, G = config_.kv_heads, D = config_.head_width;
  const TensorView x = activations(x_, config_.width), qkv = activations(qkv_, (H + 2 * G) * D);
  norm(stream(), w.attention_norm, x, ctx);
  QuantizedLinear args;
  args.x = x, args.y = qkv;
  args.count = w.qkv_count;
  for (size_t i = 0; i < static_cast<size_t>(w.qkv_count); ++i) {
    args.weights[i] = w.qkv[i];
    args.bias[i] = vector_view(w.qkv_bias[i], w.qkv[i].rows);
  }
  product(args, ctx);
  heads_to_cache({.qkv = {qkv_, act_, {rows_, H + 2 * G, D}},
                  .key = cache.key(layer),
                  .value = cache.value(layer),
                  .positions = positions_.data(),
                  .slots = slots_.data(),
                  .query_norm = w.query_norm.weight,
                  .key_norm = w.key_norm.weight,
                  .eps = config_.norm_eps,
                  .rope = turns_},
                 ctx);
  const bool last = layer == config_.layers - 1;
  if (last && asked_rows(segments) == 0) {
    rows_ = 0;
    return;
  }
  attend(layer, segments, cache, ctx);
  if (last) keep_asked_rows(segments);
  args = {};
  args.x = activations(mixed_, H * D);
  args.weights[0] = w.out, args.bias[0] = vector_view(w.out_bias, config_.width);
  args.residual = args.y = stream();
  product(args, ctx);
}

void DecoderStep::attend(index_t layer, std::span<const Segment> segments, PagedCache& cache,
                         Context& ctx) {
  const index_t H = config_.heads, G = config_.kv_heads, D = config_.head_width;
  AttentionForward args;
  args.key = cache.key(layer), args.value = cache.value(layer);
  args.options.causal = true;
  args.options.window = config_.windows.empty() ? 0 : config_.windows[static_cast<size_t>(layer)];
  args.options.scale = 1.0f / std::sqrt(static_cast<float>(D));
  const index_t element = size_of(act_), query_step = (H + 2 * G) * D;
  index_t first = 0, number = 0;
  // B rows of T tokens each, from row `first` on, with the rows of the table from `number` on.
  const auto call = [&](index_t B, index_t T) {
    args.query = {static_cast<char*>(qkv_) + first * query_step * element, act_, {B, T, H, D}};
    args.query.strides = {T * query_step, query_step, D, 1};
    args.out = {static_cast<char*>(mixed_) + first * H * D * element, act_, {B, T, H, D}};
    args.lse = {lse_, DType::float32, {B, H, T}};
    args.options.kv_lengths = {lengths_.data() + number, DType::int32, {B}};
    args.options.block_table = {
        table_.data() + number * table_width_, DType::int32, {B, table_width_}};
    attention_forward(args, ctx);
    first += B * T, number += B;
  };
  if (streamed_) return call(rows_, 1);
  for (const Segment& s : segments) call(1, static_cast<index_t>(s.tokens.size()));
}

// Behind the last layer's attention no row needs another: those whose logits nobody asks for are left out. Yet so
// many stay that the products are those of many rows, as they would be with other sequences beside.
void DecoderStep::keep_asked_rows(std::span<const Segment> segments) {
  const index_t C = config_.width, mixed = config_.heads * config_.head_width * size_of(act_);
  index_t row = 0, kept = 0;
  for (const Segment& s : segments) {
    const auto count = static_cast<index_t>(s.tokens.size());
    const index_t asked = logit_rows(s.logits, count), from = row + count - asked;
    if (kept != from) {
      auto* rows = static_cast<std::byte*>(mixed_);
      std::copy_n(rows + from * mixed, asked * mixed, rows + kept * mixed);
      std::copy_n(stream_ + from * C, asked * C, stream_ + kept * C);
    }
    kept += asked;
    row += count;
  }
  rows_ = streamed_ ? kept : std::max(kept, QuantizedLinear::kStreamedRows + 1);
}

void DecoderStep::ffn_block(const LayerWeights& w, Context& ctx) {
  const index_t C = config_.width, F = config_.ffn_width;
  const TensorView x = activations(x_, C), hidden = activations(hidden_, F);
  norm(stream(), w.ffn_norm, x, ctx);
  QuantizedLinear args;
  args.x = x, args.y = hidden;
  args.activation = config_.activation;
  args.gated = config_.gated;
  if (config_.gated) {
    args.count = 2;
    args.weights = {w.gate, w.up, {}};
    args.bias = {vector_view(w.gate_bias, F), vector_view(w.up_bias, F), {}};
  } else {
    args.weights[0] = w.up, args.bias[0] = vector_view(w.up_bias, F);
  }
  product(args, ctx);
  args = {};
  args.x = hidden;
  args.weights[0] = w.down, args.bias[0] = vector_view(w.down_bias, C);
  args.residual = args.y = stream();
  product(args, ctx);
}

void DecoderStep::write_logits(float* logits, Context& ctx) {
  const TensorView x(x_, DType::float32, {rows_, config_.width});
  norm(stream(), model_->final_norm, x, ctx);
  QuantizedLinear args;
  args.x = x, args.weights[0] = model_->head;
  args.y = {logits, DType::float32, {rows_, config_.vocab_size}};
  product(args, ctx);
}

}  // namespace fusedlm::engine
