#include "fusedlm/device.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "core/fork.h"
#include "core/pages.h"
#include "core/parallel.h"
#include "fusedlm/errors.h"

namespace fusedlm {
namespace {

constexpr Isa kAllIsas[] = {Isa::scalar,      Isa::avx2, Isa::avx512,
                            Isa::avx512_bf16, Isa::neon, Isa::simt};

bool built_in(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return true;
#if defined(FUSEDLM_HAS_AVX2)
    case Isa::avx2:
      return true;
#endif
#if defined(FUSEDLM_HAS_AVX512)
    case Isa::avx512:
      return true;
#endif
#if defined(FUSEDLM_HAS_AVX512_BF16)
    case Isa::avx512_bf16:
      return true;
#endif
#if defined(FUSEDLM_HAS_NEON)
    case Isa::neon:
      return true;
#endif
#if defined(FUSEDLM_SIMT)
    case Isa::simt:
      return true;
#endif
    default:
      return false;
  }
}

bool machine_has(Isa isa) {
  if (isa == Isa::scalar || isa == Isa::simt) return true;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (isa == Isa::avx2) return avx2;
  if (isa == Isa::avx512) return avx512;
  if (isa == Isa::avx512_bf16) {
    // Integer dot products and byte permutations come with it, but for one server CPU of 2020.
    return avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512vbmi");
  }
#elif defined(__aarch64__)
  if (isa == Isa::neon) return true;  // every such machine
#endif
  return false;
}

bool available(Isa isa) { return built_in(isa) && machine_has(isa); }

std::string why_not(Isa isa) {
  if (built_in(isa)) return std::string("this machine lacks ") + name_of(isa);
  if (isa == Isa::simt) {
    return "this build lacks the emulator of CUDA kernels (build with FUSEDLM_SIMT=ON)";
  }
  return std::string("this build lacks ") + name_of(isa) + " (FUSEDLM_ISAS)";
}

Isa choose_isa() {
  if (const char* wanted = std::getenv("FUSEDLM_ISA"); wanted && *wanted) {
    Isa isa = isa_from_name(wanted);
    if (!available(isa)) throw Unsupported(std::string("FUSEDLM_ISA: ") + why_not(isa));
    return isa;
  }
  for (Isa isa : {Isa::avx512_bf16, Isa::avx512, Isa::avx2, Isa::neon}) {
    if (available(isa)) return isa;
  }
  return Isa::scalar;
}

// -1: not chosen yet.
std::atomic<int> chosen_isa{-1};

constexpr size_t kAlignment = 64;  // a cache line, and the widest vector

size_t in_pages(size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

}  // namespace

Isa current_isa() {
  int isa = chosen_isa.load(std::memory_order_relaxed);
  if (isa < 0) {
    isa = static_cast<int>(choose_isa());
    chosen_isa.store(isa, std::memory_order_relaxed);
  }
  return static_cast<Isa>(isa);
}

void set_isa(Isa isa) {
  if (!available(isa)) throw Unsupported("set_isa: " + why_not(isa));
  chosen_isa.store(static_cast<int>(isa), std::memory_order_relaxed);
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (Isa isa : kAllIsas) {
    if (available(isa)) isas.push_back(isa);
  }
  return isas;
}

const char* name_of(Isa isa) noexcept {
  switch (isa) {
    case Isa::scalar:
      return "scalar";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_bf16:
      return "avx512_bf16";
    case Isa::neon:
      return "neon";
    case Isa::simt:
      return "simt";
  }
  return "unknown";
}

Isa isa_from_name(const std::string& name) {
  for (Isa isa : kAllIsas) {
    if (name == name_of(isa)) return isa;
  }
  throw InvalidArgument("isa is '" + name +
                        "', expected scalar, avx2, avx512, avx512_bf16, neon or simt");
}

bool cuda_compiled() noexcept {
#if defined(FUSEDLM_CUDA)
  return true;
#else
  return false;
#endif
}

int num_threads() noexcept {
  if (const int team = detail::team_threads()) return team;
  return omp_in_parallel() || is_forked() ? 1 : omp_get_max_threads();
}

void set_num_threads(int threads) {
  if (threads < 1) {
    throw InvalidArgument("set_num_threads: threads is " + std::to_string(threads) +
                          ", expected at least 1");
  }
  omp_set_num_threads(threads);
}

Workspace::~Workspace() { release(); }

void Workspace::release() noexcept {
  for (Block& block : blocks_) unmap_pages(block.data, block.size);
  blocks_.clear();
  block_ = used_ = capacity_ = 0;
}

void* Workspace::take_bytes(size_t bytes) {
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].size) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    const size_t size = in_pages(std::max(bytes, capacity_));
    auto* data = static_cast<char*>(map_pages(size));
    if (!data) {
      throw OutOfMemory("workspace: " + std::to_string(size) + " bytes could not be allocated");
    }
    blocks_.push_back({data, size});
    capacity_ += size;
    used_ = 0;
  }
  void* start = blocks_[block_].data + used_;
  used_ += bytes;
  return start;
}

void Workspace::fold() noexcept {
  const size_t total = capacity_;
  release();
  if (auto* data = static_cast<char*>(map_pages(total))) {
    blocks_.push_back({data, total});
    capacity_ = total;
  }
}

Workspace::Scope::Scope(Workspace& workspace) noexcept
    : workspace_(workspace), block_(workspace.block_), used_(workspace.used_) {
  ++workspace.depth_;
}

Workspace::Scope::~Scope() {
  workspace_.block_ = block_;
  workspace_.used_ = used_;
  // The outermost scope folds several blocks into one, so that the next call finds a single large
  // one.
  if (--workspace_.depth_ == 0 && workspace_.blocks_.size() > 1) {
    workspace_.fold();
  }
}

Context& Context::current() noexcept {
  thread_local Context context;
  return context;
}

}  // namespace fusedlm
