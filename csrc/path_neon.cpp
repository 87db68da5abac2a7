#include "isa_neon.h"
#include "path_impl.h"

namespace bipft {
const Path kNeon = make_path<Neon>([] { return true; });
}  // namespace bipft
