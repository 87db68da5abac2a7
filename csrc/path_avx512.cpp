#include "target.h"

BIPFT_TARGET_BEGIN(
    "avx2,fma,popcnt,bmi,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq")
#include "isa_avx512.h"
#include "path_impl.h"
BIPFT_TARGET_END

namespace bipft {
const Path kAvx512 = make_path<Avx512>([]() -> bool {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vpopcntdq") && kAvx2.supported();
});
}  // namespace bipft
