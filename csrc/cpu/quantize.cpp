#include "cpu/weight_blocks.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
void quantize(const Quantize&, Context&) {}
}  // namespace fusedlm::cpu::FUSEDLM_ISA
