// Wrong kernels that every build of the emulator must catch, with the right place.

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

__global__ void wait_forever_kernel() {
  if (threadIdx.x < 32) bar_sync(3, 64);
}

TEST(Detects, ANamedBarrierThatNeverFills) {
  EXPECT_TRUE(has(report_of([] { run(wait_forever_kernel, 1, 64, 0); }),
                  {"waits for ever", "thread 0 to 31 at bar.sync", "thread 32 to 63 ended"}));
}

__global__ void nothing_kernel() {}

TEST(Detects, LaunchesBeyondTheLimits) {
  EXPECT_TRUE(has(report_of([] { run(nothing_kernel, 1, 1025, 0); }), {"(1025, 1, 1) threads"}));
  EXPECT_TRUE(has(report_of([] { run(nothing_kernel, 1, 32, 228 << 10); }), {"233472 bytes"}));
  EXPECT_TRUE(has(report_of([] { run(nothing_kernel, dim3(1, 65536), 32, 0); }), {"65536"}));
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

TEST(Detects, TheErrorOfTheFirstBlock) {
  EXPECT_TRUE(has(report_of([] { run(early_exit_kernel, 1, dim3(64), 0); }), {"block (0, 0, 0)"}));
}

}  // namespace
}  // namespace fusedlm::simt
