// OpenMP's threads, which are torch's own where both use one library. A set of threads beside them
// would have to take their cores: they spin there for milliseconds after each use.
#include <omp.h>

#include <atomic>
#include <exception>
#include <mutex>

#include "threads.h"

#ifndef _WIN32
#include <pthread.h>
#endif

namespace bipft {
namespace {

// A forked child has none of its parent's threads, but GNU's OpenMP waits for them for ever: there,
// the caller works alone. It matters from the start, as torch may have used them before us.
std::atomic<bool> forked{false};
#ifndef _WIN32
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

}  // namespace

void parallel_for(std::int64_t items, int threads,
                  const std::function<void(std::int64_t, int)>& body) {
  if (threads < 2 || items < 2 || forked) {
    for (std::int64_t i = 0; i < items; ++i) body(i, 0);
    return;
  }
  // OpenMP gives every caller threads of its own: together they would be more than the cores.
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  std::atomic<std::int64_t> next{0};
  std::exception_ptr error;
  // All threads even for few items: OpenMP ends those that a smaller team leaves over.
#pragma omp parallel num_threads(threads)
  try {
    for (std::int64_t i = next++; i < items; i = next++) body(i, omp_get_thread_num());
  } catch (...) {
    next = items;
#pragma omp critical
    error = std::current_exception();
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace bipft
