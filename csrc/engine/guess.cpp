#include "engine/guess.h"

#include <algorithm>

namespace fusedlm::engine {
namespace {

// Longer matches are surer; what follows a single token is anyone's guess.
constexpr size_t kLongest = 4, kShortest = 2;

// Where the last `count` tokens occur for the last time before the end, or npos.
size_t find_before(std::span<const int32_t> text, size_t count) {
  const auto last = text.last(count);
  for (size_t at = text.size() - count; at-- > 0;) {
    if (std::equal(last.begin(), last.end(), text.begin() + static_cast<std::ptrdiff_t>(at))) {
      return at;
    }
  }
  return static_cast<size_t>(-1);
}

}  // namespace

std::span<const int32_t> guess_next(std::span<const int32_t> text, index_t most) {
  for (size_t count = kLongest; count >= kShortest && most > 0; --count) {
    if (text.size() <= count) continue;
    const size_t at = find_before(text, count);
    if (at == static_cast<size_t>(-1)) continue;
    const size_t next = at + count;
    return text.subspan(next, std::min(static_cast<size_t>(most), text.size() - next));
  }
  return {};
}

}  // namespace fusedlm::engine
