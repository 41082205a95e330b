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
#elif defined(__aarch64__)
  asm volatile("isb");  // waits about as long as x86's pause; "yield" is over at once
#endif
}

// A few microseconds of pauses cover the gap between two calls of one step. After that a spinner
// yields, because two threads on one core would otherwise cost a time slice per call, and
// after some 50 us of yields a worker parks.
constexpr int kPauses = 2000;
constexpr int kYields = 50;

void wait_a_little(int spin) {
  if (spin < kPauses) {
    pause_cpu();
  } else {
    std::this_thread::yield();
  }
}

// The parts of a call are claimed from a ticket: the number of the call above, the next part below.
constexpr int kPartBits = 16;
constexpr std::uint64_t kPartMask = (1U << kPartBits) - 1;

}  // namespace

struct ThreadPool::Impl {
  explicit Impl(int count) : threads(count), ticket(static_cast<std::uint64_t>(count)) {
    for (int i = 1; i < threads; ++i) workers.emplace_back([this] { work(); });
  }

  // Constant after construction.
  const int threads;

  // Written before the ticket of a call is published, read by those who claimed a part of it.
  Call call = nullptr;
  void* context = nullptr;
  std::atomic<std::uint64_t> ticket;
  std::atomic<int> unfinished{0};  // parts of the present call
  std::atomic<int> parked{0};
  std::atomic<bool> stopping{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> workers;

  [[nodiscard]] bool has_work() const {
    return (ticket.load(std::memory_order_seq_cst) & kPartMask) < static_cast<std::uint64_t>(threads);
  }

  // Runs parts of the present call while there are any. Whoever comes takes the next one, so a worker that the
  // system keeps waiting holds up nobody: the others do its share.
  void drain() {
    std::uint64_t seen = ticket.load(std::memory_order_acquire);
    while ((seen & kPartMask) < static_cast<std::uint64_t>(threads)) {
      if (!ticket.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      // The call cannot end, nor the next begin, before this part is counted.
      call(context, static_cast<int>(seen & kPartMask), threads);
      unfinished.fetch_sub(1, std::memory_order_release);
      seen = ticket.load(std::memory_order_acquire);
    }
  }

  // False when the pool stops.
  bool wait_for_work() {
    for (int spin = 0; spin < kPauses + kYields; ++spin) {
      if (stopping.load(std::memory_order_relaxed)) return false;
      if (has_work()) return true;
      wait_a_little(spin);
    }
    std::unique_lock lock(mutex);
    parked.fetch_add(1, std::memory_order_seq_cst);
    wake.wait(lock, [&] { return has_work() || stopping.load(std::memory_order_relaxed); });
    parked.fetch_sub(1, std::memory_order_relaxed);
    return !stopping.load(std::memory_order_relaxed);
  }

  void work() {
    const FloatState state;
    while (wait_for_work()) drain();
  }

  void notify() {
    if (parked.load(std::memory_order_seq_cst) == 0) return;
    // Taking the lock orders this after a worker that is about to wait has looked for work.
    { const std::lock_guard lock(mutex); }
    wake.notify_all();
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>(threads < 1 ? 1 : threads)) {}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stopping.store(true, std::memory_order_relaxed);
  }
  impl_->wake.notify_all();
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
  pool.unfinished.store(pool.threads, std::memory_order_relaxed);
  const std::uint64_t number = (pool.ticket.load(std::memory_order_relaxed) >> kPartBits) + 1;
  pool.ticket.store(number << kPartBits, std::memory_order_seq_cst);
  pool.notify();
  pool.drain();
  for (int spin = 0; pool.unfinished.load(std::memory_order_acquire) != 0; ++spin) wait_a_little(spin);
}

}  // namespace dalsegno
