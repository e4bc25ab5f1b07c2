#include "fusedlm/tensor.h"

namespace fusedlm {

const char* name_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::float32:
      return "float32";
    case DType::bfloat16:
      return "bfloat16";
    case DType::float16:
      return "float16";
    case DType::float64:
      return "float64";
    case DType::other:
      return "(neither a float nor int32, int64 or bool)";
    case DType::int64:
      return "int64";
    case DType::int32:
      return "int32";
    case DType::boolean:
      return "bool";
  }
  return "unknown";
}

std::string shape_string(const TensorView& view) {
  std::string text = "[";
  for (int i = 0; i < view.ndim; ++i) text += (i ? ", " : "") + std::to_string(view.shape[i]);
  return text + "]";
}

}  // namespace fusedlm
