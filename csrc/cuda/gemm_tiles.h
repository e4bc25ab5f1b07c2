#pragma once
// Tiles of an operand on their way from global to shared memory, by cp.async of 16 bytes.
//
// A tile has kOuter rows of the product (or columns) and 64 bytes of its depth K. In shared memory
// it lies as in global memory: [kOuter][64 bytes] where K is contiguous, else [depth][kOuter]. The
// 16-byte chunks of a row are permuted by XOR with the row's number, so that ldmatrix, which reads
// one chunk of 8 rows, meets all 32 banks: rows of 64 bytes repeat their banks every second row,
// longer ones in every row. What lies outside of the matrix is filled with zeros.

#include "cuda/ptx.h"

namespace fusedlm::FUSEDLM_DEVICE {

/// Rows of an operand are closer than this: a thread's copies of a tile, up to 128 rows apart, then
/// are less than 2^31 elements apart, and their distance takes one register.
constexpr index_t kMaxStride = index_t{1} << 24;

/// Which dimension of an operand is contiguous.
enum class Major : uint8_t { depth, outer };

template <class T, Major kMajor, int kOuter>
struct TileShape {
  static constexpr int kPack = 16 / sizeof(T);
  static constexpr int kDepth = 64 / sizeof(T);
  static constexpr int kRows = kMajor == Major::depth ? kOuter : kDepth;
  static constexpr int kChunks = (kMajor == Major::depth ? kDepth : kOuter) / kPack;
  static constexpr int kElements = kOuter * kDepth;
  // float32 along the outer dimension is read by rows, which is free of conflicts as it is.
  static constexpr bool kPermuted = kMajor == Major::depth || sizeof(T) == 2;

  /// Where chunk `chunk` of row `row` is in its row.
  __device__ __forceinline__ static int place(int row, int chunk) {
    if constexpr (!kPermuted) return chunk;
    return chunk ^ (kChunks == 4 ? row / 2 % 4 : row % 8);
  }
  /// The element where it starts.
  __device__ __forceinline__ static int offset(int row, int chunk) {
    return (row * kChunks + place(row, chunk)) * kPack;
  }
};

/// One thread's share of copying the tiles of a block along K.
template <class T, Major kMajor, int kOuter, int kThreads>
class TileLoader {
  using Shape = TileShape<T, kMajor, kOuter>;
  static constexpr int kRowStep = kThreads / Shape::kChunks;
  static constexpr int kCopies = Shape::kRows / kRowStep;
  static_assert(kThreads % Shape::kChunks == 0 && Shape::kRows % kRowStep == 0);
  static_assert(!Shape::kPermuted || kRowStep % 8 == 0, "all rows of a thread are permuted alike");

 public:
  /// Tiles of `outer` from `first_outer` on, over depths [first, K); `stride` is below kMaxStride.
  __device__ __forceinline__ TileLoader(const T* matrix, int stride, int outer, int first_outer,
                                        int K, int first) {
    const int row = static_cast<int>(threadIdx.x) / Shape::kChunks;
    const int chunk = static_cast<int>(threadIdx.x) % Shape::kChunks;
    const int across = chunk * Shape::kPack;
    to_ = Shape::offset(row, chunk);
    step_ = kRowStep * stride;
    if constexpr (kMajor == Major::depth) {
      from_ = matrix + static_cast<index_t>(first_outer + row) * stride + first + across;
      across_ = K - first - across;
      down_ = outer - first_outer - row;
      next_ = Shape::kDepth;
    } else {
      from_ = matrix + static_cast<index_t>(first + row) * stride + first_outer + across;
      across_ = outer - first_outer - across;
      down_ = K - first - row;
      next_ = Shape::kDepth * stride;
    }
  }

  /// Starts the copy of the next tile.
  __device__ __forceinline__ void copy(T* tile) {
    const int bytes = min(max(across_, 0), Shape::kPack) * static_cast<int>(sizeof(T));
    T* to = tile + to_;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      cp_async<16>(to + i * kRowStep * Shape::kChunks * Shape::kPack, from_ + i * step_,
                   i * kRowStep < down_ ? bytes : 0);
    }
    from_ += next_;
    (kMajor == Major::depth ? across_ : down_) -= Shape::kDepth;
  }

 private:
  const T* from_;
  int step_, next_;  // between copies, and between tiles
  int to_;
  int across_, down_;  // elements of the row, and rows, that are left from this thread's first on
};

/// The stages that tiles of A and B pass through. kStages - 1 are filled ahead; three of them are
/// 48 KiB for the large tiles, so that two blocks share the 100 KiB of the smallest GPUs.
template <class LoaderA, class LoaderB, class T, int kElementsA, int kElementsB>
class Pipeline {
 public:
  static constexpr int kStages = 3;
  static constexpr int kBytes = kStages * (kElementsA + kElementsB) * static_cast<int>(sizeof(T));

  __device__ __forceinline__ Pipeline(const LoaderA& a, const LoaderB& b, T* shared, int steps)
      : loader_a_(a), loader_b_(b), shared_(shared), left_(steps) {
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) fill(i * kElements);
  }
  /// The next stage is there for all threads, and none reads the one before any more.
  __device__ __forceinline__ void next() {
    cp_async_wait<kStages - 2>();
    __syncthreads();
    reading_ = after(reading_);
  }
  /// Starts a copy into the stage before the current one.
  __device__ __forceinline__ void refill() { fill(after(after(reading_))); }
  __device__ __forceinline__ const T* a() const { return shared_ + reading_; }
  __device__ __forceinline__ const T* b() const { return shared_ + reading_ + kElementsA; }

 private:
  static constexpr int kElements = kElementsA + kElementsB;
  static_assert(kStages == 3, "the stage before is the second after");

  // A stage is named by its first element.
  __device__ __forceinline__ static int after(int stage) {
    return stage == (kStages - 1) * kElements ? 0 : stage + kElements;
  }
  __device__ __forceinline__ void fill(int stage) {
    if (left_ > 0) {
      loader_a_.copy(shared_ + stage);
      loader_b_.copy(shared_ + stage + kElementsA);
    }
    cp_async_commit();
    --left_;
  }
  LoaderA loader_a_;
  LoaderB loader_b_;
  T* shared_;
  int left_, reading_ = (kStages - 1) * kElements;
};

}  // namespace fusedlm::FUSEDLM_DEVICE
