// The products of float32 operands.

#include "cuda/gemm_kernel.h"

namespace fusedlm::FUSEDLM_DEVICE {

template void launch_gemm<float>(Form, const Cut&, const Problem<float>&, const Epilogue<float>&,
                                 Context&);

}  // namespace fusedlm::FUSEDLM_DEVICE
