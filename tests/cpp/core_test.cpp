// Views, errors, instruction sets, workspace and threads: what every op stands on.

#include <atomic>
#include <cstdlib>

#include "core/parallel.h"
#include "core/read_ahead.h"
#include "core/team.h"
#include "fusedlm/rms_norm.h"
#include "support.h"

namespace fusedlm::test {
namespace {

TEST(TensorView, IsDenseRowMajorFromItsShape) {
  const TensorView view(nullptr, DType::bfloat16, {2, 3, 5});
  EXPECT_EQ(view.ndim, 3);
  EXPECT_EQ(view.numel(), 30);
  EXPECT_EQ(view.strides[0], 15);
  EXPECT_EQ(view.strides[1], 5);
  EXPECT_EQ(view.strides[2], 1);
  EXPECT_EQ(view.dtype, DType::bfloat16);
  EXPECT_EQ(view.device, DeviceType::cpu);
}

TEST(TensorView, IsUndefinedUntilGivenAndAScalarIsDefined) {
  EXPECT_FALSE(TensorView().defined());
  EXPECT_TRUE(TensorView(nullptr, DType::float32, {}).defined());
  EXPECT_EQ(TensorView(nullptr, DType::float32, {}).numel(), 1);
}

TEST(TensorView, RowFollowsItsStrideInElements) {
  float data[12] = {};
  TensorView view(data, DType::float32, {3, 2});
  view.strides[0] = 4;
  EXPECT_EQ(view.row<float>(2), data + 8);
}

TEST(TensorView, ShapeStringListsTheDimensions) {
  EXPECT_EQ(shape_string(TensorView(nullptr, DType::float32, {2, 12, 128, 64})),
            "[2, 12, 128, 64]");
  EXPECT_EQ(shape_string(TensorView(nullptr, DType::float32, {0})), "[0]");
  EXPECT_EQ(shape_string(TensorView(nullptr, DType::float32, {})), "[]");
}

TEST(DType, HasItsSizeAndName) {
  EXPECT_EQ(size_of(DType::float64), 8);
  EXPECT_EQ(size_of(DType::int64), 8);
  EXPECT_EQ(size_of(DType::float32), 4);
  EXPECT_EQ(size_of(DType::int32), 4);
  EXPECT_EQ(size_of(DType::bfloat16), 2);
  EXPECT_EQ(size_of(DType::float16), 2);
  EXPECT_EQ(size_of(DType::boolean), 1);
  EXPECT_STREQ(name_of(DType::bfloat16), "bfloat16");
  EXPECT_STREQ(name_of(DType::boolean), "bool");
}

// Every op checks its arguments with the same functions; this one stands for all.
class Errors : public ::testing::Test {
 protected:
  Buffer x = random({3, 8}, 0), weight = random({8}, 1), y{{3, 8}}, rstd{{3}};
  RmsNormForward args{
      .x = x.view(), .weight = weight.view(), .y = y.view(), .rstd = rstd.view(), .eps = 1e-6f};
  std::string message() {
    return message_of([&] { rms_norm_forward(args, Context::current()); });
  }
};

TEST_F(Errors, SayThatAnArgumentIsMissing) {
  args.weight = TensorView();
  EXPECT_EQ(message(), "rms_norm: weight is missing");
}

TEST_F(Errors, SayWhichShapeCameAndWhichWasExpected) {
  args.weight.shape[0] = 7;
  EXPECT_EQ(message(), "rms_norm: weight has shape [7], expected 8 in dimension 0 as in x");
  args.x = TensorView(args.x.data, DType::float32, {1, 3, 8});
  EXPECT_EQ(message(), "rms_norm: x has shape [1, 3, 8], expected 2 dimensions");
}

TEST_F(Errors, SayWhichDtypeCameAndWhichWereExpected) {
  args.x.dtype = DType::float64;
  EXPECT_EQ(message(), "rms_norm: x has dtype float64, expected float32 or bfloat16");
}

TEST_F(Errors, SayThatATensorLiesOnAnotherDevice) {
  args.y.device = DeviceType::cuda;
  EXPECT_EQ(message(), "rms_norm: y is on cuda, expected cpu like x");
}

TEST_F(Errors, SayThatStridesDoNotFit) {
  args.x.strides[1] = 2;
  EXPECT_EQ(message(), "rms_norm: x has stride 2 in its last dimension, expected 1");
  args.x.strides[1] = 1;
  args.weight.strides[0] = 2;
  EXPECT_EQ(message(), "rms_norm: weight is not contiguous");
}

TEST_F(Errors, LeaveTheOutputUntouched) {
  const Buffer before = y;
  args.rstd.shape[0] = 2;
  EXPECT_EQ(message(), "rms_norm: rstd has shape [2], expected 3 in dimension 0 as in x");
  EXPECT_TRUE(y == before);
}

TEST(Isa, EveryAvailableOneCanBeChosen) {
  const std::vector<Isa> isas = available_isas();
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas.front(), Isa::scalar);
  size_t seen = 0;
  on_every_isa([&] { EXPECT_EQ(current_isa(), isas[seen++]); });
  EXPECT_EQ(seen, isas.size());
}

TEST(Isa, TheEmulatorIsNeverTheDefault) {
  if (std::getenv("FUSEDLM_ISA")) GTEST_SKIP() << "FUSEDLM_ISA chooses";
  EXPECT_NE(current_isa(), Isa::simt);
}

TEST(Isa, OneTheMachineLacksIsRefused) {
  const std::vector<Isa> isas = available_isas();
  for (Isa isa : {Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::neon}) {
    if (std::find(isas.begin(), isas.end(), isa) != isas.end()) continue;
    const std::string message = message_of<Unsupported>([&] { set_isa(isa); });
    const std::string lacks = std::string(" lacks ") + name_of(isa);
    EXPECT_TRUE(message == "set_isa: this machine" + lacks ||
                message == "set_isa: this build" + lacks + " (FUSEDLM_ISAS)")
        << message;
  }
}

TEST(Isa, NamesAndValuesBelongTogether) {
  for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::neon, Isa::simt})
    EXPECT_EQ(isa_from_name(name_of(isa)), isa);
}

TEST(Isa, AnUnknownNameIsRefused) {
  EXPECT_EQ(message_of([] { isa_from_name("sse9"); }),
            "isa is 'sse9', expected scalar, avx2, avx512, avx512_bf16, neon or simt");
}

TEST(Workspace, BlocksAreAlignedToACacheLineAndApart) {
  Workspace workspace;
  Workspace::Scope scope(workspace);
  char* last_end = nullptr;
  for (index_t bytes : {1, 63, 64, 65, 1000}) {
    char* block = workspace.take<char>(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % 64, 0u);
    EXPECT_GE(block, last_end);
    last_end = block + bytes;
  }
}

TEST(Workspace, AScopeFreesWhatWasTakenInside) {
  Workspace workspace;
  Workspace::Scope outer(workspace);
  float* kept = workspace.take<float>(10);
  float* first;
  {
    Workspace::Scope inner(workspace);
    first = workspace.take<float>(100);
  }
  EXPECT_NE(first, kept);
  EXPECT_EQ(workspace.take<float>(100), first);
}

TEST(Workspace, GrowthInsideAScopeKeepsEarlierBlocksValid) {
  Workspace workspace;
  Workspace::Scope scope(workspace);
  std::vector<index_t*> blocks;
  for (index_t i = 0; i < 8; ++i) {
    const index_t count = index_t{1} << (14 + i);  // 128 KiB to 16 MiB
    blocks.push_back(workspace.take<index_t>(count));
    std::fill_n(blocks.back(), count, i);
  }
  for (index_t i = 0; i < 8; ++i) {
    EXPECT_EQ(blocks[i][0], i);
    EXPECT_EQ(blocks[i][(index_t{1} << (14 + i)) - 1], i);
  }
}

TEST(Workspace, TheOutermostScopeFoldsItsBlocksIntoOneThatIsReused) {
  constexpr size_t kHalf = size_t{3} << 20;
  Workspace workspace;
  const auto take_both_halves = [&] {
    Workspace::Scope scope(workspace);
    char* first = workspace.take<char>(kHalf);
    char* second = workspace.take<char>(kHalf);
    return second - first;
  };
  take_both_halves();
  const size_t capacity = workspace.capacity();
  EXPECT_GE(capacity, 2 * kHalf);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(take_both_halves(), static_cast<ptrdiff_t>(kHalf));  // side by side: one block
    EXPECT_EQ(workspace.capacity(), capacity);
  }
}

TEST(Workspace, AnInnerScopeDoesNotFoldBlocksThatTheOuterOneHolds) {
  Workspace workspace;
  Workspace::Scope outer(workspace);
  int* kept = workspace.take<int>(16);
  std::fill_n(kept, 16, 7);
  for (int i = 0; i < 2; ++i) {
    Workspace::Scope inner(workspace);
    workspace.take<char>(index_t{8} << 20);
  }
  EXPECT_EQ(std::count(kept, kept + 16, 7), 16);
}

TEST(Workspace, ReleaseGivesEverythingBack) {
  Workspace workspace;
  {
    Workspace::Scope scope(workspace);
    workspace.take<char>(100);
  }
  EXPECT_GE(workspace.capacity(), 100u);
  workspace.release();
  EXPECT_EQ(workspace.capacity(), 0u);
  Workspace::Scope scope(workspace);
  EXPECT_NE(workspace.take<char>(100), nullptr);
}

TEST(Workspace, AnImpossibleSizeIsOutOfMemoryAndNamesIt) {
  Workspace workspace;
  Workspace::Scope scope(workspace);
  EXPECT_EQ(message_of<OutOfMemory>([&] { workspace.take_bytes(size_t{1} << 60); }),
            "workspace: 1152921504606846976 bytes could not be allocated");
  EXPECT_NE(workspace.take<char>(100), nullptr);
}

TEST(Threads, FewerThanOneAreRefused) {
  EXPECT_EQ(message_of([] { set_num_threads(0); }),
            "set_num_threads: threads is 0, expected at least 1");
}

TEST(Threads, ParallelForRunsEveryTaskOnce) {
  const int before = num_threads();
  for (int threads : {1, 2}) {
    set_num_threads(threads);
    for (index_t tasks : {0, 1, 2, 3, 1000}) {
      std::vector<std::atomic<int>> runs(tasks);
      std::atomic<bool> thread_in_range{true};
      parallel_for(tasks, [&](index_t task, int thread) {
        ++runs[task];
        if (thread < 0 || thread >= threads) thread_in_range = false;
      });
      for (const std::atomic<int>& count : runs) EXPECT_EQ(count, 1);
      EXPECT_TRUE(thread_in_range);
    }
  }
  set_num_threads(before);
}

TEST(Threads, StretchesAreAllTasksOnceAndLong) {
  const int before = num_threads();
  for (int threads : {1, 2, 5}) {
    set_num_threads(threads);
    for (index_t tasks : {0, 1, 2, 3, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
      std::atomic<index_t> longest{0}, stretches{0};
      parallel_for_stretches(tasks, [&](index_t first, index_t last, int thread) {
        EXPECT_LT(first, last);
        EXPECT_TRUE(thread >= 0 && thread < threads);
        for (index_t task = first; task < last; ++task) ++runs[static_cast<size_t>(task)];
        index_t seen = longest;
        while (seen < last - first && !longest.compare_exchange_weak(seen, last - first)) {
        }
        ++stretches;
      });
      for (const std::atomic<int>& count : runs) EXPECT_EQ(count, 1);
      if (tasks == 1000) {
        EXPECT_EQ(longest, threads == 1 ? 1000 : 1000 / threads / 2);
        EXPECT_LE(stretches, threads * 10);
      }
    }
  }
  set_num_threads(before);
}

TEST(Team, DoesEachTaskOnceInManyLoopsAndLendsItsThreadsToNone) {
  const int before = num_threads();
  for (int threads : {1, 2, 5}) {
    set_num_threads(threads);
    with_team([&] {
      EXPECT_EQ(num_threads(), threads);
      for (index_t loop = 0; loop < 3000; ++loop) {
        const index_t tasks = loop % 9;
        std::vector<std::atomic<int>> done(static_cast<size_t>(tasks));
        parallel_for(tasks, [&](index_t task, int thread) {
          EXPECT_TRUE(thread >= 0 && thread < threads);
          if (threads > 1 && tasks > 1) {
            EXPECT_EQ(num_threads(), 1);  // a loop within a task is the task's own
          }
          parallel_for(2, [&](index_t, int) { ++done[static_cast<size_t>(task)]; });
        });
        for (const auto& count : done) ASSERT_EQ(count, 2) << threads << " threads, loop " << loop;
      }
    });
    EXPECT_EQ(num_threads(), threads);
  }
  set_num_threads(before);
}

TEST(Team, PassesAnExceptionOnAndIsOver) {
  const int before = num_threads();
  set_num_threads(2);
  EXPECT_THROW(with_team([] { throw OutOfMemory("none left"); }), OutOfMemory);
  EXPECT_EQ(num_threads(), 2);
  set_num_threads(before);
}

}  // namespace

// Whether `ReadAhead` asks ahead after trials in which that takes `ahead` a byte, and `plain` otherwise; every
// `slow`th call is held up.
bool asks_ahead(float ahead, float plain, int slow = 1000) {
  ReadAhead read_ahead;
  for (int i = 0; i < ReadAhead::kTrials; ++i) {
    const auto call = read_ahead.next();
    EXPECT_EQ(call.trial, i);
    read_ahead.done(call, (call.ahead ? ahead : plain) * (i % slow == 0 ? 100.0f : 1.0f));
  }
  const auto call = read_ahead.next();
  EXPECT_EQ(call.trial, -1);
  return call.ahead;
}

TEST(ReadAhead, ChoosesWhatWasFaster) {
  EXPECT_TRUE(asks_ahead(0.5f, 1.0f));
  EXPECT_FALSE(asks_ahead(1.0f, 0.5f));
  EXPECT_FALSE(asks_ahead(0.99f, 1.0f));  // within the noise
  EXPECT_TRUE(asks_ahead(0.5f, 1.0f, 5));
  EXPECT_FALSE(asks_ahead(1.0f, 0.5f, 5));
}

TEST(ReadAhead, WaitsForTrialsThatAreUnderWay) {
  ReadAhead read_ahead;
  std::vector<ReadAhead::Call> calls;
  for (int i = 0; i < ReadAhead::kTrials; ++i) calls.push_back(read_ahead.next());
  EXPECT_EQ(read_ahead.next().trial, -1);
  EXPECT_FALSE(read_ahead.next().ahead);
  for (const auto& call : calls) read_ahead.done(call, call.ahead ? 1.0f : 2.0f);
  EXPECT_TRUE(read_ahead.next().ahead);
}

TEST(ReadAhead, TriesBothWaysOnEveryProductOfALayer) {
  ReadAhead read_ahead;
  int ahead[4] = {};
  for (int i = 0; i < ReadAhead::kTrials; ++i) ahead[i % 4] += read_ahead.next().ahead;
  for (const int count : ahead) EXPECT_EQ(count, ReadAhead::kTrials / 8);
}

}  // namespace fusedlm::test
