#pragma once
#include "fusedlm/device.h"
#include "fusedlm/tensor.h"

namespace fusedlm {

/// What the machine can reach at best, measured: multiply-adds that never leave the registers, on all
/// threads, for about `seconds`. Benchmarks print their speed as a part of it.
///   dtype   float32, or bfloat16 (its own instructions where the machine has them, else float32's)
///   flops   float64 [1], floating-point operations per second
/// Throws as every op (errors.h), InvalidArgument for `seconds` that are not above 0 and at most 60.
struct RoofMeasure {
  DType dtype;
  double seconds;
  double* flops;
};
void roof_measure(const RoofMeasure& args, Context& ctx);

/// The same for memory: reading `bytes` of it from end to end, on all threads, for about `seconds`.
///   bytes   1 MiB to 4 GiB; several times the last cache for the roof of decoding
///   rate    float64 [1], bytes per second
/// Throws as every op (errors.h), InvalidArgument for `seconds` that are not above 0 and at most 60.
struct BandwidthMeasure {
  index_t bytes;
  double seconds;
  double* rate;
};
void bandwidth_measure(const BandwidthMeasure& args, Context& ctx);

}  // namespace fusedlm
