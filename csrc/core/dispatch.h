#pragma once
// From the public function to the copy of the kernel compiled for this machine.

#include "fusedlm/device.h"
#include "fusedlm/errors.h"

#if defined(FUSEDLM_X86)
/// Declares `name(const Args&, Context&)` in each instruction set's namespace and `dispatch_name`.
#define FUSEDLM_CPU_KERNEL(name, Args)                          \
  namespace cpu {                                               \
  namespace scalar {                                            \
  void name(const Args&, Context&);                             \
  }                                                             \
  namespace avx2 {                                              \
  void name(const Args&, Context&);                             \
  }                                                             \
  namespace avx512 {                                            \
  void name(const Args&, Context&);                             \
  }                                                             \
  namespace avx512_bf16 {                                       \
  void name(const Args&, Context&);                             \
  }                                                             \
  }                                                             \
  static void dispatch_##name(const Args& args, Context& ctx) { \
    Workspace::Scope scope(ctx.workspace());                    \
    switch (current_isa()) {                                    \
      case Isa::scalar:                                         \
        return cpu::scalar::name(args, ctx);                    \
      case Isa::avx2:                                           \
        return cpu::avx2::name(args, ctx);                      \
      case Isa::avx512:                                         \
        return cpu::avx512::name(args, ctx);                    \
      case Isa::avx512_bf16:                                    \
        return cpu::avx512_bf16::name(args, ctx);               \
    }                                                           \
  }
#else
#define FUSEDLM_CPU_KERNEL(name, Args)                          \
  namespace cpu {                                               \
  namespace scalar {                                            \
  void name(const Args&, Context&);                             \
  }                                                             \
  }                                                             \
  static void dispatch_##name(const Args& args, Context& ctx) { \
    Workspace::Scope scope(ctx.workspace());                    \
    cpu::scalar::name(args, ctx);                               \
  }
#endif
