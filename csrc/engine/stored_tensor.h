#pragma once
// Tensors as they lie in files: what the readers give and what models are built from.

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fusedlm/weight.h"

namespace fusedlm {

/// A tensor in a file's bytes. Dimensions are row-major, the outermost first.
struct StoredTensor {
  std::vector<index_t> shape;
  std::string type;                    ///< as the file names it, for messages
  std::optional<WeightFormat> format;  ///< of that type; empty where a weight cannot be of it
  const void* data = nullptr;
};

/// Tensors by name, and what keeps their memory.
struct StoredTensors {
  std::string path;  ///< of the file or folder, for messages
  std::map<std::string, StoredTensor> tensors;
  std::vector<std::shared_ptr<const void>> keep;
};

/// "[2, 12, 128]"
std::string shape_string(const std::vector<index_t>& shape);

/// Product of the dimensions times `unit`; empty where it is more than `limit`. All are at least 0.
std::optional<index_t> bounded_product(const std::vector<index_t>& shape, index_t unit,
                                       index_t limit);

}  // namespace fusedlm
