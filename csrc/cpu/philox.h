#pragma once
// Philox4x32-10 (Salmon et al. 2011): random bits as a function of a counter and a key, so that
// backward redraws what forward drew, and any thread draws the same.

#include "cpu/vec.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

/// keep[i] = scale or 0 for columns [column, column + count) of row (row, stream); column and count
/// are multiples of 4. A column is dropped where its 32 bits are below `threshold`.
inline void philox_keep(uint64_t seed, uint32_t stream, uint32_t row, index_t column, index_t count,
                        uint32_t threshold, float scale, float* keep) {
  constexpr index_t kLanes = 16;
  for (index_t first = 0; first < count; first += 4 * kLanes) {
    uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
    for (index_t i = 0; i < kLanes; ++i) {
      c0[i] = static_cast<uint32_t>((column + first) / 4 + i);
      c1[i] = row;
      c2[i] = stream;
      c3[i] = 0;
    }
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      for (index_t i = 0; i < kLanes; ++i) {
        const uint64_t p0 = uint64_t{0xD2511F53} * c0[i], p1 = uint64_t{0xCD9E8D57} * c2[i];
        c0[i] = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
        c1[i] = static_cast<uint32_t>(p1);
        c2[i] = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
        c3[i] = static_cast<uint32_t>(p0);
      }
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
    const index_t lanes = min_of(kLanes, (count - first) / 4);
    for (index_t i = 0; i < lanes; ++i) {
      float* out = keep + first + 4 * i;
      out[0] = c0[i] < threshold ? 0.0f : scale;
      out[1] = c1[i] < threshold ? 0.0f : scale;
      out[2] = c2[i] < threshold ? 0.0f : scale;
      out[3] = c3[i] < threshold ? 0.0f : scale;
    }
  }
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
