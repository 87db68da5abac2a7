#include "path.h"
#include "target.h"

#ifdef BIPFT_AMX
#include <sys/syscall.h>
#include <unistd.h>

BIPFT_TARGET_BEGIN(
    "avx2,fma,popcnt,bmi,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx512vnni,"
    "amx-tile,amx-int8")
#include "isa_amx.h"
#include "path_impl.h"
BIPFT_TARGET_END

namespace bipft {
namespace {

// Linux gives a process the tile registers when it asks for them.
bool may_use_tiles() {
  constexpr long kRequest = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

}  // namespace

const Path kAmx = make_path<Amx>([]() -> bool {
  return kAvx512.supported() && __builtin_cpu_supports("amx-tile") &&
         __builtin_cpu_supports("amx-int8") && may_use_tiles();
});
}  // namespace bipft
#endif
