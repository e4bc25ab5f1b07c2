// Rotary position embedding against double.

#include "fusedlm/rope.h"

#include "support.h"

namespace fusedlm::test {
namespace {

// 40 tokens make several tasks.
constexpr index_t B = 2, T = 20, H = 3, P = 50;

// Of D elements 2 half turn, in each head alike; the second is what the CUDA kernels read in packs.
struct Width {
  index_t D, half;
};
constexpr Width kOdd{37, 15}, kPacked{40, 16};

struct Tables {
  index_t half;
  Buffer cos{{P, half}}, sin{{P, half}};
  explicit Tables(index_t half) : half(half) {
    for (index_t i = 0; i < P * half; ++i) {
      const auto position = static_cast<double>(i / half);
      const double angle =
          position * std::pow(1e4, -static_cast<double>(i % half) / static_cast<double>(half));
      cos.set(i, std::cos(angle));
      sin.set(i, std::sin(angle));
    }
  }
};

Buffer positions_apart() {
  Buffer positions({B, T}, DType::int64);
  for (index_t i = 0; i < B * T; ++i) positions.set(i, (7 * i + 3) % P);
  return positions;
}

Buffer run(const Buffer& x, const Tables& tables, const TensorView& positions, bool interleaved,
           bool inverse) {
  Buffer y({B, T, H, x.view().shape[3]}, x.dtype());
  rope({x.view(), tables.cos.view(), tables.sin.view(), positions, y.view(), interleaved, inverse},
       Context::current());
  return y;
}

std::vector<double> reference(const Buffer& x, const Tables& tables, const Buffer* positions,
                              bool interleaved) {
  const index_t D = x.view().shape[3], half = tables.half;
  std::vector<double> y(x.size());
  for (index_t i = 0; i < x.size(); ++i) y[i] = x[i];
  for (index_t n = 0; n < B * T * H; ++n) {
    const index_t token = n / H;
    const index_t at = positions ? static_cast<index_t>((*positions)[token]) : token % T;
    for (index_t i = 0; i < half; ++i) {
      const index_t a = n * D + (interleaved ? 2 * i : i), b = interleaved ? a + 1 : a + half;
      const double c = tables.cos[at * half + i], s = tables.sin[at * half + i];
      y[a] = x[a] * c - x[b] * s;
      y[b] = x[b] * c + x[a] * s;
    }
  }
  return y;
}

TEST(Rope, TurnsEveryPairByTheAngleOfItsPosition) {
  const Buffer positions = positions_apart();
  for (const auto& [D, half] : {kOdd, kPacked}) {
    const Tables tables(half);
    for (DType dtype : all_float_types()) {
      const Buffer x = random({B, T, H, D}, 0, dtype);
      for (bool interleaved : {false, true}) {
        SCOPED_TRACE(interleaved ? "interleaved" : "halves");
        on_every_isa_for(dtype, [&] {
          expect_close(run(x, tables, {}, interleaved, false),
                       reference(x, tables, nullptr, interleaved), tolerance_of(dtype, 1), "y");
          expect_close(run(x, tables, positions.view(), interleaved, false),
                       reference(x, tables, &positions, interleaved), tolerance_of(dtype, 1),
                       "y with positions");
        });
      }
    }
  }
}

TEST(Rope, LeavesTheElementsBehindThePairsAsTheyAre) {
  for (const auto& [D, half] : {kOdd, kPacked}) {
    const Buffer x = random({B, T, H, D}, 0, DType::bfloat16);
    on_every_isa([&] {
      const Buffer y = run(x, Tables(half), {}, false, false);
      for (index_t first = 2 * half; first < x.size(); first += D)
        for (index_t i = first; i < first + D - 2 * half; ++i) ASSERT_EQ(y[i], x[i]) << i;
    });
  }
}

TEST(Rope, InverseUndoesIt) {
  const Tables tables(kOdd.half);
  const Buffer x = random({B, T, H, kOdd.D}, 0), positions = positions_apart();
  for (bool interleaved : {false, true}) {
    on_every_isa([&] {
      const Buffer y = run(x, tables, positions.view(), interleaved, false);
      const Buffer back = run(y, tables, positions.view(), interleaved, true);
      for (index_t i = 0; i < x.size(); ++i) ASSERT_NEAR(back[i], x[i], 1e-6) << i;
    });
  }
}

TEST(Rope, APositionOutsideTheTablesIsNamed) {
  Buffer positions = positions_apart();
  positions.set(5, P);
  const Buffer x = random({B, T, H, kOdd.D}, 0);
  EXPECT_EQ(message_of([&] { run(x, Tables(kOdd.half), positions.view(), false, false); }),
            "rope: positions holds 50, expected 0 to 49");
}

}  // namespace
}  // namespace fusedlm::test
