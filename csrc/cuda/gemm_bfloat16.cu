// The products of bfloat16 operands.

#include "cuda/gemm_kernel.h"

namespace fusedlm::FUSEDLM_DEVICE {

template void launch_gemm<bfloat16>(Form, const Cut&, const Problem<bfloat16>&,
                                    const Epilogue<bfloat16>&, Context&);

}  // namespace fusedlm::FUSEDLM_DEVICE
