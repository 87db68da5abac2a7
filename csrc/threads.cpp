#include "threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace bipft {
namespace {

// How often a thread looks again before it sleeps: the layers of a model follow each other within
// microseconds, and waking a thread takes longer than that.
constexpr int kLooks = 4000;

template <class Condition>
bool look_for(Condition condition) {
  for (int i = 0; i < kLooks; ++i) {
    if (condition()) return true;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  return condition();
}

class Pool {
 public:
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  void run(std::int64_t items, int threads,
           const std::function<void(std::int64_t, int)>& body) {
    std::lock_guard<std::mutex> one_at_a_time(running_);
    while (static_cast<int>(threads_.size()) < threads - 1) {
      const int worker = static_cast<int>(threads_.size()) + 1;
      threads_.emplace_back(
          [this, worker, seen = round_.load()] { wait_for_work(worker, seen); });
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      body_ = &body;
      items_ = items;
      next_ = 0;
      workers_ = threads;
      busy_ = static_cast<int>(threads_.size());
      error_ = nullptr;
      ++round_;
    }
    wake_.notify_all();
    work(0);
    const auto done = [this] { return busy_.load() == 0; };
    if (!look_for(done)) {
      std::unique_lock<std::mutex> lock(mutex_);
      done_.wait(lock, done);
    }
    std::lock_guard<std::mutex> lock(mutex_);
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void wait_for_work(int worker, std::uint64_t seen) {
    for (;;) {
      const auto called = [&] { return stop_.load() || round_.load() != seen; };
      if (!look_for(called)) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, called);
      }
      {
        // The lock makes what `run` wrote before it visible, and a round whole.
        std::lock_guard<std::mutex> lock(mutex_);
        if (stop_) return;
        seen = round_;
      }
      // Every thread answers every round, those without a part in it at once.
      if (worker < workers_) work(worker);
      std::lock_guard<std::mutex> lock(mutex_);
      if (--busy_ == 0) done_.notify_one();
    }
  }

  void work(int worker) {
    try {
      for (std::int64_t i = next_++; i < items_; i = next_++) (*body_)(i, worker);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      error_ = std::current_exception();
      next_ = items_;
    }
  }

  std::mutex running_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> threads_;
  const std::function<void(std::int64_t, int)>* body_ = nullptr;
  std::atomic<std::int64_t> next_{0};
  std::int64_t items_ = 0;
  int workers_ = 0;
  std::atomic<int> busy_{0};
  std::atomic<std::uint64_t> round_{0};
  std::atomic<bool> stop_{false};
  std::exception_ptr error_;
};

std::unique_ptr<Pool>& pool() {
  static std::unique_ptr<Pool> instance = [] {
#ifndef _WIN32
    // A forked process has none of its parent's threads: it begins with a pool of its own.
    pthread_atfork(nullptr, nullptr, [] {
      pool().release();
      pool() = std::make_unique<Pool>();
    });
#endif
    return std::make_unique<Pool>();
  }();
  return instance;
}

}  // namespace

void parallel_for(std::int64_t items, int threads,
                  const std::function<void(std::int64_t, int)>& body) {
  threads = static_cast<int>(std::min<std::int64_t>(threads, items));
  if (threads > 1) {
    pool()->run(items, threads, body);
    return;
  }
  for (std::int64_t i = 0; i < items; ++i) body(i, 0);
}

}  // namespace bipft
