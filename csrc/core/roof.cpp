#include "fusedlm/roof.h"

#include "core/check.h"
#include "core/dispatch.h"

namespace fusedlm {

FUSEDLM_CPU_KERNEL(roof_measure, RoofMeasure)

void roof_measure(const RoofMeasure& args, Context& ctx) {
  constexpr const char* op = "roof_measure";
  if (args.dtype != DType::float32 && args.dtype != DType::bfloat16) {
    check::fail(op,
                std::string("dtype is ") + name_of(args.dtype) + ", expected float32 or bfloat16");
  }
  if (!(args.seconds > 0 && args.seconds <= 60)) {
    check::fail(
        op, "seconds is " + std::to_string(args.seconds) + ", expected more than 0 and at most 60");
  }
  dispatch_roof_measure(args, ctx);
}

}  // namespace fusedlm
