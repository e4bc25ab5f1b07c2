// Products with weights in any format. Few rows of x (decoding): each thread reads long stretches of the weights,
// each row once, in the order they lie in; every leap from one place to another costs some microseconds.
// More rows (a prompt): a packed matrix multiply, in integers where a few rows are, which gives a prompt nearly
// the numbers that decoding it would have had; else of weights that are dequantised as they are packed.

#include "fusedlm/quantized_linear.h"

#include "core/read_ahead.h"
#include "cpu/activation.h"
#include "cpu/clock.h"
#include "cpu/gemm_views.h"
#include "cpu/quantized_gemm.h"
#include "cpu/quantized_rows.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

// Less than so many bytes of weights are not worth other threads.
constexpr index_t kLeastBytes = index_t{32} << 10;
// Outputs are dealt in units: as many as are summed at once where that is from 16 to 32 KiB of weights, which is
// also by how much one thread may end after the others.
constexpr index_t kUnitBytes = index_t{32} << 10;
// Sums that wait on the stack for their epilogue: outputs times rows of x.
constexpr index_t kBlock = 1024;
// Below so many elements of x its conversion is not worth other threads.
constexpr index_t kAlone = 16384;

template <class Fn>
void for_rows_of_x(const TensorView& x, Fn&& fn) {
  if (x.numel() <= kAlone) {
    for (index_t m = 0; m < x.shape[0]; ++m) fn(m);
  } else {
    parallel_for(x.shape[0], [&](index_t m, int) { fn(m); });
  }
}

#if defined(FUSEDLM_HAS_INTEGER_DOTS)
// Elements above so many root mean squares of their row want 16 bits: in the inputs of SmolLM2's products a
// third of the steps has some, and two thirds of the error.
constexpr float kLarge = 6.0f;

template <class T>
float root_mean_square(const T* x, index_t K) {
  Vec squares;
  const auto add = [&](index_t k, auto... n) {
    const Vec v = Vec::load(x + k, n...);
    squares = fma(v, v, squares);
  };
  for_each_vec(K, add, add);
  return __builtin_sqrtf(reduce_sum(squares) / static_cast<float>(K));
}

RoundedRows quantize_rows(const TensorView& x, Context& ctx) {
  Workspace& ws = ctx.workspace();
  const index_t M = x.shape[0], K = x.shape[1];
  RoundedRows out{.steps = ceil_div(K, kStepWeights)};
  const index_t groups = M * out.steps * 4;
  out.bytes = ws.take<int8_t>(M * out.steps * kStepWeights);
  out.fine = ws.take<int8_t>(M * out.steps * kStepWeights);
  out.is_fine = ws.take<bool>(M * out.steps);
  for (float** part : {&out.scales, &out.sums, &out.first_sums, &out.second_sums}) {
    *part = ws.take<float>(groups);
  }
  out.offsets = ws.take<float>(M);
  switch_float(x.dtype, [&](auto type) {
    for_rows_of_x(x, [&](index_t m) {
      const auto* from = x.row<decltype(type)>(m);
      const float large = kLarge * root_mean_square(from, K);
      float sum = 0.0f;
      for (index_t i = 0; i < out.steps; ++i) {
        const index_t first = i * kStepWeights, at = m * out.steps + i;
        quantize_step(from + first, min_of(kStepWeights, K - first), large, out, at);
        for (index_t g = 0; g < 4; ++g) sum += out.sums[at * 4 + g];
      }
      out.offsets[m] = 128.0f * sum;
    });
  });
  return out;
}
#endif

RowsOfX prepare(const QuantizedLinear& a, Context& ctx) {
  RowsOfX rows;
  rows.M = a.x.shape[0], rows.K = a.x.shape[1];
  bool integers = false, floats = false;
  for (int i = 0; i < a.count; ++i) {
    (multiplies_integers(a.weights[i].format) ? integers : floats) = true;
  }
#if defined(FUSEDLM_HAS_INTEGER_DOTS)
  if (integers) rows.rounded = quantize_rows(a.x, ctx);
#endif
  (void)integers;
  if (floats && a.x.dtype == DType::float32) {
    rows.floats = a.x.as<float>();
    rows.float_stride = a.x.strides[0];
  } else if (floats) {
    auto* to = ctx.workspace().take<float>(rows.M * rows.K);
    for_rows_of_x(a.x,
                  [&](index_t m) { convert_row(a.x.row<bfloat16>(m), rows.K, to + m * rows.K); });
    rows.floats = to;
    rows.float_stride = rows.K;
  }
  return rows;
}

// Sums of outputs [first, first + count): those of row m of x at m * stride.
void multiply(const Weight& w, index_t first, index_t count, const RowsOfX& x, float* sums,
              index_t stride) {
  switch_format(w.format, [&](auto format) {
    constexpr WeightFormat kFormat = decltype(format)::value;
    if (x.M == 1) return multiply_row<kFormat>(w, first, count, x, sums);
    multiply_rows<kFormat>(w, first, count, x, sums, stride);
  });
}

// Outputs [first, first + count) of weight i (or, gated, of both) for all rows.
template <class T, Activation kind>
void finish(const QuantizedLinear& a, int i, index_t column, index_t first, index_t count,
            const float* sums, const float* factors, index_t stride) {
  const float* bias = a.bias[i].defined() ? a.bias[i].as<float>() + first : nullptr;
  const float* factor_bias =
      factors && a.bias[1].defined() ? a.bias[1].as<float>() + first : nullptr;
  for (index_t m = 0; m < a.x.shape[0]; ++m) {
    T* y = a.y.row<T>(m) + column + first;
    const T* residual = a.residual.defined() ? a.residual.row<T>(m) + column + first : nullptr;
    const auto body = [&](index_t c, auto... n) {
      Vec v = Vec::load(sums + m * stride + c);
      if (bias) v = v + Vec::load(bias + c, n...);
      v = activate<T, kind>(v);
      if (factors) {
        Vec factor = Vec::load(factors + m * stride + c);
        if (factor_bias) factor = factor + Vec::load(factor_bias + c, n...);
        v = v * factor;
      }
      if (residual) v = v + Vec::load(residual + c, n...);
      v.store(y + c, n...);
    };
    for_each_vec(count, body, body);
  }
}

void block_of_outputs(const QuantizedLinear& a, const RowsOfX& x, int i, index_t column,
                      index_t first, index_t count) {
  alignas(64) float sums[2][kBlock];
  const index_t stride = ceil_div(count, Vec::size) * Vec::size;
  multiply(a.weights[i], first, count, x, sums[0], stride);
  if (a.gated) multiply(a.weights[1], first, count, x, sums[1], stride);
  switch_float(a.y.dtype, [&](auto type) {
    switch_activation(a.activation, [&](auto kind) {
      finish<decltype(type), kind()>(a, i, column, first, count, sums[0],
                                     a.gated ? sums[1] : nullptr, stride);
    });
  });
}

// The outputs of one weight (or, gated, of both) in a call.
struct Segment {
  index_t rows, unit;    // outputs; those of a unit
  index_t first, units;  // its units
  index_t column;        // of y
};

struct Segments {
  Segment all[QuantizedLinear::kMostWeights];
  int count;
  index_t units, bytes;

  explicit Segments(const QuantizedLinear& a) : count(a.gated ? 1 : a.count), units(0), bytes(0) {
    index_t column = 0;
    for (int i = 0; i < count; ++i) {
      const index_t rows = a.weights[i].rows;
      index_t of_row = row_bytes(a.weights[i].format, a.x.shape[1]), unit = Vec::size;
      if (a.gated) of_row += row_bytes(a.weights[1].format, a.x.shape[1]);
      while (unit > 1 && unit * of_row > kUnitBytes) unit /= 2;
      while (unit < kBlock / QuantizedLinear::kStreamedRows && 2 * unit * of_row <= kUnitBytes)
        unit *= 2;
      all[i] = {rows, unit, units, ceil_div(rows, unit), column};
      units += all[i].units, bytes += rows * of_row, column += rows;
    }
  }
};

// Less is no measure of memory.
constexpr index_t kTrialBytes = index_t{512} << 10;
ReadAhead read_ahead;

void few_rows(const QuantizedLinear& a, Context& ctx) {
  RowsOfX x = prepare(a, ctx);
  const Segments segments(a);
  const auto call =
      x.M == 1 && segments.bytes >= kTrialBytes ? read_ahead.next() : ReadAhead::Call{};
  x.ahead = call.ahead;
  const double start_time = call.trial < 0 ? 0.0 : now();
  const index_t block = kBlock / x.M / Vec::size * Vec::size;
  const auto stretch = [&](index_t begin, index_t end, int) {
    for (int i = 0; i < segments.count; ++i) {
      const Segment& s = segments.all[i];
      const index_t last = min_of(s.rows, (end - s.first) * s.unit);
      for (index_t r = max_of(0, begin - s.first) * s.unit; r < last; r += block) {
        block_of_outputs(a, x, i, s.column, r, min_of(block, last - r));
      }
    }
  };
  if (segments.bytes <= kLeastBytes) {
    stretch(0, segments.units, 0);
  } else {
    parallel_for_stretches(segments.units, stretch);
  }
  if (call.trial >= 0) {
    const double bytes = static_cast<double>(segments.bytes);
    read_ahead.done(call, static_cast<float>((now() - start_time) / bytes));
  }
}

// y's columns [column, column + rows of w): the product as the packed multiply does it.
Gemm product_with(const QuantizedLinear& a, int i, index_t column) {
  const Weight& w = a.weights[i];
  Gemm g{.M = a.x.shape[0],
         .N = w.rows,
         .K = w.cols,
         .A = matrix_of(a.x),
         .B = {},
         .C = static_cast<char*>(a.y.data) + column * size_of(a.y.dtype),
         .c_dtype = a.y.dtype,
         .c_stride = a.y.strides[0]};
  g.weight = &w;
  g.low_precision = a.x.dtype == DType::bfloat16;
  if (a.bias[i].defined()) g.bias = a.bias[i].data;
  return g;
}

// Of the products of a call with many rows of x: in integers, or by the packed multiply, as float32 always.
class ManyRows {
 public:
  ManyRows(const QuantizedLinear& a, Context& ctx) : ctx_(ctx) {
    for (int i = 0; i < a.count; ++i) {
#if defined(FUSEDLM_HAS_INTEGER_DOTS)
      if (a.x.dtype != DType::float32 && multiplies_integers(a.weights[i].format)) {
        if (!x_.data) x_ = quantize_panels(a.x, ctx);
        continue;
      }
#endif
      if (!packed_) packed_ = pack_rows(product_with(a, i, 0), ctx);
    }
  }
  void multiply(Gemm g) const {
#if defined(FUSEDLM_HAS_INTEGER_DOTS)
    if (x_.data && multiplies_integers(g.weight->format)) {
      return switch_format(g.weight->format, [&](auto format) {
        constexpr WeightFormat kFormat = decltype(format)::value;
        if constexpr (multiplies_integers(kFormat)) integer_gemm<kFormat>(g, x_, ctx_);
      });
    }
#endif
    g.packed_a = packed_;
    gemm(g, ctx_);
  }

 private:
  Context& ctx_;
  const uint32_t* packed_ = nullptr;
#if defined(FUSEDLM_HAS_INTEGER_DOTS)
  XPanels x_;
#endif
};

void many_rows(const QuantizedLinear& a, Context& ctx) {
  const ManyRows rows(a, ctx);
  const auto finish = [&](Gemm g, index_t column) {
    g.activation = a.activation;
    if (a.residual.defined()) {
      g.residual = static_cast<char*>(a.residual.data) + column * size_of(a.residual.dtype);
      g.residual_stride = a.residual.strides[0];
    }
    rows.multiply(g);
  };
  if (a.gated) {
    // The factor goes to where the product will be, unless the residual lies there.
    Gemm factor = product_with(a, 1, 0), g = product_with(a, 0, 0);
    if (a.residual.defined()) {
      factor.c_stride = factor.N;
      factor.C = ctx.workspace().take_bytes(factor.M * factor.N * size_of(a.y.dtype));
    }
    g.factor = factor.C;
    g.factor_stride = factor.c_stride;
    rows.multiply(factor);
    finish(g, 0);
    return;
  }
  index_t column = 0;
  for (int i = 0; i < a.count; column += a.weights[i++].rows) {
    finish(product_with(a, i, column), column);
  }
}

}  // namespace

void quantized_linear(const QuantizedLinear& a, Context& ctx) {
  if (a.x.shape[0] == 0) return;
  if (a.x.shape[0] <= QuantizedLinear::kStreamedRows) return few_rows(a, ctx);
  many_rows(a, ctx);
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
