#pragma once
// From the public function to the copy of the kernel compiled for this machine or device.
//
// An op declares its kernel with one line in csrc/core/<op>.cpp:
//   FUSEDLM_CPU_KERNEL(name, Args)   csrc/cpu/<op>.cpp alone; CUDA tensors are refused by name
//   FUSEDLM_KERNEL(name, Args)       csrc/cuda/<op>.cu as well, for CUDA tensors and the emulator
// and calls dispatch_<name>(args, ctx) once every tensor has gone through check::tensor.

#include "core/check.h"
#include "fusedlm/device.h"
#include "fusedlm/errors.h"

namespace fusedlm {

#if defined(FUSEDLM_CUDA)
namespace cuda {
/// Gives back, in the order of the stream, what a call took for scratch (cuda/device.cu).
void release_scratch(Context& ctx);
}  // namespace cuda
#endif
#if defined(FUSEDLM_SIMT)
namespace simt {
/// Tells the emulator what memory the kernels of this call may touch (cuda/simt/buffers.cpp).
void register_arguments(const check::Call& call);
}  // namespace simt
#endif

/// The copies of one kernel; null where there is none.
template <class Args>
struct Kernels {
  using Function = void (*)(const Args&, Context&);
  const char* name;
  Function cpu[5];
  Function simt, cuda;
};

/// Chooses by the device of the checked arguments and the current instruction set.
template <class Args>
void dispatch(const Kernels<Args>& kernels, const Args& args, Context& ctx) {
  [[maybe_unused]] const check::Call call;
  Workspace::Scope scope(ctx.workspace());
  if (call.device() == DeviceType::cuda) {
    if (!kernels.cuda) throw Unsupported(std::string(kernels.name) + " has no CUDA kernel yet");
#if defined(FUSEDLM_CUDA)
    struct Release {
      Context& ctx;
      ~Release() { cuda::release_scratch(ctx); }
    } release{ctx};
    kernels.cuda(args, ctx);
#endif
    return;
  }
  if (current_isa() == Isa::simt) {
    if (!kernels.simt) throw Unsupported(std::string(kernels.name) + " has no CUDA kernel yet");
#if defined(FUSEDLM_SIMT)
    simt::register_arguments(call);
    kernels.simt(args, ctx);
#endif
    return;
  }
  kernels.cpu[static_cast<int>(current_isa())](args, ctx);
}

}  // namespace fusedlm

#define FUSEDLM_DECLARE_KERNEL(space, name, Args) \
  namespace space {                               \
  void name(const Args&, Context&);               \
  }

#if defined(FUSEDLM_HAS_AVX2)
#define FUSEDLM_AVX2_COPY(name) cpu::avx2::name
#else
#define FUSEDLM_AVX2_COPY(name) nullptr
#endif
#if defined(FUSEDLM_HAS_AVX512)
#define FUSEDLM_AVX512_COPY(name) cpu::avx512::name
#else
#define FUSEDLM_AVX512_COPY(name) nullptr
#endif
#if defined(FUSEDLM_HAS_AVX512_BF16)
#define FUSEDLM_AVX512_BF16_COPY(name) cpu::avx512_bf16::name
#else
#define FUSEDLM_AVX512_BF16_COPY(name) nullptr
#endif
#if defined(FUSEDLM_HAS_NEON)
#define FUSEDLM_NEON_COPY(name) cpu::neon::name
#else
#define FUSEDLM_NEON_COPY(name) nullptr
#endif
#define FUSEDLM_CPU_COPIES(name)                                          \
  {cpu::scalar::name, FUSEDLM_AVX2_COPY(name), FUSEDLM_AVX512_COPY(name), \
   FUSEDLM_AVX512_BF16_COPY(name), FUSEDLM_NEON_COPY(name)}
#define FUSEDLM_DECLARE_CPU(name, Args)                \
  FUSEDLM_DECLARE_KERNEL(cpu::scalar, name, Args)      \
  FUSEDLM_DECLARE_KERNEL(cpu::avx2, name, Args)        \
  FUSEDLM_DECLARE_KERNEL(cpu::avx512, name, Args)      \
  FUSEDLM_DECLARE_KERNEL(cpu::avx512_bf16, name, Args) \
  FUSEDLM_DECLARE_KERNEL(cpu::neon, name, Args)

#if defined(FUSEDLM_SIMT)
#define FUSEDLM_SIMT_COPY(name) simt::name
#else
#define FUSEDLM_SIMT_COPY(name) nullptr
#endif
#if defined(FUSEDLM_CUDA)
#define FUSEDLM_CUDA_COPY(name) cuda::name
#else
#define FUSEDLM_CUDA_COPY(name) nullptr
#endif

/// Declares `name(const Args&, Context&)` in each namespace of the CPU's instruction sets, and
/// defines `dispatch_name`.
#define FUSEDLM_CPU_KERNEL(name, Args)                                                         \
  FUSEDLM_DECLARE_CPU(name, Args)                                                              \
  static void dispatch_##name(const Args& args, Context& ctx) {                                \
    static constexpr Kernels<Args> kernels{#name, FUSEDLM_CPU_COPIES(name), nullptr, nullptr}; \
    dispatch(kernels, args, ctx);                                                              \
  }

/// The same for an op that has its CUDA kernel.
#define FUSEDLM_KERNEL(name, Args)                                                            \
  FUSEDLM_DECLARE_CPU(name, Args)                                                             \
  FUSEDLM_DECLARE_KERNEL(simt, name, Args)                                                    \
  FUSEDLM_DECLARE_KERNEL(cuda, name, Args)                                                    \
  static void dispatch_##name(const Args& args, Context& ctx) {                               \
    static constexpr Kernels<Args> kernels{#name, FUSEDLM_CPU_COPIES(name),                   \
                                           FUSEDLM_SIMT_COPY(name), FUSEDLM_CUDA_COPY(name)}; \
    dispatch(kernels, args, ctx);                                                             \
  }
