// Conflicts that the checked build must remember for long: with blocks that have ended, with more
// readers than one place has slots for, and with a copy in flight.

#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "simt/simt_support.h"

#if defined(FUSEDLM_SIMT_CHECKED)

namespace fusedlm::simt {
namespace {

template <bool kRight>
__global__ void read_then_write_kernel(const float*, float* out) {
  const float x = out[0];
  mistake_below();
  if (blockIdx.x == 1) out[kRight ? 1 : 0] = x + 1.0f;
}

// That the block reads the place itself must not make the other block's read forgotten.
TEST(Checked, AWriteOfWhatAnEarlierBlockHasRead) {
  Memory memory;
  EXPECT_EQ(memory.report(read_then_write_kernel<true>, 3, 1), kSilent);
  EXPECT_TRUE(has(memory.report(read_then_write_kernel<false>, 3, 1),
                  {"kernel test, block (1, 0, 0), thread (0, 0, 0)", "writes 4 bytes of out + 0",
                   "which block 0 read at", "a race", kHere}));
}

__global__ void read_then_add_kernel(const float*, float* out) {
  const float x = out[0];
  mistake_below();
  if (blockIdx.x == 2) atomicAdd(&out[0], x + 1.0f);
}

TEST(Checked, AnAtomicOnWhatEarlierBlocksHaveRead) {
  Memory memory;
  EXPECT_TRUE(has(
      memory.report(read_then_add_kernel, 3, 1),
      {"kernel test, block (2, 0, 0), thread (0, 0, 0)",
       "atomic atomically changes 4 bytes of out + 0", "which block 1 read at", "a race", kHere}));
}

__global__ void read_and_add_kernel(const float*, float* out) {
  const float x = blockIdx.x == 0 ? out[0] : 0.0f;
  mistake_below();
  atomicAdd(&out[0], x + 1.0f);
}

TEST(Checked, AnAtomicOnWhatAnEarlierBlockReadBeforeItsOwnAtomic) {
  Memory memory;
  EXPECT_TRUE(has(
      memory.report(read_and_add_kernel, 2, 1),
      {"kernel test, block (1, 0, 0), thread (0, 0, 0)",
       "atomic atomically changes 4 bytes of out + 0", "which block 0 read at", "a race", kHere}));
}

__global__ void add_and_read_kernel(const float*, float* out) {
  atomicAdd(&out[0], 1.0f);
  mistake_below();
  out[1 + blockIdx.x] = blockIdx.x == 1 ? out[0] : 0.0f;
}

TEST(Checked, AReadBehindTheAtomicsOfAnEarlierBlock) {
  Memory memory;
  EXPECT_TRUE(has(memory.report(add_and_read_kernel, 2, 1),
                  {"kernel test, block (1, 0, 0), thread (0, 0, 0)", "reads 4 bytes of out + 0",
                   "which block 0 changed atomically", "a race", kHere}));
}

// All warps read; those in `waiting` meet at a named barrier; then the first thread writes.
template <uint32_t kWaiting>
__global__ void readers_kernel(const float*, float* out) {
  FUSEDLM_SHARED(float, one, [1]);
  const int t = threadIdx.x, warp = t / 32;
  if (t == 0) one[0] = 1.0f;
  __syncthreads();
  out[t] = one[0];
  if (kWaiting >> warp & 1) bar_sync(1, 32 * __builtin_popcount(kWaiting));
  mistake_below();
  if (t == 0) one[0] = 2.0f;
}

TEST(Checked, AWriteThatRacesWithOneReaderOfMany) {
  Memory memory;
  EXPECT_EQ(memory.report(readers_kernel<0b1111>, 1, 128), kSilent);
  const auto expect_race = [&](const std::string& report, const std::string& reader) {
    EXPECT_TRUE(has(report, {"kernel test, block (0, 0, 0), thread (0, 0, 0)",
                             "writes 4 bytes of one + 0", reader, "a race", kHere}));
  };
  expect_race(memory.report(readers_kernel<0b0111>, 1, 128), "which thread (127, 0, 0) read at");
  expect_race(memory.report(readers_kernel<0b1011>, 1, 128), "which thread (95, 0, 0) read at");
  expect_race(memory.report(readers_kernel<0b1101>, 1, 128), "which a thread of warp 1 read");
}

// The same place read in each step. Behind a barrier of the whole block the reads before it must
// neither be held against a write nor hide those after it.
// All warps but kAbsent meet before the write; that one reads in the last step if kReads.
template <bool kBarrier, int kAbsent, bool kReads>
__global__ void steps_kernel(const float*, float* out) {
  FUSEDLM_SHARED(float, one, [1]);
  const int t = threadIdx.x, warp = t / 32;
  if (t == 0) one[0] = 1.0f;
  __syncthreads();
  float sum = one[0];
  for (int i = 0; i < warp; ++i) __syncwarp();  // the warps' clocks go apart
  sum += one[0];
  if (kBarrier) __syncthreads();
  if (kReads || warp != kAbsent) sum += one[0];
  if (warp != kAbsent) bar_sync(1, 96);
  mistake_below();
  if (t == 0) one[0] = 2.0f;
  out[t] = sum;
}

TEST(Checked, AWriteBehindReadsOfSeveralSteps) {
  Memory memory;
  EXPECT_EQ(memory.report(steps_kernel<true, 1, false>, 1, 128), kSilent);
  EXPECT_TRUE(has(memory.report(steps_kernel<false, 1, false>, 1, 128),
                  {"kernel test, block (0, 0, 0), thread (0, 0, 0)", "writes 4 bytes of one + 0",
                   "which a thread of warp 1 read", "a race", kHere}));
  EXPECT_TRUE(has(memory.report(steps_kernel<true, 3, true>, 1, 128),
                  {"kernel test, block (0, 0, 0), thread (0, 0, 0)", "writes 4 bytes of one + 0",
                   "which a thread of warp 3 read", "a race", kHere}));
}

template <bool kRight>
__global__ void write_into_copy_kernel(const float* in, float* out) {
  FUSEDLM_SHARED(float, tile, [4]);
  if (threadIdx.x == 0) {
    cp_async<16>(tile, in);
    cp_async_commit();
    if (kRight) cp_async_wait<0>();
  }
  __syncthreads();
  mistake_below();
  if (threadIdx.x == 1) tile[2] = 1.0f;
  __syncthreads();
  cp_async_wait<0>();
  __syncthreads();
  out[threadIdx.x] = tile[2];
}

TEST(Checked, AWriteOfAnotherThreadIntoACopyInFlight) {
  Memory memory;
  EXPECT_EQ(memory.report(write_into_copy_kernel<true>), kSilent);
  EXPECT_TRUE(has(memory.report(write_into_copy_kernel<false>),
                  {"kernel test, block (0, 0, 0), thread (1, 0, 0)", "writes 4 bytes of tile + 8",
                   "which cp.async by thread (0, 0, 0) is still to bring", kHere}));
}

}  // namespace
}  // namespace fusedlm::simt

#endif
