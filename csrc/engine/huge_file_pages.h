#pragma once
// Huge pages for a mapped file. Weights are read from one end to the other for every token, and pages of 4 KiB
// stop a core's prefetching at each of their ends: on Zen 4 a thread reads 18 GB/s from them and 32 from
// pages of 2 MiB.

#include <cstddef>
#include <span>

namespace fusedlm {

/// Asks the system for them; `file` is open on what `mapping` maps from its beginning. Of a large file on
/// a local disk that the page cache holds in small pages, the cache is given back, to be read anew when it is
/// used. A wish: where nothing comes of it, everything works, slower.
void want_huge_pages(int file, std::span<const std::byte> mapping) noexcept;

}  // namespace fusedlm
