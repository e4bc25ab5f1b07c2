#pragma once
// What the kernels run on: instruction set, threads, workspace.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "fusedlm/tensor.h"

namespace fusedlm {

/// `simt` is the emulator that runs the CUDA kernels on the CPU, for tests; never the default.
enum class Isa : uint8_t { scalar, avx2, avx512, avx512_bf16, neon, simt };

/// The best instruction set of this machine, or FUSEDLM_ISA if that variable is set (read once). Then throws
/// InvalidArgument for a name that is none, Unsupported where the machine or the build lacks it.
Isa current_isa();
/// Chooses another one, for tests. Throws Unsupported where the machine or the build lacks it.
void set_isa(Isa isa);
/// Those this machine can run, the slowest first; the emulator, where it is built in, comes last.
/// Throws nothing.
std::vector<Isa> available_isas();
const char* name_of(Isa isa) noexcept;
/// Throws InvalidArgument for a name that is none.
Isa isa_from_name(const std::string& name);

/// Whether this build has the kernels for CUDA tensors.
bool cuda_compiled() noexcept;

/// Threads that a call from this thread will use: OpenMP's own setting (OMP_NUM_THREADS,
/// torch.set_num_threads), 1 inside a parallel region. One, too, in a process that was forked from one
/// with this library: GNU's OpenMP waits for ever for threads that only its parent has.
int num_threads() noexcept;
/// For calls from this thread. Throws InvalidArgument for less than 1.
void set_num_threads(int threads);

/// Scratch memory that grows to the largest need and is then reused. Blocks are 64-byte aligned.
class Workspace {
 public:
  Workspace() = default;
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// Memory that lives until the enclosing Scope ends. Throws OutOfMemory.
  void* take_bytes(size_t bytes);
  /// The same for `count` elements. Throws OutOfMemory.
  template <class T>
  FUSEDLM_INLINE T* take(index_t count) {
    return static_cast<T*>(take_bytes(static_cast<size_t>(count) * sizeof(T)));
  }
  size_t capacity() const noexcept { return capacity_; }
  /// Gives everything back to the system; only outside any Scope.
  void release() noexcept;

  /// What was taken inside a scope is free again at its end.
  class Scope {
   public:
    explicit Scope(Workspace& workspace) noexcept;
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace& workspace_;
    size_t block_, used_;
  };

 private:
  void fold() noexcept;
  struct Block {
    char* data;
    size_t size;
  };
  std::vector<Block> blocks_;
  size_t block_ = 0, used_ = 0, capacity_ = 0;
  int depth_ = 0;
};

/// Where calls on CUDA tensors get scratch memory. Whoever sets it frees what it gave, in the order
/// of the stream, once the call has returned; torch's caching allocator fits. Without one, memory
/// comes from cudaMallocAsync and goes back at the end of the call.
struct DeviceAllocator {
  /// At least 256-byte aligned; null where there is no memory left.
  void* (*allocate)(size_t bytes, void* state) = nullptr;
  void* state = nullptr;
};

/// Everything a call needs besides its arguments. One per calling thread; never shared between two.
class Context {
 public:
  Workspace& workspace() noexcept { return workspace_; }
  /// The calling thread's own.
  static Context& current() noexcept;

  void* stream = nullptr;  ///< a cudaStream_t; null is the default stream
  DeviceAllocator device_allocator;
  /// What the running call took from cudaMallocAsync; the dispatcher gives it back.
  std::vector<void*> device_scratch;

 private:
  Workspace workspace_;
};

}  // namespace fusedlm
