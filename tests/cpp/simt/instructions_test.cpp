// Each instruction that the emulator knows, against its documented layout.

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda/warp.h"
#include "simt/simt_support.h"

namespace fusedlm::simt {
namespace {

__global__ void ids_kernel(int* out) {
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = 1000 * block + thread;
}

TEST(Emulator, RunsEveryThreadOfEveryBlockOnce) {
  std::vector<int> out(2 * 3 * 2 * 8 * 3 * 2, -1);
  run(ids_kernel, dim3(2, 3, 2), dim3(8, 3, 2), 0, out.data());
  for (int i = 0; i < static_cast<int>(out.size()); ++i) {
    EXPECT_EQ(out[i], 1000 * (i / 48) + i % 48);
  }
}

TEST(Emulator, SkipsAGridWithoutBlocks) { run(ids_kernel, dim3(0, 3, 2), 32, 0, nullptr); }

__global__ void reverse_kernel(const int* in, int* out) {
  FUSEDLM_SHARED(int, tile, [256]);
  int* twice = dynamic_shared<int, 256 * sizeof(int)>();
  const int t = threadIdx.x;
  tile[t] = in[t];
  twice[t] = 2 * in[t];
  __syncthreads();
  out[t] = tile[255 - t] + twice[255 - t];
}

TEST(Emulator, SharedMemoryPassesValuesAcrossABarrier) {
  std::vector<int> in(256), out(256);
  for (int i = 0; i < 256; ++i) in[i] = i * i;
  run(reverse_kernel, 1, 256, 256 * sizeof(int), in.data(), out.data());
  for (int i = 0; i < 256; ++i) EXPECT_EQ(out[i], 3 * in[255 - i]);
}

__global__ void shuffle_kernel(int* out) {
  const int lane = threadIdx.x;
  out[lane] = __shfl_sync(kAllLanes, 10 * lane, lane + 3);
  out[32 + lane] = __shfl_up_sync(kAllLanes, lane, 5, 16);
  out[64 + lane] = __shfl_down_sync(kAllLanes, lane, 5, 16);
  out[96 + lane] = __shfl_xor_sync(kAllLanes, lane, 9);
  const double wide = __shfl_sync(kAllLanes, 0.1 * lane, 7);
  out[128 + lane] = wide == 0.1 * 7;
  // Halves of a warp may go ways of their own.
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  out[160 + lane] = lane < 16 ? __shfl_sync(half, lane, 2) : __shfl_sync(half, 100 + lane, 20);
  out[192 + lane] = __shfl_xor_sync(kAllLanes, lane, 5, 8);
  out[224 + lane] = __shfl_xor_sync(kAllLanes, lane, 8, 8);
}

TEST(Warp, ShufflesReadTheLaneTheyName) {
  std::vector<int> out(256);
  run(shuffle_kernel, 1, 32, 0, out.data());
  for (int l = 0; l < 32; ++l) {
    EXPECT_EQ(out[l], 10 * ((l + 3) % 32));
    EXPECT_EQ(out[32 + l], l % 16 >= 5 ? l - 5 : l);
    EXPECT_EQ(out[64 + l], l % 16 < 11 ? l + 5 : l);
    EXPECT_EQ(out[96 + l], l ^ 9);
    EXPECT_TRUE(out[128 + l]);
    EXPECT_EQ(out[160 + l], l < 16 ? 2 : 120);
    EXPECT_EQ(out[192 + l], l ^ 5);
    // A segment reads from those below it, not from those above.
    EXPECT_EQ(out[224 + l], l & 8 ? l - 8 : l);
  }
}

__global__ void vote_kernel(unsigned* out) {
  const int lane = threadIdx.x;
  out[lane] = __ballot_sync(kAllLanes, lane % 3 == 0);
  out[32 + lane] = __any_sync(kAllLanes, lane == 31) + 2 * __any_sync(kAllLanes, lane == 32) +
                   4 * __all_sync(kAllLanes, lane < 32) + 8 * __all_sync(kAllLanes, lane < 31);
  out[64 + lane] = __match_any_sync(kAllLanes, lane / 8);
  out[96 + lane] = __reduce_add_sync(kAllLanes, lane);
}

TEST(Warp, VotesSeeAllLanes) {
  std::vector<unsigned> out(128);
  run(vote_kernel, 1, 32, 0, out.data());
  for (int l = 0; l < 32; ++l) {
    EXPECT_EQ(out[l], 0x49249249u);
    EXPECT_EQ(out[32 + l], 5u);
    EXPECT_EQ(out[64 + l], 0xffu << l / 8 * 8);
    EXPECT_EQ(out[96 + l], 496u);
  }
}

__global__ void sums_kernel(const float* in, float* out) {
  const float x = in[threadIdx.x];
  out[threadIdx.x] = warp_sum(x);
  out[128 + threadIdx.x] = warp_max(x);
  out[256 + threadIdx.x] = block_sum(x);
  out[384 + threadIdx.x] = block_max(x);
  float butterfly = x;
  for (int by = 16; by > 0; by /= 2) butterfly += __shfl_xor_sync(kAllLanes, butterfly, by);
  out[512 + threadIdx.x] = butterfly;
}

TEST(Warp, SumsAndMaximaReachEveryThreadInAFixedOrder) {
  std::vector<float> in(128), out(640);
  std::mt19937 random(1);
  for (float& x : in) x = static_cast<float>(random() % 1000) / 7.0f;
  run(sums_kernel, 1, 128, 0, in.data(), out.data());
  double total = 0.0;
  for (float x : in) total += x;
  for (int t = 0; t < 128; ++t) {
    EXPECT_EQ(out[t], out[512 + t]) << "the sum is not that of the five exchanges";
    EXPECT_EQ(out[128 + t], *std::max_element(&in[t / 32 * 32], &in[t / 32 * 32] + 32));
    EXPECT_NEAR(out[256 + t], total, 1e-2);
    EXPECT_EQ(out[384 + t], *std::max_element(in.begin(), in.end()));
  }
}

__global__ void count_kernel(int* out) {
  const int t = threadIdx.x;
  out[t] = __syncthreads_count(t % 5 == 0);
  out[64 + t] = __syncthreads_or(t == 63) + 2 * __syncthreads_or(0);
  out[128 + t] = __syncthreads_and(1) + 2 * __syncthreads_and(t != 9);
}

TEST(Block, CountingBarriers) {
  std::vector<int> out(192);
  run(count_kernel, 1, 64, 0, out.data());
  for (int t = 0; t < 64; ++t) {
    EXPECT_EQ(out[t], 13);
    EXPECT_EQ(out[64 + t], 1);
    EXPECT_EQ(out[128 + t], 1);
  }
}

__global__ void named_kernel(int* out) {
  FUSEDLM_SHARED(int, tile, [128]);
  const int t = threadIdx.x, half = t / 64;
  tile[t] = t;
  bar_sync(1 + half, 64);  // the halves need not wait for each other
  out[t] = tile[64 * half + 63 - t % 64];
}

TEST(Block, NamedBarriersHoldTheirParticipants) {
  std::vector<int> out(128);
  run(named_kernel, 1, 128, 0, out.data());
  for (int t = 0; t < 128; ++t) EXPECT_EQ(out[t], t / 64 * 64 + 63 - t % 64);
}

__global__ void atomics_kernel(int* counts, float* sum, unsigned* largest) {
  atomicAdd(&counts[threadIdx.x % 4], 1);
  atomicAdd(sum, 0.5f);
  atomicMax(largest, blockIdx.x * blockDim.x + threadIdx.x);
  if (threadIdx.x == 0) atomicCAS(&counts[4], 0, 7);
}

TEST(Atomics, LoseNothingAcrossBlocks) {
  std::vector<int> counts(5);
  float sum = 0.0f;
  unsigned largest = 0;
  run(atomics_kernel, 50, 64, 0, counts.data(), &sum, &largest);
  EXPECT_EQ(counts, (std::vector<int>{800, 800, 800, 800, 7}));
  EXPECT_EQ(sum, 1600.0f);
  EXPECT_EQ(largest, 3199u);
}

// Each thread leaves its number and takes what lay there: nothing may be lost or doubled.
__global__ void exchange_kernel(unsigned* place, unsigned* taken) {
  const unsigned n = blockIdx.x * blockDim.x + threadIdx.x;
  taken[n] = atomicExch(place, n);
}

TEST(Atomics, AnExchangeTakesWhatTheOneBeforeLeft) {
  unsigned place = 999;
  std::vector<unsigned> taken(8 * 64), expected(8 * 64);
  run(exchange_kernel, 8, 64, 0, &place, taken.data());
  for (unsigned n = 0; n < expected.size(); ++n) expected[n] = n == place ? 999 : n;
  std::sort(taken.begin(), taken.end());
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(taken, expected);
}

__global__ void ldmatrix_kernel(uint32_t* out) {
  FUSEDLM_SHARED(uint16_t, tile, [4][8][8]);
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  for (int i = lane; i < 256; i += 32) tile[i / 64][i / 8 % 8][i % 8] = static_cast<uint16_t>(i);
  __syncwarp();
  uint32_t plain[4], transposed[4];
  ldmatrix_x4(plain, tile[lane / 8][lane % 8]);
  ldmatrix_x4_trans(transposed, tile[lane / 8][lane % 8]);
  const auto element = [](int m, int r, int c) {
    return static_cast<uint32_t>(64 * m + 8 * r + c);
  };
  for (int m = 0; m < 4; ++m) {
    out[m * 32 + lane] = plain[m] == (element(m, g, 2 * t) | element(m, g, 2 * t + 1) << 16) &&
                         transposed[m] == (element(m, 2 * t, g) | element(m, 2 * t + 1, g) << 16);
  }
  // Lanes beyond the rows give no address that counts.
  uint32_t two[2], two_trans[2], one[1], one_trans[1];
  ldmatrix_x2(two, lane < 16 ? tile[lane / 8][lane % 8] : nullptr);
  ldmatrix_x2_trans(two_trans, lane < 16 ? tile[2 + lane / 8][lane % 8] : nullptr);
  ldmatrix_x1(one, lane < 8 ? tile[3][lane] : nullptr);
  ldmatrix_x1_trans(one_trans, lane < 8 ? tile[0][lane] : nullptr);
  out[128 + lane] = two[0] == plain[0] && two[1] == plain[1];
  out[160 + lane] = two_trans[0] == transposed[2] && two_trans[1] == transposed[3];
  out[192 + lane] = one[0] == plain[3] && one_trans[0] == transposed[0];
}

TEST(TensorCore, LdmatrixGivesTheDocumentedElements) {
  std::vector<uint32_t> out(224);
  run(ldmatrix_kernel, 1, 32, 0, out.data());
  EXPECT_EQ(out, std::vector<uint32_t>(224, 1));
}

// A product of row-major A [16, K] and B, the latter given by columns [8, K], with 16-bit elements, as a
// kernel would do it from shared memory.
template <class T>
__global__ void mma_kernel(const T* a, const T* b, float* c) {
  FUSEDLM_SHARED(T, A, [16][16]);
  FUSEDLM_SHARED(T, B, [8][16]);
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) A[i / 16][i % 16] = a[i];
  for (int i = lane; i < 128; i += 32) B[i / 16][i % 16] = b[i];
  __syncwarp();
  uint32_t fa[4], fb[2];
  ldmatrix_x4(fa, &A[lane % 16][8 * (lane / 16)]);
  ldmatrix_x2(fb, &B[lane % 8][8 * (lane / 8 % 2)]);
  float acc[4] = {0.5f, 0.5f, 0.5f, 0.5f};
  mma_m16n8k16<T>(acc, fa, fb);
  const int g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = acc[i];
}

template <class T>
void expect_product() {
  std::mt19937 random(2);
  std::vector<T> a(256), b(128);
  for (T& x : a) x = from_float<T>(static_cast<float>(random() % 64) / 8.0f - 4.0f);
  for (T& x : b) x = from_float<T>(static_cast<float>(random() % 64) / 8.0f - 4.0f);
  std::vector<float> c(128);
  run(mma_kernel<T>, 1, 32, 0, a.data(), b.data(), c.data());
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      float sum = 0.5f;  // exact: small multiples of 1 / 64
      for (int k = 0; k < 16; ++k) sum += to_float(a[m * 16 + k]) * to_float(b[n * 16 + k]);
      EXPECT_EQ(c[m * 8 + n], sum) << m << ", " << n;
    }
  }
}

TEST(TensorCore, Bfloat16ProductEqualsAPlainLoop) { expect_product<bfloat16>(); }
TEST(TensorCore, Float16ProductEqualsAPlainLoop) { expect_product<float16>(); }

__global__ void tf32_kernel(const float* a, const float* b, float* c) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  const uint32_t fa[4] = {to_tf32(a[g * 8 + t]), to_tf32(a[(g + 8) * 8 + t]),
                          to_tf32(a[g * 8 + t + 4]), to_tf32(a[(g + 8) * 8 + t + 4])};
  const uint32_t fb[2] = {to_tf32(b[t * 8 + g]), to_tf32(b[(t + 4) * 8 + g])};
  float acc[4] = {};
  mma_m16n8k8_tf32(acc, fa, fb);
  for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = acc[i];
}

TEST(TensorCore, Tf32ProductEqualsAPlainLoopOfRoundedOperands) {
  std::mt19937 random(3);
  std::vector<float> a(128), b(64), c(128);
  for (float& x : a) x = static_cast<float>(random() % 2000) / 999.0f;
  for (float& x : b) x = static_cast<float>(random() % 2000) / 999.0f;
  run(tf32_kernel, 1, 32, 0, a.data(), b.data(), c.data());
  const auto rounded = [](float x) { return std::bit_cast<float>(to_tf32(x)); };
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      double sum = 0.0;
      for (int k = 0; k < 8; ++k) sum += double{rounded(a[m * 8 + k])} * rounded(b[k * 8 + n]);
      EXPECT_NEAR(c[m * 8 + n], sum, 1e-5);
    }
  }
  EXPECT_EQ(rounded(1.0f + 0x1p-11f), 1.0f + 0x1p-10f) << "ties go away from zero";
}

__global__ void cp_async_kernel(const float* in, float* out) {
  FUSEDLM_SHARED(float, tile, [3][32]);
  const int t = threadIdx.x;
  cp_async<16>(&tile[0][4 * t], &in[4 * t]);
  cp_async_commit();
  cp_async<8>(&tile[1][2 * t], &in[2 * t], 4);
  cp_async<4>(&tile[2][t], &in[t]);
  cp_async_commit();
  cp_async_wait<1>();
  out[t] = tile[0][4 * t + 3];
  cp_async_wait<0>();
  out[8 + t] = tile[1][2 * t];
  out[16 + t] = tile[1][2 * t + 1];
  out[24 + t] = tile[2][t];
}

TEST(CpAsync, BringsTheGroupsThatWereWaitedForAndZeroBeyondTheValidBytes) {
  std::vector<float> out(32);
  alignas(16) float in[32];
  for (int i = 0; i < 32; ++i) in[i] = 1.0f + i;
  run(cp_async_kernel, 1, 8, 0, in, out.data());
  for (int t = 0; t < 8; ++t) {
    EXPECT_EQ(out[t], in[4 * t + 3]);
    EXPECT_EQ(out[8 + t], in[2 * t]);
    EXPECT_EQ(out[16 + t], 0.0f);
    EXPECT_EQ(out[24 + t], in[t]);
  }
}

#if !defined(FUSEDLM_SIMT_CHECKED)  // there it is an error, see checked_test.cpp

__global__ void early_read_kernel(const float* in, float* out) {
  FUSEDLM_SHARED(float, tile, [32]);
  const int t = threadIdx.x;
  tile[t] = 5.0f;
  cp_async<4>(&tile[t], &in[t]);
  cp_async_commit();
  cp_async_wait<1>();  // one group too many is left
  out[t] = tile[t];
}

TEST(CpAsync, BringsNothingBeforeTheWait) {
  std::vector<float> in(32, 1.0f), out(32);
  run(early_read_kernel, 1, 32, 0, in.data(), out.data());
  for (float x : out) EXPECT_TRUE(std::isnan(x));
}

#endif

TEST(Types, HalfTypesRoundToNearestEvenAndKeepNan) {
  EXPECT_EQ(from_float<bfloat16>(1.0f + 0x1p-8f).bits, 0x3f80);
  EXPECT_EQ(from_float<bfloat16>(1.0f + 3 * 0x1p-8f).bits, 0x3f82);
  EXPECT_EQ(from_float<float16>(1.0f + 0x1p-11f).bits, 0x3c00);
  EXPECT_EQ(from_float<float16>(65519.0f).bits, 0x7bff);
  EXPECT_EQ(from_float<float16>(65520.0f).bits, 0x7c00);
  EXPECT_EQ(from_float<float16>(0x1p-24f).bits, 0x0001);
  EXPECT_TRUE(std::isnan(to_float(from_float<bfloat16>(NAN))));
  EXPECT_TRUE(std::isnan(to_float(from_float<float16>(NAN))));
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float16 half{static_cast<uint16_t>(bits)};
    const bfloat16 brain{static_cast<uint16_t>(bits)};
    if (!std::isnan(to_float(half))) {
      ASSERT_EQ(from_float<float16>(to_float(half)).bits, bits);
    }
    if (!std::isnan(to_float(brain))) {
      ASSERT_EQ(from_float<bfloat16>(to_float(brain)).bits, bits);
    }
  }
  const uint32_t pair = pair_of<bfloat16>(1.0f, -2.0f);
  EXPECT_EQ(pair, 0xc0003f80u);
  EXPECT_EQ(floats_of<bfloat16>(pair).y, -2.0f);
  const uint32_t halves = pair_of<float16>(1.0f, -2.0f);
  EXPECT_EQ(halves, 0xc0003c00u);
  EXPECT_EQ(floats_of<float16>(halves).x, 1.0f);
  EXPECT_EQ(floats_of<float16>(halves).y, -2.0f);
}

TEST(Intrinsics, CountAndFindBitsAndMultiplyHigh) {
  EXPECT_EQ(__popc(0u), 0);
  EXPECT_EQ(__popc(0x80000001u), 2);
  EXPECT_EQ(__popc(~0u), 32);
  EXPECT_EQ(__ffs(0), 0) << "no bit is set";
  EXPECT_EQ(__ffs(1), 1) << "counted from 1";
  EXPECT_EQ(__ffs(0x50), 5);
  EXPECT_EQ(__ffs(std::numeric_limits<int>::min()), 32);
  EXPECT_EQ(__umulhi(0x80000000u, 2u), 1u);
  EXPECT_EQ(__umulhi(~0u, ~0u), 0xfffffffeu);
  EXPECT_EQ(__umulhi(0xffffu, 0x10000u), 0u);
}

TEST(Intrinsics, FastQuotientAndExponentialAreExact) {
  EXPECT_EQ(__fdividef(1.0f, 3.0f), 1.0f / 3.0f);
  EXPECT_EQ(__fdividef(-7.0f, 2.0f), -3.5f);
  EXPECT_EQ(__expf(0.0f), 1.0f);
  EXPECT_EQ(__expf(-INFINITY), 0.0f);
  EXPECT_NEAR(__expf(1.0f), 2.7182818f, 1e-6f);
}

}  // namespace
}  // namespace fusedlm::simt
