#include "core/check.h"

namespace fusedlm::check {

void fail(const char* op, const std::string& message) {
  throw InvalidArgument(std::string(op) + ": " + message);
}

void tensor(const char* op, const char* argument, const TensorView& view, int ndim,
            std::initializer_list<DType> dtypes) {
  const std::string name = argument;
  if (!view.defined()) fail(op, name + " is missing");
  if (view.device != DeviceType::cpu) fail(op, name + " is on cuda, expected cpu");
  if (view.ndim != ndim) {
    fail(op, name + " has shape " + shape_string(view) + ", expected " + std::to_string(ndim) +
                 " dimensions");
  }
  std::string wanted;
  for (DType dtype : dtypes) {
    if (dtype == view.dtype) return;
    wanted += (wanted.empty() ? "" : " or ") + std::string(name_of(dtype));
  }
  fail(op, name + " has dtype " + name_of(view.dtype) + ", expected " + wanted);
}

void dim(const char* op, const char* argument, const TensorView& view, int dim, index_t expected,
         const char* like) {
  if (view.shape[dim] == expected) return;
  fail(op, std::string(argument) + " has shape " + shape_string(view) + ", expected " +
               std::to_string(expected) + " in dimension " + std::to_string(dim) + " as in " +
               like);
}

void last_contiguous(const char* op, const char* argument, const TensorView& view) {
  if (view.ndim == 0 || view.numel() == 0 || view.shape[view.ndim - 1] <= 1 ||
      view.strides[view.ndim - 1] == 1)
    return;
  fail(op, std::string(argument) + " has stride " + std::to_string(view.strides[view.ndim - 1]) +
               " in its last dimension, expected 1");
}

void contiguous(const char* op, const char* argument, const TensorView& view) {
  index_t step = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    if (view.shape[i] > 1 && view.strides[i] != step && view.numel() > 0) {
      fail(op, std::string(argument) + " is not contiguous");
    }
    step *= view.shape[i];
  }
}

}  // namespace fusedlm::check
