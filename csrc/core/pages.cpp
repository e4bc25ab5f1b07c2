#include "core/pages.h"

#include <cstdint>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fusedlm {

#if defined(__linux__)
void* map_pages(size_t bytes) noexcept {
  // One page more than asked for, so that an aligned stretch lies within; the ends go back.
  void* raw =
      mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  const auto begin = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t start = (begin + kHugePage - 1) / kHugePage * kHugePage;
  if (start > begin) munmap(raw, start - begin);
  if (begin + kHugePage > start) {
    munmap(reinterpret_cast<void*>(start + bytes), begin + kHugePage - start);
  }
  auto* pages = reinterpret_cast<void*>(start);
  madvise(pages, bytes, MADV_HUGEPAGE);  // a wish: without it everything works, a little slower
  return pages;
}

void unmap_pages(void* start, size_t bytes) noexcept { munmap(start, bytes); }
#else
void* map_pages(size_t bytes) noexcept {
  return ::operator new(bytes, std::align_val_t{kHugePage}, std::nothrow);
}

void unmap_pages(void* start, size_t) noexcept {
  ::operator delete(start, std::align_val_t{kHugePage});
}
#endif

}  // namespace fusedlm
