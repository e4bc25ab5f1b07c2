#pragma once
// Memory for the views that the kernels take: the library owns none.

#include <fusedlm/arena.h>
#include <fusedlm/tensor.h>

#include <cstring>
#include <initializer_list>
#include <memory>

using fusedlm::DType;
using fusedlm::index_t;
using fusedlm::TensorView;

/// A dense tensor of the arena's memory, zeros at first.
class Tensor {
 public:
  Tensor(DType dtype, std::initializer_list<index_t> shape) : view_(nullptr, dtype, shape) {
    const auto bytes = static_cast<size_t>(view_.numel() * fusedlm::size_of(dtype));
    block_ = std::make_unique<fusedlm::ArenaBlock>(bytes);
    view_.data = std::memset(block_->data, 0, bytes);
  }

  const TensorView& view() const { return view_; }
  operator const TensorView&() const { return view_; }
  template <class T>
  T* data() const {
    return view_.as<T>();
  }

 private:
  std::unique_ptr<fusedlm::ArenaBlock> block_;
  TensorView view_;
};

/// The same memory in another dense shape.
inline TensorView reshape(const TensorView& view, std::initializer_list<index_t> shape) {
  return {view.data, view.dtype, shape};
}

/// `heads` heads of D elements from column `first` on of [B * T, columns], as [B, T, heads, D].
inline TensorView heads_of(const TensorView& rows, index_t T, index_t first, index_t heads,
                           index_t D) {
  const index_t columns = rows.shape[1];
  TensorView view(static_cast<char*>(rows.data) + first * fusedlm::size_of(rows.dtype), rows.dtype,
                  {rows.shape[0] / T, T, heads, D});
  view.strides = {T * columns, columns, D, 1};
  return view;
}
