#include "base/thread_pool.hpp"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "base/float_state.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dalsegno {
namespace {

inline void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// A few microseconds of pauses cover the gap between two calls of one step. After that a spinner
// yields, because two threads on one core would otherwise cost a time slice per call, and
// after some 50 us of yields a worker parks.
constexpr int kPauses = 2000;
constexpr int kYields = 50;

}  // namespace

struct ThreadPool::Impl {
  explicit Impl(int count) : threads(count) {
    for (int part = 1; part < threads; ++part) workers.emplace_back([this, part] { work(part); });
  }

  // Constant after construction.
  const int threads;

  // One call at a time: `call` and `context` are written before `epoch` is raised.
  Call call = nullptr;
  void* context = nullptr;
  std::atomic<std::uint64_t> epoch{0};
  std::atomic<int> busy{0};
  std::atomic<int> parked{0};
  std::atomic<bool> stopping{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> workers;

  // Waits until `epoch` differs from `seen`; false when the pool stops.
  bool wait_for_work(std::uint64_t seen) {
    for (int spin = 0; spin < kPauses + kYields; ++spin) {
      if (epoch.load(std::memory_order_acquire) != seen) return !stopping.load(std::memory_order_relaxed);
      if (spin < kPauses) {
        pause_cpu();
      } else {
        std::this_thread::yield();
      }
    }
    std::unique_lock lock(mutex);
    parked.fetch_add(1, std::memory_order_seq_cst);
    wake.wait(lock, [&] { return epoch.load(std::memory_order_seq_cst) != seen; });
    parked.fetch_sub(1, std::memory_order_relaxed);
    return !stopping.load(std::memory_order_relaxed);
  }

  void work(int part) {
    const FloatState state;
    std::uint64_t seen = 0;
    while (wait_for_work(seen)) {
      ++seen;
      call(context, part, threads);
      busy.fetch_sub(1, std::memory_order_release);
    }
  }

  void raise() {
    epoch.fetch_add(1, std::memory_order_seq_cst);
    if (parked.load(std::memory_order_seq_cst) > 0) {
      // Taking the lock orders this after a worker that is about to wait has checked the epoch.
      { const std::lock_guard lock(mutex); }
      wake.notify_all();
    }
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>(threads < 1 ? 1 : threads)) {}

ThreadPool::~ThreadPool() {
  impl_->stopping.store(true, std::memory_order_relaxed);
  impl_->raise();
  for (std::thread& worker : impl_->workers) worker.join();
}

int ThreadPool::threads() const {
  return impl_->threads;
}

void ThreadPool::dispatch(Call call, void* context) {
  Impl& pool = *impl_;
  const FloatState state;
  if (pool.threads == 1) {
    call(context, 0, 1);
    return;
  }
  pool.call = call;
  pool.context = context;
  pool.busy.store(pool.threads - 1, std::memory_order_relaxed);
  pool.raise();
  call(context, 0, pool.threads);
  for (int spin = 0; pool.busy.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < kPauses) {
      pause_cpu();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace dalsegno
