#pragma once
// Argument checks of the public API. Every message names op, argument, expectation and what came.

#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "fusedlm/errors.h"
#include "fusedlm/tensor.h"

namespace fusedlm::check {

/// Dtypes an argument may have; messages list them in the order of the enumeration.
class DTypes {
 public:
  constexpr DTypes(std::initializer_list<DType> dtypes) {
    for (DType dtype : dtypes) bits_ |= bit(dtype);
  }
  constexpr bool has(DType dtype) const { return bits_ & bit(dtype); }
  std::string names() const;

 private:
  static constexpr unsigned bit(DType dtype) { return 1u << static_cast<unsigned>(dtype); }
  unsigned bits_ = 0;
};

/// What a kernel computes with where `view` is: float16 has kernels on the GPU alone.
DTypes floats(const TensorView& view);
/// The same for a second tensor: float32 goes with each half type, but the two not with each other.
DTypes floats_beside(const TensorView& view);

/// The argument is given, on the device of the arguments before it, has `ndim` dimensions and one
/// of the dtypes. A CUDA tensor is refused here where the build has no CUDA kernels.
void tensor(const char* op, const char* argument, const TensorView& view, int ndim,
            const DTypes& dtypes);
/// Dimension `dim` has the size `expected`; `like` says where that size comes from.
void dim(const char* op, const char* argument, const TensorView& view, int dim, index_t expected,
         const char* like);
/// The argument has the shape of `like`, dimension by dimension.
void shaped_like(const char* op, const char* argument, const TensorView& view,
                 const TensorView& like, const char* like_name);
/// The last dimension is contiguous (stride 1, or at most one element).
void last_contiguous(const char* op, const char* argument, const TensorView& view);
/// Every id is one of a vocabulary of V.
void ids(const char* op, const char* argument, std::span<const int32_t> ids, index_t V);
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
/// is forgotten at the end of its scope, or when a check fails. An op with nothing to do makes one, too.
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
