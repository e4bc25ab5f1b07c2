#pragma once
// Tensor cores and what feeds them, as PTX has them since sm_80; all lanes of a warp call together.
//
//   ldmatrix_x1|x2|x4(regs, row), ldmatrix_x1|x2|x4_trans(regs, row)
//   mma_m16n8k16<bfloat16|float16>(acc, a, b)     acc += a * b, float32 accumulators
//   mma_m16n8k8_tf32(acc, a, b)                   operands through to_tf32(float)
//   cp_async<4|8|16>(shared, global, valid)       `valid` bytes are copied, the rest is zero
//   cp_async_commit(), cp_async_wait<N>()         until all but the last N groups are there
//   bar_sync(id, threads)                         named barrier 1 to 15, `threads` a multiple of 32
//
// Fragments. Lane l has g = l / 4 and t = l % 4; (r, c) is row and column, the pair (r, c..c+1) one
// 32-bit register with the lower column in the lower half.
//
//   m16n8k16, 16-bit elements                    m16n8k8, tf32, one element a register
//   A [16, 16]  a[0]  (g,     2t..2t+1)          A [16, 8]  a[0]  (g,     t)
//               a[1]  (g + 8, 2t..2t+1)                     a[1]  (g + 8, t)
//               a[2]  (g,     2t+8..2t+9)                   a[2]  (g,     t + 4)
//               a[3]  (g + 8, 2t+8..2t+9)                   a[3]  (g + 8, t + 4)
//   B [16, 8]   b[0]  (2t..2t+1,   g)            B [8, 8]   b[0]  (t,     g)
//               b[1]  (2t+8..2t+9, g)                       b[1]  (t + 4, g)
//   C [16, 8], float32, both: acc[0], acc[1]  (g, 2t), (g, 2t+1)
//                             acc[2], acc[3]  (g + 8, 2t), (g + 8, 2t+1)
//
// ldmatrix reads 8x8 matrices of 16-bit elements from shared memory. Lane l gives the address of
// row l % 8 of matrix l / 8 (16 bytes, 16-byte aligned; x1 uses lanes 0 to 7, x2 lanes 0 to 15).
// Register i then holds of matrix i the pair (g, 2t..2t+1); with _trans the pair (2t..2t+1, g),
// that is, the same of the transposed matrix. So with M [rows, K] row-major in shared memory:
//   A at (row, k):  ldmatrix_x4(a, &M[row + l % 16][k + 8 * (l / 16)])
//   B of W [n, k] (contiguous along k):  ldmatrix_x2(b, &W[n + l % 8][k + 8 * (l / 8 % 2)])
//   B of V [k, n] (contiguous along n):  ldmatrix_x2_trans(b, &V[k + l % 16][n])
//   and two B side by side by an x4 whose upper 16 lanes point at the next 8 columns n.
//
// cp.async bypasses registers. The data is there for the issuing thread after its cp_async_wait,
// for others after a barrier behind that.

#include "cuda/types.h"

#if !defined(__CUDACC__)
#include "cuda/simt/ptx.h"
#else

namespace fusedlm::cuda {

__device__ __forceinline__ unsigned shared_address(const void* generic) {
  return static_cast<unsigned>(__cvta_generic_to_shared(generic));
}

__device__ __forceinline__ void ldmatrix_x1(uint32_t (&r)[1], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x1_trans(uint32_t (&r)[1], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&acc)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    static_assert(std::is_same_v<T, float16>, "bfloat16 or float16");
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

/// Rounded to tf32's 10 bits of mantissa, ties away from zero.
__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

__device__ __forceinline__ void mma_m16n8k8_tf32(float (&acc)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// 16 bytes go around L1: a tile is read by one block only.
template <int kBytes>
__device__ __forceinline__ void cp_async(void* shared, const void* global, int valid = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(valid)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "n"(kBytes), "r"(valid)
                 : "memory");
  }
}
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ void bar_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace fusedlm::cuda

#endif
