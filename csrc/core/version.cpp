#include "fusedlm/version.h"

namespace fusedlm {

const char* version() { return FUSEDLM_VERSION; }

}  // namespace fusedlm
