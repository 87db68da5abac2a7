#include "isa_portable.h"
#include "path_impl.h"

namespace bipft {
const Path kPortable = make_path<Portable>([] { return true; });
}  // namespace bipft
