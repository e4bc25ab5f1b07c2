// Until core/weight.cpp is here.
#include <bit>
#include <cmath>

#include "fusedlm/errors.h"
#include "fusedlm/weight.h"

namespace fusedlm {

static constexpr const char* kNames[] = {"float32", "float16", "bfloat16", "int8", "q8_0",
                                         "q4_0",    "q4_1",    "q4_k",     "q6_k"};

const char* name_of(WeightFormat format) { return kNames[static_cast<int>(format)]; }
WeightFormat weight_format_from_name(const std::string& name) {
  for (int i = 0; i < 9; ++i)
    if (name == kNames[i]) return static_cast<WeightFormat>(i);
  throw InvalidArgument("weight format " + name);
}
index_t block_size(WeightFormat format) {
  if (format < WeightFormat::q8_0) return 1;
  return format < WeightFormat::q4_k ? 32 : 256;
}
index_t row_bytes(WeightFormat format, index_t cols) {
  constexpr index_t bytes[] = {4, 2, 2, 1, 34, 18, 20, 144, 210};
  return cols / block_size(format) * bytes[static_cast<int>(format)];
}
void dequantize(const Dequantize& a, Context&) {
  if (a.weight.format > WeightFormat::bfloat16) throw Unsupported("dequantize");
  const auto* from =
      static_cast<const char*>(a.weight.data) + a.first * row_bytes(a.weight.format, a.weight.cols);
  for (index_t i = 0; i < a.out.numel(); ++i) {
    float value;
    uint16_t half;
    if (a.weight.format == WeightFormat::float32) {
      __builtin_memcpy(&value, from + 4 * i, 4);
    } else {
      __builtin_memcpy(&half, from + 2 * i, 2);
      if (a.weight.format == WeightFormat::bfloat16) {
        value = std::bit_cast<float>(uint32_t{half} << 16);
      } else {
        const int exponent = half >> 10 & 31, mantissa = half & 1023;
        value = exponent ? std::ldexp(1024.f + mantissa, exponent - 25)
                         : std::ldexp(1.f * mantissa, -24);
        if (half & 0x8000) value = -value;
      }
    }
    a.out.as<float>()[i] = value;
  }
}
void quantize(const Quantize&, Context&) { throw Unsupported("quantize"); }

}  // namespace fusedlm
