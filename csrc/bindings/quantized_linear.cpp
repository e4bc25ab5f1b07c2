#include "fusedlm/quantized_linear.h"

#include "bindings/activation.h"
#include "bindings/binding.h"

namespace fusedlm::bindings {
namespace {

// What Python passes for a matrix: (bytes, format, rows, columns, scales or None). The bytes are a dense
// tensor or array of any type that is exactly as long.
using Matrix = std::tuple<TensorView, std::string, index_t, index_t, TensorView>;

Weight weight_of(const char* op, const std::string& argument, const Matrix& matrix) {
  const auto& [data, format, rows, cols, scales] = matrix;
  Weight weight{.data = data.data,
                .scales = scales.defined() ? scales.as<float>() : nullptr,
                .format = weight_format_from_name(format),
                .rows = rows,
                .cols = cols};
  const std::string start = std::string(op) + ": " + argument;
  if (!data.defined() || data.device != DeviceType::cpu) {
    throw InvalidArgument(start + " is not on the CPU");
  }
  if (rows < 0 || cols < 1 || rows > (index_t{1} << 40) / cols) {
    throw InvalidArgument(start + " is " + std::to_string(rows) + " x " + std::to_string(cols));
  }
  const index_t have = data.numel() * size_of(data.dtype),
                need = row_bytes(weight.format, cols) * rows;
  if (have != need) {
    throw InvalidArgument(start + " has " + std::to_string(have) + " bytes, expected " +
                          std::to_string(need) + " for " + std::to_string(rows) + " x " +
                          std::to_string(cols) + " of " + format);
  }
  if (scales.defined() &&
      (scales.ndim != 1 || scales.shape[0] != rows || scales.dtype != DType::float32 ||
       (rows > 1 && scales.strides[0] != 1))) {
    throw InvalidArgument(start + " has scales " + shape_string(scales) + " of " +
                          name_of(scales.dtype) + ", expected a dense float32 [" +
                          std::to_string(rows) + "]");
  }
  return weight;
}

}  // namespace

static const Registration quantized_linear_binding([](pybind11::module_& m) {
  m.def("weight_row_bytes", [](const std::string& format, index_t cols) {
    return row_bytes(weight_format_from_name(format), cols);
  });
  m.def("weight_block_size",
        [](const std::string& format) { return block_size(weight_format_from_name(format)); });
  m.def("dequantize", [](const Matrix& weight, index_t first, TensorView out) {
    run(dequantize, Dequantize{weight_of("dequantize", "weight", weight), first, out});
  });
  m.def("quantize",
        [](TensorView x, const std::string& format, TensorView data, TensorView scales) {
          run(quantize, Quantize{x, weight_format_from_name(format), data.data,
                                 scales.defined() ? scales.as<float>() : nullptr});
        });
  m.def("quantized_linear",
        [](TensorView x, const std::vector<Matrix>& weights, const std::vector<TensorView>& bias,
           TensorView residual, TensorView y, const std::string& activation, bool gated) {
          constexpr const char* op = "quantized_linear";
          QuantizedLinear args;
          args.x = x;
          args.residual = residual;
          args.y = y;
          args.gated = gated;
          args.activation = activation_from_name(op, activation);
          args.count = static_cast<int>(weights.size());
          if (weights.size() > args.weights.size() || bias.size() > weights.size()) {
            throw InvalidArgument(std::string(op) + ": " + std::to_string(weights.size()) +
                                  " weights and " + std::to_string(bias.size()) +
                                  " biases, expected at most 3 and no more biases than weights");
          }
          for (size_t i = 0; i < weights.size(); ++i) {
            args.weights[i] = weight_of(op, "weights[" + std::to_string(i) + "]", weights[i]);
            if (i < bias.size()) args.bias[i] = bias[i];
          }
          run(quantized_linear, args);
        });
});

}  // namespace fusedlm::bindings
