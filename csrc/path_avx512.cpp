#include "target.h"

#ifdef BIPFT_EMULATE_AVX512
#include "tests/emulated_avx512.h"
#define BIPFT_AVX512_FEATURES "avx2,fma,popcnt,bmi,bmi2"
#else
#define BIPFT_AVX512_FEATURES \
  "avx2,fma,popcnt,bmi,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx512vnni"
#endif

BIPFT_TARGET_BEGIN(BIPFT_AVX512_FEATURES)
#include "isa_avx512.h"
#include "path_impl.h"
BIPFT_TARGET_END

namespace bipft {
const Path kAvx512 = make_path<Avx512>([]() -> bool {
#ifdef BIPFT_EMULATE_AVX512
  return kAvx2.supported();
#else
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vpopcntdq") &&
         __builtin_cpu_supports("avx512vnni") && kAvx2.supported();
#endif
});
}  // namespace bipft
