#include "engine/stored_tensor.h"

namespace fusedlm {

std::string shape_string(const std::vector<index_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::optional<index_t> bounded_product(const std::vector<index_t>& shape, index_t unit,
                                       index_t limit) {
  for (index_t dim : shape) {
    if (dim == 0) return 0;
  }
  index_t product = unit;
  for (index_t dim : shape) {
    if (product > limit / dim) return std::nullopt;
    product *= dim;
  }
  return product;
}

}  // namespace fusedlm
