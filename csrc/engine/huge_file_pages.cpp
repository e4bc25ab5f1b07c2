#include "engine/huge_file_pages.h"

#include "core/pages.h"

#if defined(__linux__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>

namespace fusedlm {
namespace {

// Less is not worth a look at the page tables.
constexpr size_t kLeastBytes = 8 * kHugePage;

uintptr_t address(const std::byte* p) { return reinterpret_cast<uintptr_t>(p); }

// Whether the mapping around `p`, read at `p` just now, has huge pages.
bool has_huge_pages(const std::byte* p) {
  *static_cast<const volatile std::byte*>(p);
  std::FILE* maps = std::fopen("/proc/self/smaps", "re");
  if (!maps) return false;
  char line[512];
  bool within = false, found = false;
  while (!found && std::fgets(line, sizeof line, maps)) {
    unsigned long begin = 0, end = 0, kib = 0;
    if (std::sscanf(line, "%lx-%lx ", &begin, &end) == 2) {
      if (within) break;
      within = begin <= address(p) && address(p) < end;
    } else if (within && std::sscanf(line, "FilePmdMapped: %lu", &kib) == 1) {
      found = kib > 0;
    }
  }
  std::fclose(maps);
  return found;
}

// File systems whose pages come from a disk of this machine.
bool is_local(int file) {
  struct statfs status{};
  if (::fstatfs(file, &status) != 0) return false;
  switch (static_cast<uint32_t>(status.f_type)) {
    case 0xEF53:      // ext4
    case 0x58465342:  // XFS
    case 0x9123683E:  // Btrfs
    case 0x794C7630:  // overlayfs
      return true;
    default:
      return false;
  }
}

bool fits_memory(size_t bytes) {
  const long pages = ::sysconf(_SC_PHYS_PAGES), page = ::sysconf(_SC_PAGESIZE);
  return pages > 0 && page > 0 &&
         bytes / static_cast<size_t>(page) < static_cast<size_t>(pages) / 4;
}

// The cache's pages of a stretch of the file, which are mapped here at `p`.
void give_back(int file, const std::byte* p, size_t offset, size_t bytes) {
  ::madvise(const_cast<std::byte*>(p), bytes, MADV_DONTNEED);
  ::posix_fadvise(file, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
}

}  // namespace

void want_huge_pages(int file, std::span<const std::byte> mapping) noexcept {
  const std::byte* start = mapping.data();
  ::madvise(const_cast<std::byte*>(start), mapping.size(), MADV_HUGEPAGE);
  if (mapping.size() < kLeastBytes || address(start) % kHugePage != 0) return;
  const size_t middle = mapping.size() / 2 / kHugePage * kHugePage;
  if (has_huge_pages(start + middle) || !is_local(file) || !fits_memory(mapping.size())) return;
  // One huge page tells whether this file system has them; then the others are worth reading anew.
  give_back(file, start + middle, middle, kHugePage);
  if (has_huge_pages(start + middle)) give_back(file, start, 0, mapping.size());
}

}  // namespace fusedlm

#else
namespace fusedlm {
void want_huge_pages(int, std::span<const std::byte>) noexcept {}
}  // namespace fusedlm
#endif
