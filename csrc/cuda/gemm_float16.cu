// The products of float16 operands.

#include "cuda/gemm_kernel.h"

namespace fusedlm::FUSEDLM_DEVICE {

template void launch_gemm<float16>(Form, const Cut&, const Problem<float16>&,
                                   const Epilogue<float16>&, Context&);

}  // namespace fusedlm::FUSEDLM_DEVICE
