#include "gpt.h"

#include <fusedlm/attention.h>
#include <fusedlm/embedding.h>
#include <fusedlm/ffn.h>
#include <fusedlm/linear.h>
#include <fusedlm/linear_cross_entropy.h>
#include <fusedlm/rms_norm.h>
#include <fusedlm/rope.h>
#include <fusedlm/sampling.h>

#include <cmath>
#include <random>

using namespace fusedlm;

namespace {

constexpr float kEps = 1e-5f;

Context& here() { return Context::current(); }

TensorView tokens_view(std::span<int64_t> tokens) {
  return {tokens.data(), DType::int64, {static_cast<index_t>(tokens.size())}};
}

void norm(const TensorView& x, const Parameter& weight, const Tensor& y, const Tensor& rstd) {
  rms_norm_forward({.x = x, .weight = weight.value, .y = y, .rstd = rstd, .eps = kEps}, here());
}

/// The gradient `past` that runs beside the norm is added in the same pass.
void norm_backward(const TensorView& dy, const TensorView& x, Parameter& weight, const Tensor& rstd,
                   const TensorView& past, const TensorView& dx) {
  rms_norm_backward({.dy = dy,
                     .x = x,
                     .weight = weight.value,
                     .rstd = rstd,
                     .dsum = past,
                     .dx = dx,
                     .dweight = weight.grad},
                    here());
}

}  // namespace

Parameter::Parameter(std::initializer_list<index_t> shape, float scale, uint64_t seed)
    : value(DType::float32, shape),
      grad(DType::float32, shape),
      mean(DType::float32, shape),
      variance(DType::float32, shape) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  for (index_t i = 0; i < value.view().numel(); ++i) value.data<float>()[i] = normal(random);
}

Parameter Parameter::ones(index_t size) {
  Parameter parameter({size}, 0.0f, 0);
  std::fill_n(parameter.value.data<float>(), size, 1.0f);
  return parameter;
}

Layer::Layer(const Shape& s, uint64_t seed)
    : attention_norm(Parameter::ones(s.width)),
      qkv({3 * s.width, s.width}, 0.02f, seed),
      out({s.width, s.width}, 0.02f, seed + 1),
      ffn_norm(Parameter::ones(s.width)),
      gate({s.ffn_width, s.width}, 0.02f, seed + 2),
      up({s.ffn_width, s.width}, 0.02f, seed + 3),
      down({s.width, s.ffn_width}, 0.02f, seed + 4) {}

Activations::Layer::Layer(const Shape& s, DType dtype, index_t B, index_t T)
    : attention_normed(dtype, {B * T, s.width}),
      attention_rstd(DType::float32, {B * T}),
      qkv(dtype, {B * T, 3 * s.width}),
      turned(dtype, {B * T, 2 * s.width}),
      mixed(dtype, {B * T, s.width}),
      lse(DType::float32, {B, s.heads, T}),
      after_attention(dtype, {B * T, s.width}),
      ffn_normed(dtype, {B * T, s.width}),
      ffn_rstd(DType::float32, {B * T}),
      gate(dtype, {B * T, s.ffn_width}),
      up(dtype, {B * T, s.ffn_width}),
      after_ffn(dtype, {B * T, s.width}) {}

Activations::Activations(const Shape& shape, DType dtype, index_t B, index_t T)
    : B(B),
      T(T),
      embedded(dtype, {B * T, shape.width}),
      normed(dtype, {B * T, shape.width}),
      rstd(DType::float32, {B * T}) {
  for (index_t l = 0; l < shape.layers; ++l) layers.emplace_back(shape, dtype, B, T);
}

Gradients::Gradients(const Shape& s, DType dtype, index_t B, index_t T)
    : stream(dtype, {B * T, s.width}),
      other_stream(dtype, {B * T, s.width}),
      normed(dtype, {B * T, s.width}),
      mixed(dtype, {B * T, s.width}),
      turned(dtype, {B * T, 2 * s.width}),
      qkv(dtype, {B * T, 3 * s.width}) {}

Gpt::Gpt(const Shape& shape, index_t context, uint64_t seed)
    : shape_(shape),
      dtype_(current_isa() == Isa::avx512_bf16 ? DType::bfloat16 : DType::float32),
      embedding_({shape.vocab, shape.width}, 0.02f, seed),
      final_norm_(Parameter::ones(shape.width)),
      head_({shape.vocab, shape.width}, 0.02f, seed + 1),
      cos_(DType::float32, {context, shape.head_width() / 2}),
      sin_(DType::float32, {context, shape.head_width() / 2}) {
  for (index_t l = 0; l < shape.layers; ++l) layers_.emplace_back(shape, seed + 10 * (l + 1));
  const index_t pairs = shape.head_width() / 2;
  for (index_t p = 0; p < context; ++p) {
    for (index_t i = 0; i < pairs; ++i) {
      const double angle =
          static_cast<double>(p) * std::pow(10000.0, -static_cast<double>(i) / pairs);
      cos_.data<float>()[p * pairs + i] = static_cast<float>(std::cos(angle));
      sin_.data<float>()[p * pairs + i] = static_cast<float>(std::sin(angle));
    }
  }
}

void Gpt::attention(const Layer& layer, const TensorView& x, Activations::Layer& kept,
                    index_t T) const {
  const index_t H = shape_.heads, D = shape_.head_width(), C = shape_.width;
  norm(x, layer.attention_norm, kept.attention_normed, kept.attention_rstd);
  linear_forward({.x = kept.attention_normed, .weight = layer.qkv.value, .y = kept.qkv}, here());
  // Query and key heads lie side by side, so that one call turns both.
  rope({.x = heads_of(kept.qkv, T, 0, 2 * H, D),
        .cos = cos_,
        .sin = sin_,
        .y = heads_of(kept.turned, T, 0, 2 * H, D)},
       here());
  attention_forward({.query = heads_of(kept.turned, T, 0, H, D),
                     .key = heads_of(kept.turned, T, C, H, D),
                     .value = heads_of(kept.qkv, T, 2 * C, H, D),
                     .out = heads_of(kept.mixed, T, 0, H, D),
                     .lse = kept.lse,
                     .options = {.causal = true, .scale = 1 / std::sqrt(static_cast<float>(D))}},
                    here());
  linear_forward(
      {.x = kept.mixed, .weight = layer.out.value, .residual = x, .y = kept.after_attention},
      here());
}

void Gpt::feed_forward(const Layer& layer, Activations::Layer& kept) const {
  norm(kept.after_attention, layer.ffn_norm, kept.ffn_normed, kept.ffn_rstd);
  ffn_forward({.x = kept.ffn_normed,
               .up_weight = layer.up.value,
               .gate_weight = layer.gate.value,
               .down_weight = layer.down.value,
               .residual = kept.after_attention,
               .up = kept.up,
               .gate = kept.gate,
               .y = kept.after_ffn,
               .activation = Activation::silu},
              here());
}

void Gpt::forward(std::span<int64_t> tokens, Activations& kept) const {
  embedding_forward(
      {.tokens = tokens_view(tokens), .weight = embedding_.value, .out = kept.embedded}, here());
  TensorView x = kept.embedded;
  for (size_t l = 0; l < layers_.size(); ++l) {
    attention(layers_[l], x, kept.layers[l], kept.T);
    feed_forward(layers_[l], kept.layers[l]);
    x = kept.layers[l].after_ffn;
  }
  norm(x, final_norm_, kept.normed, kept.rstd);
}

void Gpt::feed_forward_backward(Layer& layer, const Activations::Layer& kept,
                                Gradients& grads) const {
  ffn_backward({.dy = grads.stream,
                .x = kept.ffn_normed,
                .up_weight = layer.up.value,
                .gate_weight = layer.gate.value,
                .down_weight = layer.down.value,
                .up = kept.up,
                .gate = kept.gate,
                .dx = grads.normed,
                .dup_weight = layer.up.grad,
                .dgate_weight = layer.gate.grad,
                .ddown_weight = layer.down.grad,
                .activation = Activation::silu},
               here());
  norm_backward(grads.normed, kept.after_attention, layer.ffn_norm, kept.ffn_rstd, grads.stream,
                grads.other_stream);
}

void Gpt::attention_backward(Layer& layer, const TensorView& x, const Activations::Layer& kept,
                             Gradients& grads, index_t T) const {
  const index_t H = shape_.heads, D = shape_.head_width(), C = shape_.width;
  linear_backward({.dy = grads.other_stream,
                   .x = kept.mixed,
                   .weight = layer.out.value,
                   .dx = grads.mixed,
                   .dweight = layer.out.grad},
                  here());
  fusedlm::attention_backward(
      {.dout = heads_of(grads.mixed, T, 0, H, D),
       .query = heads_of(kept.turned, T, 0, H, D),
       .key = heads_of(kept.turned, T, C, H, D),
       .value = heads_of(kept.qkv, T, 2 * C, H, D),
       .out = heads_of(kept.mixed, T, 0, H, D),
       .lse = kept.lse,
       .dquery = heads_of(grads.turned, T, 0, H, D),
       .dkey = heads_of(grads.turned, T, C, H, D),
       .dvalue = heads_of(grads.qkv, T, 2 * C, H, D),
       .options = {.causal = true, .scale = 1 / std::sqrt(static_cast<float>(D))}},
      here());
  rope({.x = heads_of(grads.turned, T, 0, 2 * H, D),
        .cos = cos_,
        .sin = sin_,
        .y = heads_of(grads.qkv, T, 0, 2 * H, D),
        .inverse = true},
       here());
  linear_backward({.dy = grads.qkv,
                   .x = kept.attention_normed,
                   .weight = layer.qkv.value,
                   .dx = grads.normed,
                   .dweight = layer.qkv.grad},
                  here());
  norm_backward(grads.normed, x, layer.attention_norm, kept.attention_rstd, grads.other_stream,
                grads.stream);
}

float Gpt::loss_and_gradients(std::span<int64_t> tokens, std::span<int64_t> targets,
                              Activations& kept, Gradients& grads) {
  forward(tokens, kept);
  float loss = 0;
  linear_cross_entropy({.x = kept.normed,
                        .weight = head_.value,
                        .targets = tokens_view(targets),
                        .loss = TensorView(&loss, DType::float32, {1}),
                        .dx = grads.normed,
                        .dweight = head_.grad},
                       here());
  norm_backward(grads.normed, kept.layers.back().after_ffn, final_norm_, kept.rstd, {},
                grads.stream);
  for (size_t l = layers_.size(); l-- > 0;) {
    feed_forward_backward(layers_[l], kept.layers[l], grads);
    const TensorView& x = l > 0 ? kept.layers[l - 1].after_ffn : kept.embedded;
    attention_backward(layers_[l], x, kept.layers[l], grads, kept.T);
  }
  embedding_backward(
      {.dout = grads.stream, .tokens = tokens_view(tokens), .dweight = embedding_.grad}, here());
  return loss;
}

int64_t Gpt::next(std::span<int64_t> tokens, double temperature, uint64_t seed) const {
  const auto T = static_cast<index_t>(tokens.size());
  Activations kept(shape_, dtype_, 1, T);
  forward(tokens, kept);
  const Tensor logits(dtype_, {1, shape_.vocab});
  const TensorView last(kept.normed.view().row<char>((T - 1) * size_of(dtype_)), dtype_,
                        {1, shape_.width});
  linear_forward({.x = last, .weight = head_.value, .y = logits}, here());
  int64_t token = 0;
  sample({.logits = logits,
          .tokens = TensorView(&token, DType::int64, {1}),
          .temperature = temperature,
          .seed = seed},
         here());
  return token;
}

std::vector<Parameter*> Gpt::parameters() {
  std::vector<Parameter*> all{&embedding_};
  for (Layer& layer : layers_) {
    for (Parameter* p : {&layer.attention_norm, &layer.qkv, &layer.out, &layer.ffn_norm,
                         &layer.gate, &layer.up, &layer.down}) {
      all.push_back(p);
    }
  }
  all.insert(all.end(), {&final_norm_, &head_});
  return all;
}

index_t Gpt::size() {
  index_t count = 0;
  for (const Parameter* p : parameters()) count += p->value.view().numel();
  return count;
}
