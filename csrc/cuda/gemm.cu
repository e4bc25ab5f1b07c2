// Products on views: operands are made ready, the product is cut into blocks, and where blocks share
// a tile their sums are added. Cuts depend on the shape alone, so results are the same bits in every
// run.

#include <algorithm>

#include "cuda/gemm.h"
#include "cuda/gemm_kernel.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

#if defined(__CUDACC__)
// Blocks that occupy a GPU: one for each of the 108 to 170 multiprocessors of the larger ones.
constexpr index_t kOccupied = 128;
// A part of K is worth its prologue and the sums it writes: 16 steps of a pipeline of half types.
constexpr index_t kLeastDepths = 512;
#else
// The emulator's products are small; tests see every way of cutting them.
constexpr index_t kOccupied = 4, kLeastDepths = 64;
#endif
// Parts of K end at steps of either type, and both are then read from whole lines.
constexpr index_t kDepthsMultiple = 64;
constexpr index_t kMaxSplits = 64;

Cut cut_of(index_t M, index_t N, index_t K) {
  const auto tiles = [&](index_t size) { return ceil_of(M, size) * ceil_of(N, size); };
  const auto splits = [&](index_t count, index_t least) {  // for two blocks a multiprocessor
    const index_t wanted = 2 * kOccupied / count;
    return std::max<index_t>(1, std::min({wanted, K / least, kMaxSplits}));
  };
  const auto with = [&](bool large, index_t parts) {
    const index_t depths =
        std::max<index_t>(1, ceil_of(ceil_of(K, parts), kDepthsMultiple)) * kDepthsMultiple;
    return Cut{large, static_cast<int>(std::max<index_t>(1, ceil_of(K, depths))),
               static_cast<int>(std::min<index_t>(depths, 1 << 30))};
  };
  const index_t large = tiles(128), small = tiles(64);
  if (M > 64 && N > 64) {  // a large tile for fewer would be half empty
    if (large >= kOccupied) return with(true, 1);
    const index_t parts = splits(large, 2 * kLeastDepths);
    if (large * parts >= kOccupied) return with(true, parts);
  }
  return with(false, small >= kOccupied ? 1 : splits(small, kLeastDepths));
}

/// C from the sums of the blocks that shared its tiles, in their order.
template <class T>
struct AddSplits {
  const float* sums;
  index_t stride, plane;
  int splits;
  Epilogue<T> epilogue;

  template <int V>
  __device__ __forceinline__ void run(index_t row, int column) const {
    const auto in = epilogue.template fetch<V>(row, column);
    const float* from = sums + row * stride + column;
    float v[V];
    load_floats(from, v);
    for (int s = 1; s < splits; ++s) {
      float part[V];
      load_floats(from + s * plane, part);
#pragma unroll
      for (int j = 0; j < V; ++j) v[j] += part[j];
    }
    epilogue.template complete<V>(row, column, v, in);
  }
};

template <class From, class To>
struct Convert {
  Rows<const From> from;
  Rows<To> to;
  template <int V>
  __device__ __forceinline__ void run(index_t row, int column) const {
    float x[V];
    load_floats(from.at(row, column), x);
    store_floats(to.at(row, column), x);
  }
};

int small_int(index_t n) {
  if (n > 0x7fffffff) throw Unsupported("a matrix product of size " + std::to_string(n));
  return static_cast<int>(n);
}

template <class T>
Factors<T> factors_of(const TensorView& a, const TensorView& b, DType dtype, Context& ctx) {
  const TensorView x = operand(a, dtype, ctx), y = operand(b, dtype, ctx);
  const auto stride = [](const TensorView& v) {  // that of a single row may be anything
    return v.shape[0] > 1 ? static_cast<int>(v.strides[0]) : 0;
  };
  return {x.as<T>(), y.as<T>(), stride(x), stride(y)};
}

template <class T>
void run(const Gemm& g, SumScratch& scratch, Context& ctx) {
  const bool tall = g.form == Form::columns_by_columns;
  const index_t M = g.out.shape[0], N = g.out.shape[1], K = g.a.shape[tall ? 0 : 1];
  if (M == 0 || N == 0) return;
  Problem<T> problem{.first = factors_of<T>(g.a, g.b, g.dtype, ctx),
                     .second = {},
                     .M = small_int(M),
                     .N = small_int(N),
                     .K = small_int(K),
                     .depths = 0,
                     .sums = nullptr,
                     .sums_stride = 0};
  if (g.a2.defined()) problem.second = factors_of<T>(g.a2, g.b2, g.dtype, ctx);
  bool packed = can_pack(g.out, kFinishPack * static_cast<int>(size_of(g.out.dtype))) &&
                can_pack(g.bias, kFinishPack * static_cast<int>(size_of(g.bias.dtype)));
  for (const TensorView* view :
       {&g.preactivation, &g.residual, &g.up, &g.gate, &g.hidden, &g.dgate}) {
    packed = packed && can_pack(*view, kFinishPack * sizeof(T));
  }
  const Epilogue<T> epilogue{.finish = g.finish,
                             .activation = g.activation,
                             .out_float = g.out.dtype == DType::float32,
                             .bias_float = g.bias.dtype == DType::float32,
                             .accumulate = g.accumulate,
                             .packed = packed,
                             .residual = rows_of<const T>(g.residual),
                             .up = rows_of<const T>(g.up),
                             .gate = rows_of<const T>(g.gate),
                             .preactivation = rows_of<T>(g.preactivation),
                             .hidden = rows_of<T>(g.hidden),
                             .dgate = rows_of<T>(g.dgate),
                             .out = g.out.data,
                             .bias = g.bias.data,
                             .out_stride = g.out.strides[0]};
  const Cut cut = cut_of(M, N, K);
  problem.depths = cut.depths;
  if (cut.splits == 1) return launch_gemm<T>(g.form, cut, problem, epilogue, ctx);
  problem.sums_stride = ceil_of<index_t>(N, kFinishPack) * kFinishPack;
  problem.sums = scratch.take(cut.splits * M * problem.sums_stride, ctx);
  Epilogue<T> plain;
  plain.packed = true;
  plain.out_stride = problem.sums_stride;
  launch_gemm<T>(g.form, cut, problem, plain, ctx);
  const AddSplits<T> add{problem.sums, problem.sums_stride, M * problem.sums_stride, cut.splits,
                         epilogue};
  elementwise("gemm: sums", add, M, N, packed, ctx);
}

}  // namespace

void gemm(const Gemm& args, SumScratch& scratch, Context& ctx) {
  // Epilogues know float32 and the type of the products.
  const auto known = [&](const TensorView& view) {
    return !view.defined() || view.dtype == DType::float32 || view.dtype == args.dtype;
  };
  Gemm g = args;
  if (!known(args.bias)) {
    TensorView row = args.bias;  // [1, N]
    row.ndim = 2, row.shape = {1, args.bias.shape[0]};
    g.bias = scratch_rows(DType::float32, 1, row.shape[1], ctx);
    copy_rows(row, g.bias, ctx);
    g.bias.ndim = 1, g.bias.shape = args.bias.shape, g.bias.strides = {1};
  }
  if (!known(args.out)) {
    g.out = scratch_rows(DType::float32, args.out.shape[0], args.out.shape[1], ctx);
  }
  switch_float(args.dtype, [&](auto t) { run<decltype(t)>(g, scratch, ctx); });
  if (!known(args.out)) copy_rows(g.out, args.out, ctx);
}

TensorView scratch_rows(DType dtype, index_t rows, index_t columns, Context& ctx) {
  const index_t pack = 16 / size_of(dtype), stride = ceil_of(columns, pack) * pack;
  TensorView view(nullptr, dtype, {rows, columns});
  view.strides[0] = stride;
  view.data = device_scratch<char>(ctx, rows * stride * size_of(dtype));
  return view;
}

void copy_rows(const TensorView& from, const TensorView& to, Context& ctx) {
  switch_floats(from.dtype, to.dtype, [&](auto f, auto t) {
    using From = decltype(f);
    using To = decltype(t);
    const bool packed = can_pack(from, 4 * sizeof(From)) && can_pack(to, 4 * sizeof(To));
    elementwise("copy_rows", Convert<From, To>{rows_of<const From>(from), rows_of<To>(to)},
                to.shape[0], to.shape[1], packed, ctx);
  });
}

TensorView operand(const TensorView& view, DType dtype, Context& ctx) {
  if (view.shape[1] > kMaxStride / 2) {
    throw Unsupported("a matrix product with rows of " + std::to_string(view.shape[1]));
  }
  if (view.dtype == dtype && can_pack(view) && view.strides[0] < kMaxStride) return view;
  const TensorView copy = scratch_rows(dtype, view.shape[0], view.shape[1], ctx);
  copy_rows(view, copy, ctx);
  return copy;
}

}  // namespace fusedlm::FUSEDLM_DEVICE
