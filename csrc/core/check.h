#pragma once
// Argument checks of the public API. Every message names op, argument, expectation and what came.

#include <initializer_list>
#include <string>
#include <vector>

#include "fusedlm/errors.h"
#include "fusedlm/tensor.h"

namespace fusedlm::check {

/// The argument is given, on the device of the arguments before it, has `ndim` dimensions and one
/// of the dtypes. A CUDA tensor is refused here where the build has no CUDA kernels.
void tensor(const char* op, const char* argument, const TensorView& view, int ndim,
            std::initializer_list<DType> dtypes);
/// Dimension `dim` has the size `expected`; `like` says where that size comes from.
void dim(const char* op, const char* argument, const TensorView& view, int dim, index_t expected,
         const char* like);
/// The last dimension is contiguous (stride 1, or at most one element).
void last_contiguous(const char* op, const char* argument, const TensorView& view);
/// Dense row-major.
void contiguous(const char* op, const char* argument, const TensorView& view);
[[noreturn]] void fail(const char* op, const std::string& message);

/// Whether the elements can be looked at here. Checks of values (token ids, targets, offsets) ask
/// first: those of a CUDA tensor would cost a copy and a wait for the GPU, so there the kernels
/// guard their memory themselves and the caller answers for the values.
inline bool readable(const TensorView& view) { return view.device == DeviceType::cpu; }

struct Argument {
  std::string name;
  TensorView view;
};

/// The call whose arguments have been checked so far, on this thread. The dispatcher makes one; it
/// is forgotten at the end of its scope, or when a check fails.
class Call {
 public:
  Call() = default;
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  DeviceType device() const;
  /// What `tensor` let pass; only kept for the emulator, which checks every access against it.
  const std::vector<Argument>& arguments() const;
};

}  // namespace fusedlm::check
