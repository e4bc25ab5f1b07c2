#pragma once
// Memory straight from the system, in huge pages where it offers them: a fresh large tensor then
// costs one page fault for 2 MiB instead of 512, and the packing loops fewer TLB misses.

#include <cstddef>

namespace fusedlm {

constexpr size_t kHugePage = size_t{2} << 20;

/// `bytes`, a multiple of kHugePage, aligned to it; null where there is no memory left.
void* map_pages(size_t bytes) noexcept;
void unmap_pages(void* start, size_t bytes) noexcept;

}  // namespace fusedlm
