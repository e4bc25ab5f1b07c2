#include "fusedlm/weight.h"

#include <cmath>

#include "core/dispatch.h"
#include "core/linear_checks.h"
#include "core/weight_checks.h"

namespace fusedlm {
namespace {

// Weights and bytes of a block, in the order of WeightFormat.
struct Format {
  const char* name;
  index_t block, bytes;
};
constexpr Format kFormats[] = {{"float32", 1, 4}, {"float16", 1, 2},  {"bfloat16", 1, 2},
                               {"int8", 1, 1},    {"q8_0", 32, 34},   {"q4_0", 32, 18},
                               {"q4_1", 32, 20},  {"q4_k", 256, 144}, {"q6_k", 256, 210}};

const Format& of(WeightFormat format) { return kFormats[static_cast<int>(format)]; }

}  // namespace

const char* name_of(WeightFormat format) noexcept { return of(format).name; }

WeightFormat weight_format_from_name(const std::string& name) {
  std::string known;
  for (size_t i = 0; i < std::size(kFormats); ++i) {
    if (name == kFormats[i].name) return static_cast<WeightFormat>(i);
    known += (i ? ", " : "") + std::string(kFormats[i].name);
  }
  throw InvalidArgument("weight format is '" + name + "', expected one of " + known);
}

index_t block_size(WeightFormat format) noexcept { return of(format).block; }

index_t row_bytes(WeightFormat format, index_t cols) noexcept {
  return cols / of(format).block * of(format).bytes;
}

namespace check {

void weight_columns(const char* op, const char* argument, WeightFormat format, index_t cols) {
  if (cols < 1) {
    fail(op, std::string(argument) + " has rows of " + std::to_string(cols) +
                 " weights, expected at least 1");
  }
  if (cols % block_size(format) != 0) {
    fail(op, std::string(argument) + " has rows of " + std::to_string(cols) +
                 " weights, expected a multiple of " + std::to_string(block_size(format)) +
                 ", the block of " + name_of(format));
  }
}

void weight(const char* op, const char* argument, const Weight& weight) {
  if (weight.rows < 0) {
    fail(op, std::string(argument) + " has " + std::to_string(weight.rows) + " rows");
  }
  weight_columns(op, argument, weight.format, weight.cols);
  if (!weight.data && weight.rows > 0) fail(op, std::string(argument) + " has no data");
  if (weight.format == WeightFormat::int8 && !weight.scales && weight.rows > 0) {
    fail(op, std::string(argument) + " has no scales, which int8 needs");
  }
}

void refuse_row(index_t row, WeightFormat format, bool wide) {
  fail("quantize", "x[" + std::to_string(row) + "] holds NaN, infinity or more than " +
                       name_of(format) + " can, expected finite weights" +
                       (wide ? "" : " up to 65504"));
}

}  // namespace check

FUSEDLM_CPU_KERNEL(dequantize, Dequantize)
FUSEDLM_CPU_KERNEL(quantize, Quantize)

void dequantize(const Dequantize& a, Context& ctx) {
  constexpr const char* op = "dequantize";
  check::weight(op, "weight", a.weight);
  check::rows_input(op, "out", a.out);
  check::dim(op, "out", a.out, 1, a.weight.cols, "weight");
  const index_t count = a.out.shape[0];
  if (a.first < 0 || count > a.weight.rows || a.first > a.weight.rows - count) {
    check::fail(op, "rows " + std::to_string(a.first) + " to " + std::to_string(a.first + count) +
                        " of weight, which has " + std::to_string(a.weight.rows));
  }
  dispatch_dequantize(a, ctx);
}

void quantize(const Quantize& a, Context& ctx) {
  constexpr const char* op = "quantize";
  check::rows_input(op, "x", a.x);
  check::weight_columns(op, "x", a.format, a.x.shape[1]);
  if (a.x.shape[0] > 0 && !a.data) check::fail(op, "data is not given");
  if (a.x.shape[0] > 0 && a.format == WeightFormat::int8 && !a.scales) {
    check::fail(op, "scales are not given, which int8 needs");
  }
  dispatch_quantize(a, ctx);
}

}  // namespace fusedlm
