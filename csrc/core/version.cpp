#include "fusedlm/version.h"

namespace fusedlm {

const char* version() noexcept { return FUSEDLM_VERSION; }

}  // namespace fusedlm
