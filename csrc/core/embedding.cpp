#include "fusedlm/embedding.h"

#include "core/dispatch.h"
#include "core/linear_checks.h"

namespace fusedlm {

FUSEDLM_KERNEL(embedding_forward, EmbeddingForward)
FUSEDLM_KERNEL(embedding_backward, EmbeddingBackward)

namespace {

void indices(const char* op, const char* argument, const TensorView& view, index_t count,
             index_t limit, const char* limit_name) {
  check::vector_of(op, argument, view, count, "tokens", {DType::int64});
  if (!check::readable(view)) return;
  const index_t* ids = view.as<index_t>();
  for (index_t n = 0; n < count; ++n) {
    if (ids[n] < 0 || ids[n] >= limit) {
      check::fail(op, std::string(argument) + " has " + std::to_string(ids[n]) + " at [" +
                          std::to_string(n) + "], expected 0 <= id < " + limit_name + " = " +
                          std::to_string(limit));
    }
  }
}

}  // namespace

void embedding_forward(const EmbeddingForward& a, Context& ctx) {
  constexpr const char* op = "embedding";
  check::weight_of(op, "weight", a.weight, -1, "", -1, "", check::floats(a.weight));
  check::tensor(op, "tokens", a.tokens, 1, {DType::int64});
  const index_t N = a.tokens.shape[0], C = a.weight.shape[1];
  check::tensor(op, "out", a.out, 2, check::floats_beside(a.weight));
  check::last_contiguous(op, "out", a.out);
  check::dim(op, "out", a.out, 0, N, "tokens");
  check::dim(op, "out", a.out, 1, C, "weight");
  indices(op, "tokens", a.tokens, N, a.weight.shape[0], "V");
  if (a.position_weight.defined() != a.positions.defined()) {
    check::fail(op, "positions and position_weight are given together or not at all");
  }
  if (a.positions.defined()) {
    check::weight_of(op, "position_weight", a.position_weight, -1, "", C, "weight",
                     {a.weight.dtype});
    indices(op, "positions", a.positions, N, a.position_weight.shape[0], "P");
  }
  dispatch_embedding_forward(a, ctx);
}

void embedding_backward(const EmbeddingBackward& a, Context& ctx) {
  constexpr const char* op = "embedding_backward";
  check::rows_input(op, "dout", a.dout);
  check::weight_of(op, "dweight", a.dweight, -1, "", a.dout.shape[1], "dout",
                   check::floats_beside(a.dout));
  indices(op, "tokens", a.tokens, a.dout.shape[0], a.dweight.shape[0], "V");
  dispatch_embedding_backward(a, ctx);
}

}  // namespace fusedlm
