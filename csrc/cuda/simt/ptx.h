#pragma once
// The emulator's side of cuda/ptx.h: same names, by the semantics of the PTX manual.

#include "cuda/simt/simt.h"
#include "fusedlm/tensor.h"

namespace fusedlm::simt {
namespace emulator {

void load_matrices(uint32_t* registers, int count, bool transposed, const void* row, const Where&);
enum class Operands { bfloat16, float16, tf32 };
void multiply(Operands kind, float* acc, const uint32_t* a, const uint32_t* b, const Where&);
void start_copy(void* shared, const void* global, int bytes, int valid, const Where&);
void commit_copies();
void wait_for_copies(size_t pending, const Where&);
void named_barrier(int id, int threads, const Where&);

}  // namespace emulator

#define FUSEDLM_LDMATRIX(name, count, transposed)                                 \
  inline void name(uint32_t (&registers)[count], const void* row FUSEDLM_WHERE) { \
    emulator::load_matrices(registers, count, transposed, row, where);            \
  }
FUSEDLM_LDMATRIX(ldmatrix_x1, 1, false)
FUSEDLM_LDMATRIX(ldmatrix_x2, 2, false)
FUSEDLM_LDMATRIX(ldmatrix_x4, 4, false)
FUSEDLM_LDMATRIX(ldmatrix_x1_trans, 1, true)
FUSEDLM_LDMATRIX(ldmatrix_x2_trans, 2, true)
FUSEDLM_LDMATRIX(ldmatrix_x4_trans, 4, true)
#undef FUSEDLM_LDMATRIX

template <class T>
void mma_m16n8k16(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] FUSEDLM_WHERE) {
  static_assert(std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>);
  constexpr bool brain = std::is_same_v<T, bfloat16>;
  emulator::multiply(brain ? emulator::Operands::bfloat16 : emulator::Operands::float16, acc, a, b,
                     where);
}
inline uint32_t to_tf32(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits;
  return (bits + 0x1000u) & 0xffffe000u;
}
inline void mma_m16n8k8_tf32(float (&acc)[4], const uint32_t (&a)[4],
                             const uint32_t (&b)[2] FUSEDLM_WHERE) {
  emulator::multiply(emulator::Operands::tf32, acc, a, b, where);
}

template <int kBytes>
void cp_async(void* shared, const void* global, int valid = kBytes FUSEDLM_WHERE) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
  emulator::start_copy(shared, global, kBytes, valid, where);
}
inline void cp_async_commit() { emulator::commit_copies(); }
template <int kPending>
void cp_async_wait(Where where = Where::current()) {
  emulator::wait_for_copies(kPending, where);
}

inline void bar_sync(int id, int threads FUSEDLM_WHERE) {
  emulator::named_barrier(id, threads, where);
}

}  // namespace fusedlm::simt
