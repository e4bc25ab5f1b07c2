#include "fusedlm/roof.h"

#include "core/check.h"
#include "core/dispatch.h"

namespace fusedlm {

FUSEDLM_CPU_KERNEL(roof_measure, RoofMeasure)
FUSEDLM_CPU_KERNEL(bandwidth_measure, BandwidthMeasure)

namespace {
void check_seconds(const char* op, double seconds) {
  if (!(seconds > 0 && seconds <= 60)) {
    check::fail(op,
                "seconds is " + std::to_string(seconds) + ", expected more than 0 and at most 60");
  }
}
}  // namespace

void roof_measure(const RoofMeasure& args, Context& ctx) {
  constexpr const char* op = "roof_measure";
  if (args.dtype != DType::float32 && args.dtype != DType::bfloat16) {
    check::fail(op,
                std::string("dtype is ") + name_of(args.dtype) + ", expected float32 or bfloat16");
  }
  check_seconds(op, args.seconds);
  dispatch_roof_measure(args, ctx);
}

void bandwidth_measure(const BandwidthMeasure& args, Context& ctx) {
  constexpr const char* op = "bandwidth_measure";
  constexpr index_t kLeast = index_t{1} << 20, kMost = index_t{4} << 30;
  if (args.bytes < kLeast || args.bytes > kMost) {
    check::fail(op, "bytes is " + std::to_string(args.bytes) + ", expected 1 MiB to 4 GiB");
  }
  check_seconds(op, args.seconds);
  dispatch_bandwidth_measure(args, ctx);
}

}  // namespace fusedlm
