// Tensor-core products, ldmatrix and asynchronous copies. The last lane to come reads the registers
// of all others where they lie on their stacks, and writes the results there.

#include "cuda/simt/ptx.h"

#include <cstring>

#include "cuda/simt/checker.h"
#include "cuda/types.h"

namespace fusedlm::simt::emulator {
namespace {

struct Fragments {
  float* acc;
  const uint32_t *a, *b;
};

// The matrices as floats; K is 16 or 8. B is kept by k, as the loop below walks it.
struct Product {
  float a[16][16], b[16][8], c[16][8];
};

uint32_t half_of(uint32_t pair, int which) { return which ? pair >> 16 : pair & 0xffff; }

template <Operands kKind>
float operand(uint32_t bits) {
  if constexpr (kKind == Operands::bfloat16) return std::bit_cast<float>(bits << 16);
  if constexpr (kKind == Operands::float16) return to_float(float16{static_cast<uint16_t>(bits)});
  return std::bit_cast<float>(bits & 0xffffe000u);  // of tf32 the rest is not read
}

const Fragments& fragments_of(const Thread& lane) {
  return *static_cast<const Fragments*>(lane.pointer);
}

template <Operands kKind>
void gather(const Thread* lanes, Product& p) {
  for (int l = 0; l < 32; ++l) {
    const Fragments& f = fragments_of(lanes[l]);
    const int g = l / 4, t = l % 4;
    for (int i = 0; i < 4; ++i) p.c[g + i / 2 * 8][2 * t + i % 2] = f.acc[i];
    if constexpr (kKind == Operands::tf32) {
      for (int i = 0; i < 4; ++i) p.a[g + i % 2 * 8][t + i / 2 * 4] = operand<kKind>(f.a[i]);
      for (int i = 0; i < 2; ++i) p.b[t + 4 * i][g] = operand<kKind>(f.b[i]);
    } else {
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 2; ++j) {
          p.a[g + i % 2 * 8][2 * t + i / 2 * 8 + j] = operand<kKind>(half_of(f.a[i], j));
        }
      }
      for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 2; ++j) p.b[2 * t + 8 * i + j][g] = operand<kKind>(half_of(f.b[i], j));
      }
    }
  }
}

template <int K>
void multiply_add(Product& p) {
  for (int m = 0; m < 16; ++m) {
    float row[8];
    for (int n = 0; n < 8; ++n) row[n] = p.c[m][n];
    for (int k = 0; k < K; ++k) {
      for (int n = 0; n < 8; ++n) row[n] += p.a[m][k] * p.b[k][n];
    }
    for (int n = 0; n < 8; ++n) p.c[m][n] = row[n];
  }
}

void scatter(const Thread* lanes, const Product& p) {
  for (int l = 0; l < 32; ++l) {
    const int g = l / 4, t = l % 4;
    for (int i = 0; i < 4; ++i) {
      fragments_of(lanes[l]).acc[i] = p.c[g + i / 2 * 8][2 * t + i % 2];
    }
  }
}

template <Operands kKind>
void multiply_warp(const Thread* lanes) {
  Product p;
  gather<kKind>(lanes, p);
  multiply_add<kKind == Operands::tf32 ? 8 : 16>(p);
  scatter(lanes, p);
}

}  // namespace

void multiply(Operands kind, float* acc, const uint32_t* a, const uint32_t* b, const Where& where) {
  const Inside inside;
  Thread& me = *self;
  const Fragments mine{acc, a, b};
  me.pointer = &mine;
  if (!meet(kind == Operands::tf32 ? "mma.m16n8k8" : "mma.m16n8k16", ~0u, where)) return;
  switch (kind) {
    case Operands::bfloat16:
      multiply_warp<Operands::bfloat16>(me.warp->lanes);
      break;
    case Operands::float16:
      multiply_warp<Operands::float16>(me.warp->lanes);
      break;
    case Operands::tf32:
      multiply_warp<Operands::tf32>(me.warp->lanes);
      break;
  }
  part(~0u);
}

void load_matrices(uint32_t* registers, int count, bool transposed, const void* row,
                   const Where& where) {
  const Inside inside;
  Thread& me = *self;
  // The address of a lane that has no row to give does not count.
  if (me.lane < 8 * count) {
    require_aligned(row, 16, "ldmatrix", where);
    if (!me.block->owns(row, 16)) fail("ldmatrix reads outside of shared memory", where);
    check_access(me, row, 16, Access::read, "ldmatrix", where);
  }
  struct Request {
    uint32_t* registers;
    const void* row;
  } mine{registers, row};
  me.pointer = &mine;
  const char* names[] = {"ldmatrix.x1", "ldmatrix.x2", "ldmatrix.x3", "ldmatrix.x4"};
  if (!meet(names[count - 1], ~0u, where)) return;
  const auto request = [&](int lane) -> const Request& {
    return *static_cast<const Request*>(me.warp->lanes[lane].pointer);
  };
  for (int i = 0; i < count; ++i) {
    uint16_t matrix[8][8];
    for (int r = 0; r < 8; ++r) std::memcpy(matrix[r], request(8 * i + r).row, 16);
    for (int l = 0; l < 32; ++l) {
      const int g = l / 4, t = l % 4;
      const uint32_t low = transposed ? matrix[2 * t][g] : matrix[g][2 * t];
      const uint32_t high = transposed ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
      request(l).registers[i] = low | high << 16;
    }
  }
  part(~0u);
}

void start_copy(void* shared, const void* global, int bytes, int valid, const Where& where) {
  const Inside inside;
  Thread& me = *self;
  require_aligned(shared, bytes, "cp.async to", where);
  require_aligned(global, bytes, "cp.async from", where);
  if (valid < 0 || valid > bytes) {
    fail("cp.async of " + std::to_string(valid) + " valid bytes, expected 0 to " +
             std::to_string(bytes),
         where);
  }
  if (!me.block->owns(shared, bytes)) fail("cp.async writes outside of shared memory", where);
  if (valid) check_access(me, global, valid, Access::read, "cp.async", where);
  check_access(me, shared, bytes, Access::write, "cp.async", where);
  check_in_flight(me, shared, bytes);
  std::memset(shared, 0xff, bytes);  // who reads before the wait gets NaN
  me.copies.push_back({shared, global, bytes, valid, where});
}

void commit_copies() {
  const Inside inside;
  self->groups.push_back(self->copies.size());
}

void wait_for_copies(size_t pending, const Where&) {
  const Inside inside;
  Thread& me = *self;
  if (me.groups.size() <= pending) return;
  const size_t groups = me.groups.size() - pending, copies = me.groups[groups - 1];
  for (size_t i = 0; i < copies; ++i) {
    const Copy& copy = me.copies[i];
    check_access(me, copy.to, copy.bytes, Access::write, "cp.async", copy.where);
    std::memcpy(copy.to, copy.from, copy.valid);
    std::memset(static_cast<char*>(copy.to) + copy.valid, 0, copy.bytes - copy.valid);
  }
  me.copies.erase(me.copies.begin(), me.copies.begin() + static_cast<ptrdiff_t>(copies));
  me.groups.erase(me.groups.begin(), me.groups.begin() + static_cast<ptrdiff_t>(groups));
  for (size_t& end : me.groups) end -= copies;
}

void named_barrier(int id, int threads, const Where& where) {
  const Inside inside;
  if (id < 1 || id >= kBarriers) {
    fail("bar.sync with id " + std::to_string(id) + ", expected 1 to 15", where);
  }
  if (threads < 32 || threads % 32 || threads > self->block->thread_count) {
    fail("bar.sync for " + std::to_string(threads) +
             " threads, expected a multiple of 32 up to the size of the block",
         where);
  }
  wait_at_barrier(id, threads, "bar.sync", 0, where);
}

}  // namespace fusedlm::simt::emulator
