#pragma once
// A byte-level GPT: RMSNorm, rotary positions, SwiGLU, as Llama has them. Forward and backward are a
// sequence of kernel calls on memory that is laid out once.

#include <cstdint>
#include <span>
#include <vector>

#include "tensor.h"

struct Shape {
  index_t layers = 2, width = 128, heads = 4, ffn_width = 320, vocab = 256;
  index_t head_width() const { return width / heads; }
};

/// A weight, its gradient, and AdamW's two moments, all float32.
struct Parameter {
  Parameter(std::initializer_list<index_t> shape, float scale, uint64_t seed);
  static Parameter ones(index_t size);

  Tensor value, grad, mean, variance;
};

struct Layer {
  Layer(const Shape& shape, uint64_t seed);

  Parameter attention_norm, qkv, out, ffn_norm, gate, up, down;
};

/// What the forward of B texts of T tokens keeps for the backward, layer by layer.
struct Activations {
  Activations(const Shape& shape, DType dtype, index_t B, index_t T);

  struct Layer {
    Layer(const Shape& shape, DType dtype, index_t B, index_t T);
    Tensor attention_normed, attention_rstd;  // [N, C], [N]
    Tensor qkv, turned;                       // [N, 3C], and query and key with positions [N, 2C]
    Tensor mixed, lse;                        // [N, C], [B, H, T]
    Tensor after_attention;                   // [N, C]
    Tensor ffn_normed, ffn_rstd;
    Tensor gate, up;  // [N, F]
    Tensor after_ffn;
  };

  index_t B, T;
  Tensor embedded;
  std::vector<Layer> layers;
  Tensor normed, rstd;
};

/// Gradients of activations, which each layer needs only while the backward passes through it.
struct Gradients {
  Gradients(const Shape& shape, DType dtype, index_t B, index_t T);

  Tensor stream, other_stream;  // of what runs past the layers [N, C]; they take turns
  Tensor normed, mixed, turned, qkv;
};

class Gpt {
 public:
  Gpt(const Shape& shape, index_t context, uint64_t seed);

  /// Fills `kept`, up to the final norm, from tokens [B * T].
  void forward(std::span<int64_t> tokens, Activations& kept) const;
  /// Mean cross-entropy against targets [B * T]; writes every parameter's gradient.
  float loss_and_gradients(std::span<int64_t> tokens, std::span<int64_t> targets, Activations& kept,
                           Gradients& grads);
  /// The token after `tokens`, at most a context of them.
  int64_t next(std::span<int64_t> tokens, double temperature, uint64_t seed) const;

  std::vector<Parameter*> parameters();
  index_t size();
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }

 private:
  void attention(const Layer& layer, const TensorView& x, Activations::Layer& kept,
                 index_t T) const;
  void feed_forward(const Layer& layer, Activations::Layer& kept) const;
  void attention_backward(Layer& layer, const TensorView& x, const Activations::Layer& kept,
                          Gradients& grads, index_t T) const;
  void feed_forward_backward(Layer& layer, const Activations::Layer& kept, Gradients& grads) const;

  Shape shape_;
  DType dtype_;  // of activations
  Parameter embedding_;
  std::vector<Layer> layers_;
  Parameter final_norm_, head_;
  Tensor cos_, sin_;  // [context, D / 2]
};
