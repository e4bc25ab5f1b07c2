// Embedding. The forward copies (and adds) rows. The backward sorts positions by token (counting
// sort, stable), so that each row of the gradient is owned by one task, summed in order of position
// and written once.

#include "fusedlm/embedding.h"

#include "cpu/switch.h"
#include "cpu/vec.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

void embedding_forward(const EmbeddingForward& a, Context&) {
  constexpr index_t kRows = 32;  // a task copies some 100 KiB
  const index_t N = a.tokens.shape[0], C = a.weight.shape[1];
  const index_t *tokens = a.tokens.as<index_t>(), *positions = a.positions.as<index_t>();
  switch_float(a.weight.dtype, [&](auto w) {
    switch_float(a.out.dtype, [&](auto t) {
      using W = decltype(w);
      using T = decltype(t);
      parallel_for(ceil_div(N, kRows), [&](index_t task, int) {
        const index_t end = min_of(N, (task + 1) * kRows);
        for (index_t n = task * kRows; n < end; ++n) {
          const W* row = a.weight.as<W>() + tokens[n] * C;
          const W* position = positions ? a.position_weight.as<W>() + positions[n] * C : nullptr;
          T* out = a.out.row<T>(n);
          const auto body = [&](index_t c, auto... m) {
            Vec v = Vec::load(row + c, m...);
            if (position) v = v + Vec::load(position + c, m...);
            v.store(out + c, m...);
          };
          for_each_vec(C, body, body);
        }
      });
    });
  });
}

void embedding_backward(const EmbeddingBackward& a, Context& ctx) {
  constexpr index_t kRows = 64;
  const index_t N = a.dout.shape[0], V = a.dweight.shape[0], C = a.dweight.shape[1];
  const index_t* tokens = a.tokens.as<index_t>();
  // order[first[v] .. first[v + 1]) are the positions of token v, ascending.
  index_t* first = ctx.workspace().take<index_t>(V + 2);
  index_t* order = ctx.workspace().take<index_t>(N + 1);
  __builtin_memset(first, 0, static_cast<size_t>(V + 2) * sizeof(index_t));
  for (index_t n = 0; n < N; ++n) ++first[tokens[n] + 2];
  for (index_t v = 2; v <= V + 1; ++v) first[v] += first[v - 1];
  for (index_t n = 0; n < N; ++n) order[first[tokens[n] + 1]++] = n;
  const index_t stride = ceil_div(C, Vec::size) * Vec::size;
  float* sums = ctx.workspace().take<float>(num_threads() * stride);
  switch_float(a.dout.dtype, [&](auto t) {
    switch_float(a.dweight.dtype, [&](auto w) {
      using T = decltype(t);
      using W = decltype(w);
      parallel_for(ceil_div(V, kRows), [&](index_t task, int thread) {
        const index_t end = min_of(V, (task + 1) * kRows);
        float* sum = sums + thread * stride;
        for (index_t v = task * kRows; v < end; ++v) {
          W* row = a.dweight.row<W>(v);
          const index_t begin = first[v], stop = v == a.padding_idx ? begin : first[v + 1];
          if (begin == stop) {
            __builtin_memset(row, 0, static_cast<size_t>(C) * sizeof(W));
            continue;
          }
          for (index_t i = begin; i < stop; ++i) {
            const T* dout = a.dout.row<T>(order[i]);
            const auto add = [&](index_t c, auto... m) {
              const Vec d = Vec::load(dout + c, m...);
              const Vec total = i == begin ? d : Vec::load(sum + c) + d;
              if (i + 1 == stop) {
                total.store(row + c, m...);
              } else {
                total.store(sum + c);
              }
            };
            for_each_vec(C, add, add);
          }
        }
      });
    });
  });
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
