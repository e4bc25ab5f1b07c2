// The roof: independent chains of multiply-adds in registers, enough of them to hide the latency
// (4 to 6 cycles x 2 pipes on current x86). The best of several rounds counts, since the machine
// may be shared.

#include "fusedlm/roof.h"

#include "cpu/clock.h"
#include "cpu/vec.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

constexpr int kChains = 12;
constexpr index_t kSteps = index_t{1} << 20;

// Read anew for each chain: the compiler would merge chains that it knows to start alike.
volatile float start_value = 0.0f;

// One round of kSteps; the result is used, so that the compiler keeps the work.
float chains(bool pairs, index_t& flops) {
#if defined(FUSEDLM_ISA_AVX512_BF16)
  if (pairs) {
    __m512 acc[kChains];
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) acc[c] = _mm512_set1_ps(start_value);
    const __m512bh x = (__m512bh)_mm512_set1_epi32(0x3c003c00);
    for (index_t s = 0; s < kSteps; ++s) {
#pragma GCC unroll 16
      for (int c = 0; c < kChains; ++c) acc[c] = _mm512_dpbf16_ps(acc[c], x, x);
    }
    flops = kSteps * kChains * 64;
    Vec total;
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) total = total + Vec(acc[c]);
    return reduce_sum(total);
  }
#endif
  (void)pairs;
  Vec acc[kChains];
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) acc[c] = Vec(start_value);
  const Vec x(0.0078125f);
  for (index_t s = 0; s < kSteps; ++s) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) acc[c] = fma(x, x, acc[c]);
  }
  flops = kSteps * kChains * 2 * Vec::size;
  Vec total;
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) total = total + acc[c];
  return reduce_sum(total);
}

}  // namespace

void roof_measure(const RoofMeasure& args, Context&) {
  const int threads = num_threads();
  const double until = now() + args.seconds;
  double best = 0;
  volatile float sink = 0;
  while (now() < until) {
    index_t flops = 0;
    const double start = now();
    parallel_for(threads, [&](index_t task, int) {
      index_t done = 0;
      const float result = chains(args.dtype == DType::bfloat16, done);
      if (task == 0) {
        flops = done;
        sink = result;
      }
    });
    const double rate = static_cast<double>(flops) * threads / (now() - start);
    if (rate > best) best = rate;
  }
  *args.flops = best;
}

void bandwidth_measure(const BandwidthMeasure& args, Context& ctx) {
  constexpr index_t kTask = index_t{128} << 10, kAhead = 2048, kLine = 64;
  const index_t tasks = args.bytes / kTask;
  auto* data = ctx.workspace().take<uint8_t>(tasks * kTask);
  std::memset(data, 1, static_cast<size_t>(tasks * kTask));  // pages of its own, not the zero page
  const double until = now() + args.seconds;
  double best = 0;
  volatile float sink = 0;
  while (now() < until) {
    const double start = now();
    parallel_for_stretches(tasks, [&](index_t task, index_t last, int) {
      const uint8_t* p = data + task * kTask;
      Vec sums[4];
      for (index_t i = 0; i < (last - task) * kTask; i += 4 * kLine) {
#pragma GCC unroll 4
        for (int line = 0; line < 4; ++line) {
          __builtin_prefetch(p + i + line * kLine + kAhead, 0, 3);
          // Every byte is read, a whole line at once where vectors are as long.
          for (index_t v = 0; v < kLine; v += 4 * Vec::size) {
            sums[line] = max(sums[line],
                             Vec::load(reinterpret_cast<const float*>(p + i + line * kLine + v)));
          }
        }
      }
      if (task == 0) sink = reduce_max(max(max(sums[0], sums[1]), max(sums[2], sums[3])));
    });
    const double rate = static_cast<double>(tasks * kTask) / (now() - start);
    if (rate > best) best = rate;
  }
  *args.rate = best;
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
