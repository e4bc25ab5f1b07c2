#include "cuda/simt/buffers.h"

#include "core/check.h"

namespace fusedlm::simt {
namespace {
thread_local std::vector<Buffer> buffers;
}

void register_buffer(std::string name, void* data, size_t bytes, size_t element) {
  if (bytes)
    buffers.push_back({std::move(name), static_cast<char*>(data), bytes, element, nullptr});
}

void register_scratch(void* data, size_t bytes, size_t element) {
  register_buffer("scratch", data, bytes, element);
#if defined(FUSEDLM_SIMT_CHECKED)
  buffers.back().written = std::make_shared<std::vector<bool>>(bytes);
#endif
}

void forget_buffers() { buffers.clear(); }

const std::vector<Buffer>& registered_buffers() { return buffers; }

void register_arguments(const check::Call& call) {
  forget_buffers();
  for (const check::Argument& argument : call.arguments()) {
    const TensorView& view = argument.view;
    if (view.numel() == 0) continue;
    // From the first to the last element; strides may be negative.
    index_t first = 0, last = 0;
    for (int d = 0; d < view.ndim; ++d) {
      const index_t reach = (view.shape[d] - 1) * view.strides[d];
      (reach < 0 ? first : last) += reach;
    }
    const index_t size = size_of(view.dtype);
    register_buffer(argument.name, view.as<char>() + first * size,
                    static_cast<size_t>((last - first + 1) * size), static_cast<size_t>(size));
  }
}

}  // namespace fusedlm::simt
