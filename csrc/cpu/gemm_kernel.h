#pragma once
// The micro-kernels: a tile of rows x kNR sums, held in registers over the whole depth of two
// packed panels, and written out in one of a few ways.

#include "cpu/gemm_pack.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

/// Where the sums go: into a float32 tile [rows][kNR] for an epilogue of more than a bias, or
/// straight into full tiles of C with an optional float32 bias.
enum class Finish : uint8_t { tile, store_float, add_float, store_bfloat16 };

namespace detail {

template <int MR>
FUSEDLM_VEC void finish_sums(const Vec (&acc)[MR][2], Finish finish, void* out, index_t stride,
                             const float* bias) {
  Vec b0, b1;
  if (bias) b0 = Vec::load(bias), b1 = Vec::load(bias + Vec::size);
  if (finish == Finish::store_bfloat16) {
    auto* c = static_cast<bfloat16*>(out);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      (acc[i][0] + b0).store(c + i * stride);
      (acc[i][1] + b1).store(c + i * stride + Vec::size);
    }
    return;
  }
  auto* c = static_cast<float*>(out);
  if (finish == Finish::add_float) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      (acc[i][0] + Vec::load(c + i * stride)).store(c + i * stride);
      (acc[i][1] + Vec::load(c + i * stride + Vec::size)).store(c + i * stride + Vec::size);
    }
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    (acc[i][0] + b0).store(c + i * stride);
    (acc[i][1] + b1).store(c + i * stride + Vec::size);
  }
}

template <class Lanes, int MR>
void multiply_panels(const uint32_t* a, const uint32_t* b, index_t depth, Finish finish, void* out,
                     index_t stride, const float* bias) {
  Vec acc[MR][2];
  for (index_t k = 0; k < depth; ++k, a += kMR, b += kNR) {
    const typename Lanes::B b0 = Lanes::load(b), b1 = Lanes::load(b + Vec::size);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const typename Lanes::B ai = Lanes::broadcast(a + i);
      acc[i][0] = Lanes::multiply_add(ai, b0, acc[i][0]);
      acc[i][1] = Lanes::multiply_add(ai, b1, acc[i][1]);
    }
  }
  finish_sums<MR>(acc, finish, out, stride, bias);
}

using MicroKernel = void (*)(const uint32_t*, const uint32_t*, index_t, Finish, void*, index_t,
                             const float*);
template <class Lanes, int... MR>
MicroKernel kernel_from(index_t rows, std::integer_sequence<int, MR...>) {
  static constexpr MicroKernel table[] = {multiply_panels<Lanes, MR + 1>...};
  return table[rows - 1];
}

}  // namespace detail

/// The kernel for `rows` in [1, kMR]: one instance each, so that the last panel wastes no products.
/// kernel(a, b, depth, finish, out, stride, bias): sums over `depth` lanes of panels a [depth][kMR]
/// and b [depth][kNR].
inline detail::MicroKernel kernel_for(bool pairs, index_t rows) {
  constexpr auto all = std::make_integer_sequence<int, kMR>{};
#if defined(FUSEDLM_ISA_AVX512_BF16)
  if (pairs) return detail::kernel_from<PairLanes>(rows, all);
#endif
  (void)pairs;
  return detail::kernel_from<FloatLanes>(rows, all);
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
