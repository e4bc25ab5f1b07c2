#pragma once
// What a step of the decoder does between its products, fused; internal to the engine, which answers for
// the arguments.

#include "fusedlm/device.h"
#include "fusedlm/model.h"
#include "fusedlm/tensor.h"

namespace fusedlm::engine {

/// y = norm(x), in float32 and rounded once. x [N, C] float32, y [N, C] float32 or bfloat16, dense.
struct NormRows {
  TensorView x, y;
  NormWeights weights;
  Norm norm = Norm::rms_norm;
  float eps = 1e-5f;
};
void norm_rows(const NormRows& args, Context& ctx);

/// Cosines and sines of the rotary embedding, [positions, D / 2] float32. Where neighbours are pairs, as
/// a vector of them is turned: [positions, D], cosines twice, sines with the signs - and +.
struct RopeRows {
  const float *cos = nullptr, *sin = nullptr;
  bool interleaved = false;
};

/// Query and key get their norm (if any) and turn to their positions (if those are rotary); keys and
/// values go to their places in the cache.
///   qkv         [N, H + 2 G, D] float32 or bfloat16, dense; its queries are overwritten
///   positions   [N], rows of the tables
///   slots       [N], page * page size + place in the page
///   key, value  [pages, page, G, D] float32 or bfloat16, dense
struct HeadsToCache {
  TensorView qkv, key, value;
  const int32_t* positions = nullptr;
  const index_t* slots = nullptr;
  const float *query_norm = nullptr, *key_norm = nullptr;  ///< [D]
  float eps = 1e-5f;
  RopeRows rope;
};
void heads_to_cache(const HeadsToCache& args, Context& ctx);

}  // namespace fusedlm::engine
