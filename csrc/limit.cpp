#include <chrono>

#include "path.h"
#include "threads.h"

namespace bipft {

double register_rate(const Path& path, int threads) {
  // Long enough that waking the threads does not count, in pieces that a late thread can leave to
  // the others.
  constexpr std::int64_t kPieces = 16, kMacs = 200'000'000;
  const std::int64_t pieces = kPieces * threads, rounds = kMacs / path.busy_macs;
  const auto start = std::chrono::steady_clock::now();
  parallel_for(pieces, threads, [&](std::int64_t, int) { path.busy(rounds); });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return static_cast<double>(pieces * rounds * path.busy_macs) / seconds.count() / 1e9;
}

}  // namespace bipft
