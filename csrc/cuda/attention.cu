// Attention on the GPU: from the public call to the kernels that compute it.

#include "cuda/attention_kernels.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

// Whether the keys are many beside the queries: then blocks for tiles of queries alone would be few,
// and most rows of those tiles empty.
bool few_queries(const Problem& p) {
  constexpr int kQueries = 16, kKeysPerQuery = 4;
  return !p.cu_q && p.T <= kQueries && p.S >= kKeysPerQuery * p.T;
}

}  // namespace

void attention_forward(const AttentionForward& args, Context& ctx) {
  const Problem p = problem_of(args.options, args.query, args.key);
  const bool wide = args.query.dtype == DType::float32;
  if (args.key.dtype != args.query.dtype) {
    throw Unsupported(std::string("attention on CUDA: key has dtype ") + name_of(args.key.dtype) +
                      ", expected " + name_of(args.query.dtype) + " as in query");
  }
  if (few_queries(p)) {
    (wide ? attention_decode_float : attention_decode_half)(args, p, ctx);
  } else {
    (wide ? attention_forward_float : attention_forward_half)(args, p, ctx);
  }
}

}  // namespace fusedlm::FUSEDLM_DEVICE
