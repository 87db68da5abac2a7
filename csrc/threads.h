// A pool of threads. Work is cut into items whose results do not depend on who computes them, so
// any number of threads gives the same bits.
#pragma once

#include <cstdint>
#include <functional>

namespace bipft {

// Run body(item, worker) for every item in [0, items) on at most `threads` threads, the caller
// among them; `worker` is below `threads` and no two calls of the body share one at a time.
// Exceptions of the body are rethrown here. Calls from several threads that ask for more than one
// wait for each other: together they use no more than each asks for. The body must not call this.
void parallel_for(std::int64_t items, int threads,
                  const std::function<void(std::int64_t item, int worker)>& body);

}  // namespace bipft
