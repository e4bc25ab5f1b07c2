#include "engine/decoder_kernels.h"

#include "core/dispatch.h"

namespace fusedlm {

using engine::HeadsToCache;
using engine::NormRows;

FUSEDLM_CPU_KERNEL(norm_rows, NormRows)
FUSEDLM_CPU_KERNEL(heads_to_cache, HeadsToCache)

namespace engine {

void norm_rows(const NormRows& args, Context& ctx) { dispatch_norm_rows(args, ctx); }
void heads_to_cache(const HeadsToCache& args, Context& ctx) { dispatch_heads_to_cache(args, ctx); }

}  // namespace engine
}  // namespace fusedlm
