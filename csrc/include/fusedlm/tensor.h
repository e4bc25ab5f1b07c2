#pragma once
// Non-owning views of memory: what every function of the public API takes and gives.

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

// Kernels are compiled once per instruction set. An inline function with a symbol of its own could
// be merged by the linker into the copy that was compiled for the wrong one, so these are always
// inlined.
#define FUSEDLM_INLINE [[gnu::always_inline]] inline

namespace fusedlm {

using index_t = int64_t;

/// No function takes `other`: it is there so that the refusal can name the argument.
enum class DType : uint8_t { float32, bfloat16, float16, float64, int64, int32, boolean, other };
enum class DeviceType : uint8_t { cpu, cuda };

/// Bytes of one element.
FUSEDLM_INLINE index_t size_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::float64:
    case DType::int64:
      return 8;
    case DType::float32:
    case DType::int32:
      return 4;
    case DType::bfloat16:
    case DType::float16:
      return 2;
    case DType::boolean:
    case DType::other:
      return 1;
  }
  return 0;
}

/// "float32", "bfloat16", ...
const char* name_of(DType dtype) noexcept;

/// The upper half of a float32; arithmetic happens in float32.
struct bfloat16 {
  uint16_t bits;
};
/// IEEE binary16. CUDA kernels take it wherever they take bfloat16; those of the CPU only as weights' format.
struct float16 {
  uint16_t bits;
};

constexpr int kMaxDims = 5;

/// A pointer with dtype, shape and strides (in elements, not bytes); it owns nothing. Default-constructed:
/// "not given". Arguments that may be left out have `{}` behind their names in the structs of the ops.
/// Views that a function writes are overwritten, never added to.
struct TensorView {
  void* data = nullptr;
  int ndim = -1;
  DType dtype = DType::float32;
  DeviceType device = DeviceType::cpu;
  std::array<index_t, kMaxDims> shape{};
  std::array<index_t, kMaxDims> strides{};

  TensorView() = default;
  /// A dense row-major view; at most kMaxDims dimensions.
  TensorView(void* data, DType dtype, std::initializer_list<index_t> dims) noexcept
      : data(data), ndim(static_cast<int>(dims.size())), dtype(dtype) {
    int i = 0;
    for (index_t dim : dims) shape[i++] = dim;
    index_t step = 1;
    for (i = ndim - 1; i >= 0; --i) strides[i] = step, step *= shape[i];
  }

  FUSEDLM_INLINE bool defined() const noexcept { return ndim >= 0; }
  FUSEDLM_INLINE index_t numel() const noexcept {
    index_t count = 1;
    for (int i = 0; i < ndim; ++i) count *= shape[i];
    return count;
  }
  template <class T>
  FUSEDLM_INLINE T* as() const noexcept {
    return static_cast<T*>(data);
  }
  /// Row n of a 2-D view.
  template <class T>
  FUSEDLM_INLINE T* row(index_t n) const noexcept {
    return static_cast<T*>(data) + n * strides[0];
  }
};

/// "[2, 12, 128, 64]". Throws nothing.
std::string shape_string(const TensorView& view);

}  // namespace fusedlm
