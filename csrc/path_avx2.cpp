#include "target.h"

BIPFT_TARGET_BEGIN("avx2,fma,popcnt,bmi,bmi2")
#include "isa_avx2.h"
#include "path_impl.h"
BIPFT_TARGET_END

namespace bipft {
const Path kAvx2 = make_path<Avx2>([]() -> bool {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
});
}  // namespace bipft
