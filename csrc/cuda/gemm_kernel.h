#pragma once
// C = finish(A * B), a tile of C for each block. Tiles of the operands pass through shared memory in
// a pipeline of cp.async (gemm_tiles.h), the sums stay in registers (gemm_tensor.h, gemm_fma.h). At
// the end each warp turns its sums, a slab of rows at a time, from the layout of the products to
// rows in shared memory, so that all further reads and writes of global memory are wide and
// coalesced (gemm_epilogue.h).
//
// Tiles: 128 x 128, of which a warp has 64 x 64 of half types (128 sums a thread; two blocks of 4 warps
// share a multiprocessor), so that a byte read from shared memory serves 16 products; 64 x 64 where
// 128 x 128 would leave multiprocessors idle. Where even those are few and K is long, blocks z share
// a tile, each for a part of K, and a second kernel adds their sums in order.

#include "cuda/gemm_epilogue.h"
#include "cuda/gemm_fma.h"
#include "cuda/gemm_tensor.h"

namespace fusedlm::FUSEDLM_DEVICE {

template <class T>
struct Factors {
  const T *a = nullptr, *b = nullptr;
  int a_stride = 0, b_stride = 0;
};

template <class T>
struct Problem {
  Factors<T> first, second;  // the sums of both go to C; second.a may be null
  int M, N, K;
  int depths;   // of K for each of the blocks z
  float* sums;  // [blocks z, M, sums_stride] where there are several, else null
  index_t sums_stride;
};

/// Tiles in an order that keeps those that run together close: down kGroup rows of tiles, then one
/// column on. The 216 tiles that an A100 has at a time then share 8 + 27 strips of the operands.
struct TileOrder {
  static constexpr int kGroup = 8;
  int row, column;
  __device__ __forceinline__ TileOrder(int tile, int rows, int columns) {
    const int group = tile / (kGroup * columns), rest = tile % (kGroup * columns);
    const int height = min(rows - group * kGroup, kGroup);
    row = group * kGroup + rest % height;
    column = rest / height;
  }
};

template <class T, Major kMajorA, Major kMajorB, int kM, int kN, int kWarpsM, int kWarpsN>
struct Tiling {
  using Tile =
      std::conditional_t<sizeof(T) == 2, TensorTile<T, kMajorA, kMajorB, kM, kN, kWarpsM, kWarpsN>,
                         FmaTile<T, kMajorA, kMajorB, kM, kN, kWarpsM, kWarpsN>>;
  static constexpr int kThreads = Tile::kThreads, kRows = kM, kColumns = kN;
  static constexpr int kDepth = TileShape<T, kMajorA, kM>::kDepth;
  using LoaderA = TileLoader<T, kMajorA, kM, kThreads>;
  using LoaderB = TileLoader<T, kMajorB, kN, kThreads>;
  using Stages = Pipeline<LoaderA, LoaderB, T, TileShape<T, kMajorA, kM>::kElements,
                          TileShape<T, kMajorB, kN>::kElements>;
  // 8 floats more than a row: the rows of a fragment start in different banks.
  static constexpr int kPitch = Tile::kWarpN + 8;
  static constexpr int kSlabFloats = Tile::kSlabRows * kPitch;
  static constexpr int kSlabs = Tile::kWarpM / Tile::kSlabRows;
  static_assert(kThreads / kWarp * kSlabFloats * 4 <= Stages::kBytes, "slabs fit into the stages");
};

/// Rows of a slab to global memory; `row` and `column` are where it starts in C.
template <class Tiling, class T>
__device__ __forceinline__ void finish_slab(const Epilogue<T>& epilogue, const float* slab, int row,
                                            int column, int M, int N) {
  constexpr int V = kFinishPack;
  constexpr int kLanes = Tiling::Tile::kWarpN / V, kStep = kWarp / kLanes;
  constexpr int kAhead = Tiling::Tile::kAhead;
  const int lane_row = lane_id() / kLanes, lane_column = lane_id() % kLanes * V;
  column += lane_column;
  if (column >= N) return;
  const bool whole = epilogue.packed && column + V <= N;
#pragma unroll 1
  for (int i = lane_row; i < Tiling::Tile::kSlabRows; i += kStep * kAhead) {
    const float* from = slab + i * Tiling::kPitch + lane_column;
    if (whole) {
      typename Epilogue<T>::template Inputs<V> inputs[kAhead];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        const int r = row + i + u * kStep;
        if (r < M) inputs[u] = epilogue.template fetch<V>(r, column);
      }
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        const int r = row + i + u * kStep;
        float v[V];
        load_floats(from + u * kStep * Tiling::kPitch, v);
        if (r < M) epilogue.template complete<V>(r, column, v, inputs[u]);
      }
    } else {
#pragma unroll 1
      for (int e = 0; e < kAhead * V; ++e) {
        const int u = e / V, j = e % V, r = row + i + u * kStep;
        if (r >= M || column + j >= N) continue;
        float v[1] = {from[u * kStep * Tiling::kPitch + j]};
        epilogue.template complete<1>(r, column + j, v, epilogue.template fetch<1>(r, column + j));
      }
    }
  }
}

template <class Tiling, class T>
__global__ void __launch_bounds__(Tiling::kThreads, 2)
    gemm_kernel(Problem<T> p, Epilogue<T> epilogue) {
  using Tile = typename Tiling::Tile;
  T* shared = dynamic_shared<T, Tiling::Stages::kBytes>();
  const TileOrder at(static_cast<int>(blockIdx.x), ceil_of(p.M, Tiling::kRows),
                     ceil_of(p.N, Tiling::kColumns));
  const int m = at.row * Tiling::kRows, n = at.column * Tiling::kColumns;
  const int first = static_cast<int>(blockIdx.z) * p.depths;
  const int steps = ceil_of(min(p.depths, p.K - first), Tiling::kDepth);
  Tile tile;
#pragma unroll 1
  for (int i = 0; i < (p.second.a ? 2 : 1); ++i) {
    const Factors<T> f = i == 0 ? p.first : p.second;
    typename Tiling::Stages stages(typename Tiling::LoaderA(f.a, f.a_stride, p.M, m, p.K, first),
                                   typename Tiling::LoaderB(f.b, f.b_stride, p.N, n, p.K, first),
                                   shared, steps);
    tile.multiply(stages, steps);
  }
  if (p.sums) {
    epilogue.out = p.sums + static_cast<index_t>(blockIdx.z) * p.M * p.sums_stride;
  }
  float* slab = reinterpret_cast<float*>(shared) + warp_id() * Tiling::kSlabFloats;
#pragma unroll 1
  for (int s = 0; s < Tiling::kSlabs; ++s) {
    __syncwarp();  // the slab before has been read
    if (s == 0) {
      tile.template put<0>(slab, Tiling::kPitch);
    } else {
      tile.template put<Tiling::kSlabs - 1>(slab, Tiling::kPitch);
    }
    __syncwarp();
    finish_slab<Tiling>(epilogue, slab, m + Tile::warp_row() + s * Tile::kSlabRows,
                        n + Tile::warp_column(), p.M, p.N);
  }
}

/// How a product is cut into blocks.
struct Cut {
  bool large;  // tiles of 128 x 128, else 64 x 64
  int splits;  // of K
  int depths;  // of each
};

template <class T>
void launch_gemm(Form form, const Cut& cut, const Problem<T>& problem, const Epilogue<T>& epilogue,
                 Context& ctx) {
  const auto with = [&](auto tiling) {
    using Tiling = decltype(tiling);
    const index_t tiles =
        ceil_of<index_t>(problem.M, Tiling::kRows) * ceil_of<index_t>(problem.N, Tiling::kColumns);
    const dim3 grid(blocks_of(tiles), 1, static_cast<unsigned>(cut.splits));
    launch("gemm", gemm_kernel<Tiling, T>, grid, Tiling::kThreads, Tiling::Stages::kBytes, ctx,
           problem, epilogue);
  };
  const auto sized = [&](auto a, auto b) {
    constexpr Major kA = decltype(a)::value, kB = decltype(b)::value;
    // float32: the warps' tiles are 32 x 64, so that a block of 256 threads has 128 registers each.
    constexpr bool kHalf = sizeof(T) == 2;
    if (cut.large) {
      with(Tiling<T, kA, kB, 128, 128, kHalf ? 2 : 4, 2>{});
    } else {
      with(Tiling<T, kA, kB, 64, 64, 2, kHalf ? 2 : 1>{});
    }
  };
  constexpr std::integral_constant<Major, Major::depth> depth;
  constexpr std::integral_constant<Major, Major::outer> outer;
  switch (form) {
    case Form::rows_by_rows:
      return sized(depth, depth);
    case Form::rows_by_columns:
      return sized(depth, outer);
    case Form::columns_by_columns:
      return sized(outer, outer);
  }
}

// One file each: gemm_bfloat16.cu, gemm_float16.cu, gemm_float32.cu.
extern template void launch_gemm<bfloat16>(Form, const Cut&, const Problem<bfloat16>&,
                                           const Epilogue<bfloat16>&, Context&);
extern template void launch_gemm<float16>(Form, const Cut&, const Problem<float16>&,
                                          const Epilogue<float16>&, Context&);
extern template void launch_gemm<float>(Form, const Cut&, const Problem<float>&,
                                        const Epilogue<float>&, Context&);

}  // namespace fusedlm::FUSEDLM_DEVICE
