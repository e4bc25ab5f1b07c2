// Wrong kernels that every build of the emulator must catch, with the right place.

#include <cmath>

#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda/warp.h"
#include "simt/simt_support.h"

namespace fusedlm::simt {
namespace {

__global__ void early_exit_kernel() {
  if (threadIdx.x == 40) return;
  mistake_below();
  __syncthreads();
}

TEST(Detects, AThreadThatEndsBeforeTheBarrier) {
  EXPECT_TRUE(has(report_of([] { run(early_exit_kernel, 1, 64, 0); }),
                  {"kernel test, block (0, 0, 0), thread (0, 0, 0): waits for ever",
                   "thread 40 ended", "__syncthreads", kHere}));
}

__global__ void two_barriers_kernel() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    mistake_below();
    __syncthreads();
  }
}

TEST(Detects, ThreadsAtDifferentBarriers) {
  EXPECT_TRUE(has(report_of([] { run(two_barriers_kernel, dim3(1), 64, 0); }),
                  {"thread (32, 0, 0): divergent barrier", kHere}));
}

__global__ void mask_without_self_kernel() {
  mistake_below();
  __syncwarp(threadIdx.x == 5 ? ~(1u << 5) : kAllLanes);
}

TEST(Detects, AMaskThatLacksTheCaller) {
  EXPECT_TRUE(has(report_of([] { run(mask_without_self_kernel, 1, 32, 0); }),
                  {"thread (5, 0, 0)", "which lacks the calling lane", kHere}));
}

__global__ void different_masks_kernel() {
  mistake_below();
  __shfl_sync(threadIdx.x == 9 ? 0xfffu : kAllLanes, 1, 0);
}

TEST(Detects, MasksThatDoNotMatch) {
  EXPECT_TRUE(has(report_of([] { run(different_masks_kernel, 1, 32, 0); }),
                  {"thread (9, 0, 0)", "__shfl_sync with mask 0xfff",
                   "wait at __shfl_sync with mask 0xffffffff", kHere}));
}

__global__ void different_calls_kernel() {
  if (threadIdx.x % 2) {
    __any_sync(kAllLanes, 1);
  } else {
    __syncwarp();
  }
}

TEST(Detects, DifferentCollectivesOfOneWarp) {
  EXPECT_TRUE(
      has(report_of([] { run(different_calls_kernel, 1, 32, 0); }),
          {"thread (1, 0, 0)", "__any_sync, while other lanes of its mask wait at __syncwarp"}));
}

__global__ void missing_lane_kernel() {
  if (threadIdx.x == 3) return;
  __syncwarp();
}

TEST(Detects, AMaskWithALaneThatHasEnded) {
  EXPECT_TRUE(has(report_of([] { run(missing_lane_kernel, 1, 32, 0); }), {"have ended"}));
}

__global__ void half_warp_kernel() { __syncwarp(); }

TEST(Detects, AFullMaskInHalfAWarp) {
  EXPECT_TRUE(has(report_of([] { run(half_warp_kernel, 1, 16, 0); }), {"do not exist"}));
}

__global__ void source_outside_of_mask_kernel() {
  if (threadIdx.x < 16) __shfl_sync(0xffffu, 1, 20);
}

TEST(Detects, AShuffleFromALaneOutsideOfItsMask) {
  EXPECT_TRUE(has(report_of([] { run(source_outside_of_mask_kernel, 1, 32, 0); }),
                  {"reads lane 20, which its mask lacks"}));
}

__global__ void shuffle_width_kernel(int width) {
  mistake_below();
  __shfl_xor_sync(kAllLanes, 1, 1, width);
}

TEST(Detects, AShuffleWidthThatIsNoPowerOfTwo) {
  for (int width : {0, 12, 64}) {
    EXPECT_TRUE(
        has(report_of([&] { run(shuffle_width_kernel, 1, 32, 0, width); }),
            {"kernel test, block (0, 0, 0), thread (0, 0, 0): __shfl_xor_sync",
             "width is " + std::to_string(width) + ", expected a power of 2 to 32", kHere}));
  }
}

__global__ void misaligned_atomic_kernel(char* counts) {
  mistake_below();
  atomicAdd(reinterpret_cast<int*>(counts + (threadIdx.x == 3 ? 2 : 0)), 1);
}

TEST(Detects, AMisalignedAtomic) {
  alignas(16) char counts[16] = {};
  EXPECT_TRUE(has(report_of([&] { run(misaligned_atomic_kernel, 1, 32, 0, counts); }),
                  {"kernel test, block (0, 0, 0), thread (3, 0, 0): misaligned atomic", kHere}));
}

__global__ void misaligned_pack_kernel(const float* x, float* out) {
  mistake_below();
  out[threadIdx.x] = Pack<float, 4>::load(x + threadIdx.x).get(0);
}

TEST(Detects, AMisalignedPack) {
  alignas(16) float x[64] = {}, out[64];
  EXPECT_TRUE(has(report_of([&] { run(misaligned_pack_kernel, 1, 32, 0, x, out); }),
                  {"thread (1, 0, 0)", "no multiple of 16", kHere}));
}

__global__ void misaligned_ldmatrix_kernel() {
  FUSEDLM_SHARED(uint16_t, tile, [33 * 8]);
  for (int i = threadIdx.x; i < 33 * 8; i += 32) tile[i] = 0;
  __syncwarp();
  uint32_t r[4];
  mistake_below();
  ldmatrix_x4(r, &tile[threadIdx.x * 8 + (threadIdx.x == 7)]);
}

TEST(Detects, AMisalignedLdmatrix) {
  EXPECT_TRUE(has(report_of([] { run(misaligned_ldmatrix_kernel, 1, 32, 0); }),
                  {"thread (7, 0, 0)", "ldmatrix at an address that is no multiple of 16", kHere}));
}

__global__ void ldmatrix_outside_kernel(const uint16_t* global) {
  uint32_t r[1];
  ldmatrix_x1(r, global + 8 * (threadIdx.x % 8));
}

TEST(Detects, LdmatrixFromGlobalMemory) {
  alignas(16) uint16_t global[64] = {};
  EXPECT_TRUE(has(report_of([&] { run(ldmatrix_outside_kernel, 1, 32, 0, global); }),
                  {"outside of shared memory"}));
}

__global__ void misaligned_copy_kernel(const float* x) {
  FUSEDLM_SHARED(float, tile, [64]);
  cp_async<16>(&tile[4 * threadIdx.x], x + 1);
}

TEST(Detects, AMisalignedAsynchronousCopy) {
  alignas(16) float x[64] = {};
  EXPECT_TRUE(has(report_of([&] { run(misaligned_copy_kernel, 1, 4, 0, x); }),
                  {"cp.async from at an address that is no multiple of 16"}));
}

__global__ void copy_behind_the_end_kernel(const float* x) {
  FUSEDLM_SHARED(float, tile, [8]);
  cp_async<16>(&tile[4 * threadIdx.x], x);
}

TEST(Detects, AnAsynchronousCopyBehindTheEnd) {
  alignas(16) float x[4] = {};
  EXPECT_TRUE(has(report_of([&] { run(copy_behind_the_end_kernel, 1, 4, 0, x); }),
                  {"thread (2, 0, 0)", "outside of shared memory"}));
}

__global__ void valid_bytes_kernel(const float* x, int valid) {
  FUSEDLM_SHARED(float, tile, [4]);
  mistake_below();
  cp_async<16>(tile, x, valid);
}

TEST(Detects, AnAsynchronousCopyOfMoreOrLessThanItsBytes) {
  alignas(16) float x[8] = {};
  for (int valid : {-1, 17}) {
    EXPECT_TRUE(has(report_of([&] { run(valid_bytes_kernel, 1, 1, 0, x, valid); }),
                    {"kernel test, block (0, 0, 0), thread (0, 0, 0): cp.async of " +
                         std::to_string(valid) + " valid bytes, expected 0 to 16",
                     kHere}));
  }
}

__global__ void named_barrier_kernel(int id, int threads) {
  mistake_below();
  bar_sync(id, threads);
}

TEST(Detects, ANamedBarrierThatDoesNotExist) {
  for (int id : {0, 16}) {
    EXPECT_TRUE(has(report_of([&] { run(named_barrier_kernel, 1, 64, 0, id, 64); }),
                    {"kernel test, block (0, 0, 0), thread (0, 0, 0): bar.sync with id " +
                         std::to_string(id) + ", expected 1 to 15",
                     kHere}));
  }
}

TEST(Detects, ANamedBarrierForThreadsThatMakeNoWarpsOfTheBlock) {
  for (int threads : {0, 48, 96}) {
    EXPECT_TRUE(has(report_of([&] { run(named_barrier_kernel, 1, 64, 0, 1, threads); }),
                    {"kernel test, block (0, 0, 0), thread (0, 0, 0): bar.sync for " +
                         std::to_string(threads) + " threads, expected a multiple of 32",
                     kHere}));
  }
}

__global__ void different_counts_kernel() {
  mistake_below();
  bar_sync(2, threadIdx.x < 32 ? 64 : 32);
}

TEST(Detects, DifferentCountsAtOneNamedBarrier) {
  EXPECT_TRUE(has(report_of([] { run(different_counts_kernel, 1, 64, 0); }),
                  {"kernel test, block (0, 0, 0), thread (32, 0, 0): bar.sync for 32 threads",
                   "others wait for 64 at the same barrier", kHere}));
}

__global__ void wait_forever_kernel() {
  if (threadIdx.x < 32) bar_sync(3, 64);
}

TEST(Detects, ANamedBarrierThatNeverFills) {
  EXPECT_TRUE(has(report_of([] { run(wait_forever_kernel, 1, 64, 0); }),
                  {"waits for ever", "thread 0 to 31 at bar.sync", "thread 32 to 63 ended"}));
}

__global__ void nothing_kernel() {}

TEST(Detects, LaunchesBeyondTheLimits) {
  const auto report = [](dim3 grid, dim3 block, size_t shared) {
    return report_of([&] { run(nothing_kernel, grid, block, shared); });
  };
  EXPECT_TRUE(has(report(1, 1025, 0), {"kernel test: block of (1025, 1, 1) threads"}));
  EXPECT_TRUE(has(report(1, dim3(32, 0), 0), {"kernel test: block of (32, 0, 1) threads"}));
  EXPECT_TRUE(has(report(1, dim3(1, 1, 65), 0),
                  {"kernel test: block of (1, 1, 65) threads", "at most 64 in z"}));
  EXPECT_TRUE(has(report(1, 32, 228 << 10), {"kernel test: 233472 bytes of dynamic shared"}));
  EXPECT_TRUE(has(report(0x80000000u, 32, 0), {"kernel test: grid of (2147483648, 1, 1) blocks"}));
  EXPECT_TRUE(has(report(dim3(1, 65536), 32, 0), {"kernel test: grid of (1, 65536, 1) blocks"}));
  EXPECT_TRUE(has(report(dim3(1, 1, 65536), 32, 0), {"kernel test: grid of (1, 1, 65536) blocks"}));
}

__global__ void launching_kernel() {
  if (threadIdx.x == 7) launch("inner", nothing_kernel, 1, 1, 0, Context::current());
}

TEST(Detects, ALaunchFromWithinAKernel) {
  EXPECT_TRUE(has(report_of([] { run(launching_kernel, 1, 32, 0); }),
                  {"kernel test, block (0, 0, 0), thread (7, 0, 0)",
                   "kernel inner: launched from within a kernel"}));
}

__global__ void too_much_static_kernel() {
  FUSEDLM_SHARED(float, tile, [12 * 1024 + 1]);
  tile[0] = 0.0f;
}

TEST(Detects, MoreStaticSharedMemoryThanThereIs) {
  EXPECT_TRUE(has(report_of([] { run(too_much_static_kernel, 1, 32, 0); }),
                  {"too much shared memory", "tile"}));
}

__global__ void dynamic_kernel(float* out) {
  mistake_below();
  *out = *dynamic_shared<float, 1024>();
}

TEST(Detects, DynamicSharedMemoryOfAnotherSizeThanTheKernels) {
  float out;
  EXPECT_TRUE(has(report_of([&] { run(dynamic_kernel, 1, 1, 512, &out); }),
                  {"has 1024 bytes of dynamic shared memory, its launch 512", kHere}));
}

// An everyday build sees it at the end of the block, where nobody knows the thread any more; a
// checked one at once.
template <int kThreads>
__global__ void overrun_kernel(int reach) {
  FUSEDLM_SHARED(float, first, [kThreads]);
  FUSEDLM_SHARED(float, second, [kThreads]);
  float* dynamic = dynamic_shared<float, kThreads * 4>();
  dynamic[threadIdx.x + (reach == 0)] = 1.0f;
  first[threadIdx.x + (reach == 1)] = 1.0f;
  second[threadIdx.x + (reach == 2)] = 1.0f;
}

TEST(Detects, AWriteBehindTheEndOfSharedMemory) {
  const auto report = [](int reach) {
    return report_of([=] { run(overrun_kernel<32>, dim3(2), 32, 32 * 4, reach); });
  };
  EXPECT_TRUE(has(report(0), {"kernel test, block (", "behind the end of dynamic shared memory"}));
  EXPECT_TRUE(has(report(1), {"kernel test, block (", "behind the end of first"}));
  EXPECT_TRUE(has(report(2), {"kernel test, block (", "behind the end of second"}));
  EXPECT_EQ(report(3), kSilent);
}

#if !defined(FUSEDLM_SIMT_CHECKED)  // that reports the reads

template <bool kWrite>
__global__ void unwritten_kernel(float* out) {
  FUSEDLM_SHARED(float, tile, [32]);
  float* dynamic = dynamic_shared<float, 32 * 4>();
  if (kWrite) {
    tile[threadIdx.x] = dynamic[threadIdx.x] = 1.0f;
  } else {
    out[threadIdx.x] = tile[threadIdx.x];
    out[32 + threadIdx.x] = dynamic[threadIdx.x];
  }
}

TEST(Detects, SharedMemoryReadBeforeItWasWrittenAsNan) {
  float out[64] = {};
  run(unwritten_kernel<true>, 1, 32, 32 * 4, out);  // what a block leaves is not the next one's
  run(unwritten_kernel<false>, 1, 32, 32 * 4, out);
  for (float x : out) EXPECT_TRUE(std::isnan(x));
}

TEST(Detects, ScratchReadBeforeItWasWrittenAsNan) {
  Context& ctx = Context::current();
  for (int round = 0; round < 2; ++round) {  // the second time in memory that was used before
    const Workspace::Scope scope(ctx.workspace());
    float* scratch = device_scratch<float>(ctx, 64);
    for (int i = 0; i < 64; ++i) {
      EXPECT_TRUE(std::isnan(scratch[i])) << i;
      scratch[i] = 1.0f;
    }
  }
  forget_buffers();
}

#endif

__global__ void one_wrong_block_kernel() {
  if (blockIdx.x != 1 || blockIdx.y != 2) return;
  mistake_below();
  __syncwarp(threadIdx.y == 1 ? 1u << 31 : kAllLanes);
}

TEST(Detects, WhichBlockAndThreadOfSeveralDimensions) {
  EXPECT_TRUE(has(report_of([] { run(one_wrong_block_kernel, dim3(2, 3), dim3(16, 2), 0); }),
                  {"kernel test, block (1, 2, 0), thread (0, 1, 0)", kHere}));
}

}  // namespace
}  // namespace fusedlm::simt
