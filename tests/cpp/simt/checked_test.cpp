// Wrong kernels that only the checked build catches, and right ones on which it must stay silent. An
// everyday build has nothing to look for here.

#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda/warp.h"
#include "simt/simt_support.h"

#if defined(FUSEDLM_SIMT_CHECKED)

namespace fusedlm::simt {
namespace {

template <bool kRight>
__global__ void neighbour_kernel(const float* in, float* out) {
  FUSEDLM_SHARED(float, tile, [64]);
  const int t = threadIdx.x;
  tile[t] = in[t];
  if (kRight) __syncthreads();
  mistake_below();
  out[t] = tile[(t + 63) % 64];
}

TEST(Checked, AReadBeforeTheWriteOfANeighbour) {
  Memory memory;
  EXPECT_EQ(memory.report(neighbour_kernel<true>), kSilent);
  EXPECT_TRUE(has(memory.report(neighbour_kernel<false>),
                  {"kernel test, block (0, 0, 0), thread (0, 0, 0)", "tile + 252",
                   "which nobody has written", kHere}));
}

template <bool kRight>
__global__ void handed_down_kernel(const float* in, float* out) {
  FUSEDLM_SHARED(float, tile, [64]);
  const int t = threadIdx.x;
  tile[t] = in[t];
  if (kRight || t == 0) __syncwarp(kRight ? kAllLanes : 1u);
  mistake_below();
  out[t] = t % 32 ? tile[t - 1] : 0.0f;
}

TEST(Checked, NeighboursInAWarpNeedASyncwarp) {
  Memory memory;
  EXPECT_EQ(memory.report(handed_down_kernel<true>), kSilent);
  EXPECT_TRUE(has(memory.report(handed_down_kernel<false>),
                  {"thread (1, 0, 0)", "reads 4 bytes of tile + 0",
                   "which thread (0, 0, 0) wrote at", "a race", kHere}));
}

template <bool kRight>
__global__ void reuse_kernel(const float* in, float* out) {
  FUSEDLM_SHARED(float, tile, [64]);
  const int t = threadIdx.x;
  float sum = 0.0f;
  for (int step = 0; step < 3; ++step) {
    mistake_below();
    tile[t] = in[t + step];
    __syncthreads();
    sum += tile[63 - t];
    if (kRight) __syncthreads();
  }
  out[t] = sum;
}

TEST(Checked, AWriteThatRacesWithTheReadsBefore) {
  Memory memory;
  EXPECT_EQ(memory.report(reuse_kernel<true>), kSilent);
  EXPECT_TRUE(has(memory.report(reuse_kernel<false>),
                  {"reads 4 bytes of tile + 252", "thread (63, 0, 0) wrote", "a race", kHere}));
}

template <bool kRight>
__global__ void same_place_kernel(const float*, float* out) {
  FUSEDLM_SHARED(float, one, [1]);
  if (!kRight || threadIdx.x == 0) one[0] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = one[0];
}

TEST(Checked, TwoThreadsThatWriteOnePlace) {
  Memory memory;
  EXPECT_EQ(memory.report(same_place_kernel<true>), kSilent);
  EXPECT_TRUE(has(memory.report(same_place_kernel<false>),
                  {"thread (1, 0, 0)", "writes 4 bytes of one + 0", "thread (0, 0, 0) wrote"}));
}

template <bool kRight>
__global__ void warp_order_kernel(const float* in, float* out) {
  FUSEDLM_SHARED(float, tile, [64]);
  const int t = threadIdx.x;
  tile[t] = in[t];
  __syncwarp();
  out[t] = tile[kRight ? t ^ 5 : (t + 32) % 64];
}

TEST(Checked, ASyncwarpOrdersItsWarpOnly) {
  Memory memory;
  EXPECT_EQ(memory.report(warp_order_kernel<true>), kSilent);
  EXPECT_NE(memory.report(warp_order_kernel<false>), kSilent);
}

enum class Collective { syncwarp, shuffle, ballot, any, match, add, sum, mma };

template <Collective kCollective>
__global__ void collective_kernel(const float* in, float* out) {
  FUSEDLM_SHARED(float, tile, [64]);
  const int t = threadIdx.x;
  tile[t] = in[t];
  if constexpr (kCollective == Collective::syncwarp) __syncwarp();
  if constexpr (kCollective == Collective::shuffle) __shfl_xor_sync(kAllLanes, 1.0f, 1);
  if constexpr (kCollective == Collective::ballot) __ballot_sync(kAllLanes, 1);
  if constexpr (kCollective == Collective::any) __any_sync(kAllLanes, 1);
  if constexpr (kCollective == Collective::match) __match_any_sync(kAllLanes, t);
  if constexpr (kCollective == Collective::add) __reduce_add_sync(kAllLanes, t);
  if constexpr (kCollective == Collective::sum) warp_sum(1.0f);
  if constexpr (kCollective == Collective::mma) {
    const uint32_t a[4] = {}, b[2] = {};
    float acc[4] = {};
    mma_m16n8k16<bfloat16>(acc, a, b);
  }
  out[t] = tile[t ^ 5];
}

// CUDA's shuffles and votes "do not imply a memory barrier", whatever today's hardware does.
TEST(Checked, OfAWarpsCollectivesSyncwarpAloneOrdersMemory) {
  Memory memory;
  EXPECT_EQ(memory.report(collective_kernel<Collective::syncwarp>), kSilent);
  EXPECT_TRUE(has(memory.report(collective_kernel<Collective::shuffle>), {"tile + ", "a race"}));
  EXPECT_TRUE(has(memory.report(collective_kernel<Collective::ballot>), {"tile + ", "a race"}));
  EXPECT_TRUE(has(memory.report(collective_kernel<Collective::any>), {"tile + ", "a race"}));
  EXPECT_TRUE(has(memory.report(collective_kernel<Collective::match>), {"tile + ", "a race"}));
  EXPECT_TRUE(has(memory.report(collective_kernel<Collective::add>), {"tile + ", "a race"}));
  EXPECT_TRUE(has(memory.report(collective_kernel<Collective::sum>), {"tile + ", "a race"}));
  EXPECT_TRUE(has(memory.report(collective_kernel<Collective::mma>), {"tile + ", "a race"}));
}

__global__ void after_ldmatrix_kernel(const float*, float* out) {
  FUSEDLM_SHARED(uint16_t, tile, [8][8]);
  const int lane = threadIdx.x;
  for (int i = lane; i < 64; i += 32) tile[i / 8][i % 8] = static_cast<uint16_t>(i);
  __syncwarp();
  uint32_t r[1];
  ldmatrix_x1(r, tile[lane % 8]);
  if (lane == 9) tile[0][0] = 1;
  out[lane] = static_cast<float>(r[0]);
}

TEST(Checked, AWriteAfterLdmatrixRacesWithItsReads) {
  Memory memory;
  EXPECT_TRUE(has(memory.report(after_ldmatrix_kernel, 1, 32),
                  {"thread (9, 0, 0)", "writes 2 bytes of tile + 0", "read", "a race"}));
}

template <bool kRight>
__global__ void named_order_kernel(const float* in, float* out) {
  FUSEDLM_SHARED(float, tile, [128]);
  const int t = threadIdx.x, half = t / 64;
  tile[t] = in[t];
  bar_sync(1 + half, 64);
  out[t] = tile[kRight ? t ^ 63 : t ^ 64];
}

TEST(Checked, ANamedBarrierOrdersItsParticipantsOnly) {
  Memory memory;
  EXPECT_EQ(memory.report(named_order_kernel<true>, 1, 128), kSilent);
  EXPECT_NE(memory.report(named_order_kernel<false>, 1, 128), kSilent);
}

template <bool kRight>
__global__ void shared_counter_kernel(const float*, float* out) {
  FUSEDLM_SHARED(int, count, [1]);
  if (threadIdx.x == 0) count[0] = 0;
  __syncthreads();
  if (kRight) {
    atomicAdd(&count[0], 1);
  } else {
    count[0] += 1;
  }
  __syncthreads();
  out[threadIdx.x] = static_cast<float>(count[0]);
}

TEST(Checked, AtomicsDoNotRaceWithEachOther) {
  Memory memory;
  EXPECT_EQ(memory.report(shared_counter_kernel<true>), kSilent);
  EXPECT_EQ(memory.out[5], 64.0f);
  EXPECT_TRUE(has(memory.report(shared_counter_kernel<false>), {"count + 0", "a race"}));
}

template <int kReach>
__global__ void shared_bounds_kernel(const float* in, float* out) {
  FUSEDLM_SHARED(float, tile, [64]);
  mistake_below();
  tile[threadIdx.x + kReach] = in[threadIdx.x];
  out[threadIdx.x] = tile[threadIdx.x + kReach];
}

TEST(Checked, SharedMemoryOutOfBounds) {
  Memory memory;
  EXPECT_EQ(memory.report(shared_bounds_kernel<0>), kSilent);
  EXPECT_TRUE(has(memory.report(shared_bounds_kernel<1>),
                  {"thread (63, 0, 0)", "writes 4 bytes out of bounds",
                   "0 bytes behind the end of tile", kHere}));
}

template <int kBytes>
__global__ void dynamic_bounds_kernel(const float* in, float* out) {
  float* tile = dynamic_shared<float, kBytes>();
  tile[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = tile[threadIdx.x];
}

TEST(Checked, DynamicSharedMemoryOutOfBounds) {
  Memory memory;
  EXPECT_EQ(memory.report(dynamic_bounds_kernel<256>, 1, 64, 256), kSilent);
  EXPECT_TRUE(has(memory.report(dynamic_bounds_kernel<252>, 1, 64, 252),
                  {"thread (63, 0, 0)", "behind the end of dynamic shared memory"}));
}

template <bool kRight>
__global__ void unwritten_kernel(const float* in, float* out) {
  FUSEDLM_SHARED(float, tile, [64]);
  if (kRight || threadIdx.x < 63) tile[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  mistake_below();
  out[threadIdx.x] = tile[threadIdx.x];
}

TEST(Checked, SharedMemoryThatNobodyHasWritten) {
  Memory memory;
  EXPECT_EQ(memory.report(unwritten_kernel<true>), kSilent);
  EXPECT_TRUE(
      has(memory.report(unwritten_kernel<false>),
          {"thread (63, 0, 0)", "reads 4 bytes of tile + 252", "nobody has written", kHere}));
}

template <int kReach>
__global__ void global_bounds_kernel(const float* in, float* out) {
  mistake_below();
  out[threadIdx.x] = in[threadIdx.x + kReach];
}

TEST(Checked, GlobalMemoryOutOfBounds) {
  Memory memory;
  EXPECT_EQ(memory.report(global_bounds_kernel<192>), kSilent);
  // `in` ends where `out` begins.
  register_buffer("in", memory.in, 1000, 4);
  register_buffer("out", memory.out, sizeof memory.out, 4);
  EXPECT_TRUE(has(
      report_of([&] { run(global_bounds_kernel<192>, 1, 64, 0, memory.in, memory.out); }),
      {"thread (58, 0, 0)", "reads 4 bytes out of bounds", "0 bytes behind the end of in", kHere}));
}

__global__ void write_constant_kernel(const float* in, float*) {
  const_cast<float*>(in)[-1024] = 1.0f;
}

TEST(Checked, AWriteBeforeTheBuffer) {
  static float before[4096];
  register_buffer("x", before + 1024, 1024, 4);
  EXPECT_TRUE(has(report_of([&] {
                    run(write_constant_kernel, 1, 1, 0, before + 1024,
                        static_cast<float*>(nullptr));
                  }),
                  {"writes 4 bytes out of bounds"}));
}

template <bool kRight>
__global__ void blocks_kernel(const float* in, float* out) {
  mistake_below();
  out[kRight ? blockIdx.x * blockDim.x + threadIdx.x : threadIdx.x] = in[threadIdx.x];
}

TEST(Checked, BlocksThatWriteOnePlace) {
  Memory memory;
  EXPECT_EQ(memory.report(blocks_kernel<true>, 4), kSilent);
  EXPECT_TRUE(has(memory.report(blocks_kernel<false>, 4),
                  {"block (1, 0, 0), thread (0, 0, 0)", "writes 4 bytes of out + 0",
                   "which block 0 wrote", kHere}));
}

template <bool kRight>
__global__ void global_order_kernel(const float* in, float* out) {
  const int t = threadIdx.x;
  out[t] = in[t];
  if (kRight) __syncthreads();
  out[64 + t] = t ? out[t - 1] : 0.0f;
}

TEST(Checked, ThreadsOfABlockRaceInGlobalMemoryToo) {
  Memory memory;
  EXPECT_EQ(memory.report(global_order_kernel<true>), kSilent);
  EXPECT_TRUE(has(memory.report(global_order_kernel<false>), {"out + 0", "a race"}));
}

template <bool kRight>
__global__ void copy_kernel(const float* in, float* out) {
  FUSEDLM_SHARED(float, tile, [256]);
  const int t = threadIdx.x;
  cp_async<16>(&tile[4 * t], &in[4 * t]);
  cp_async_commit();
  if (kRight) cp_async_wait<0>();
  __syncthreads();
  mistake_below();
  out[t] = tile[255 - t];
}

TEST(Checked, ACopyThatWasNotWaitedFor) {
  Memory memory;
  EXPECT_EQ(memory.report(copy_kernel<true>), kSilent);
  EXPECT_TRUE(
      has(memory.report(copy_kernel<false>),
          {"reads 4 bytes of tile", "cp.async by thread (48, 0, 0) is still to bring", kHere}));
}

template <bool kRight>
__global__ void copy_order_kernel(const float* in, float* out) {
  FUSEDLM_SHARED(float, tile, [256]);
  const int t = threadIdx.x;
  cp_async<16>(&tile[4 * t], &in[4 * t]);
  cp_async_commit();
  if (!kRight) __syncthreads();  // before the wait: orders nothing of what the copy brings
  cp_async_wait<0>();
  if (kRight) __syncthreads();
  out[t] = t ? tile[4 * t - 1] : 0.0f;
}

TEST(Checked, AWaitIsForTheIssuingThreadOnly) {
  Memory memory;
  EXPECT_EQ(memory.report(copy_order_kernel<true>), kSilent);
  EXPECT_NE(memory.report(copy_order_kernel<false>), kSilent);
}

template <bool kRight>
__global__ void stack_kernel(const float* in, float* out) {
  FUSEDLM_SHARED(const float*, address, [1]);
  float local = in[threadIdx.x];
  if (threadIdx.x == 0) address[0] = &local;
  __syncthreads();
  mistake_below();
  out[threadIdx.x] = *(kRight ? &local : address[0]);
  __syncthreads();  // so that `local` is still there
}

TEST(Checked, AReadOfAnotherThreadsLocalVariable) {
  Memory memory;
  EXPECT_EQ(memory.report(stack_kernel<true>), kSilent);
  EXPECT_TRUE(has(memory.report(stack_kernel<false>),
                  {"kernel test, block (0, 0, 0), thread (63, 0, 0)",
                   "reads 4 bytes of a local variable of thread (0, 0, 0)", kHere}));
}

template <int kReach>
__global__ void wide_kernel(const float* in, float* out) {
  mistake_below();
  *reinterpret_cast<uint4*>(out + 4 * threadIdx.x) = *reinterpret_cast<const uint4*>(in + kReach);
}

TEST(Checked, AMisalignedWideAccess) {
  Memory memory;
  EXPECT_EQ(memory.report(wide_kernel<4>), kSilent);
  EXPECT_TRUE(has(memory.report(wide_kernel<2>), {"misaligned", kHere}));
}

__global__ void lines_kernel(const float* in, float* out) {
  mistake_below();
  Pack<float, 4>::load(in).store(out + 4 * threadIdx.x + 4);
}

TEST(Checked, AReportNamesTheLineBehindAnInlinedHelper) {
  Memory memory;
  EXPECT_TRUE(has(memory.report(lines_kernel), {"thread (63, 0, 0)", "types.h:", kHere}));
}

__global__ void half_written_scratch_kernel(float* scratch, int count) {
  if (static_cast<int>(threadIdx.x) < count) scratch[threadIdx.x] = 1.0f;
}
__global__ void read_scratch_kernel(const float* scratch, float* out) {
  out[threadIdx.x] = scratch[threadIdx.x];
}

TEST(Checked, ScratchThatNobodyHasWritten) {
  for (int count : {64, 63}) {
    Memory memory;
    const std::string report = report_of([&] {
      Context& ctx = Context::current();
      Workspace::Scope scope(ctx.workspace());
      register_buffer("out", memory.out, sizeof memory.out, sizeof(float));
      float* scratch = device_scratch<float>(ctx, 64);
      run(half_written_scratch_kernel, 1, 64, 0, scratch, count);
      run(read_scratch_kernel, 1, 64, 0, scratch, memory.out);
    });
    if (count == 64) {
      EXPECT_EQ(report, kSilent);
    } else {
      EXPECT_TRUE(has(report, {"thread (63, 0, 0)", "scratch + 252", "nobody has written"}));
    }
  }
}

}  // namespace
}  // namespace fusedlm::simt

#endif
