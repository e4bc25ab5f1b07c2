#if defined(FUSEDLM_SIMT_CHECKED)

#include "cuda/simt/symbolize.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdio>
#include <cstring>

#include "cuda/simt/checked.h"

namespace fusedlm::simt::emulator {

uintptr_t any_code() { return reinterpret_cast<uintptr_t>(&place_of_code); }

std::string place_of_code(uintptr_t return_address) {
  const uintptr_t code = return_address - 1;  // within the call, not behind it
  Dl_info info{};
  link_map* map = nullptr;
  if (!dladdr1(reinterpret_cast<void*>(code), &info, reinterpret_cast<void**>(&map),
               RTLD_DL_LINKMAP) ||
      !map || !info.dli_fname) {
    return "unknown code";
  }
  char offset[32];
  std::snprintf(offset, sizeof offset, "%#zx", static_cast<size_t>(code - map->l_addr));
  const std::string module = info.dli_fname;
  std::string text;
  const std::string command = "addr2line -i -e '" + module + "' " + offset + " 2>/dev/null";
  if (FILE* lines = popen(command.c_str(), "r")) {
    char line[4096];
    while (std::fgets(line, sizeof line, lines)) {
      std::string place = line;
      place = place.substr(0, place.find_first_of(" \n"));
      place = place.substr(place.rfind('/') + 1);
      // The frames around the kernel are the emulator's.
      if (place.rfind("launch.h", 0) == 0 || place.rfind("tuple", 0) == 0 || place[0] == '?') break;
      text += (text.empty() ? "" : " < ") + place;
    }
    pclose(lines);
  }
  return text.empty() ? module.substr(module.rfind('/') + 1) + " + " + offset : text;
}

std::string Spot::text() const { return where ? place(*where) : place_of_code(code); }

}  // namespace fusedlm::simt::emulator

#endif
