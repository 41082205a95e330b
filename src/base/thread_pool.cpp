#include "base/thread_pool.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
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

// Parts are claimed in words of one bit each.
constexpr int kWordBits = 64;

}  // namespace

struct ThreadPool::Impl {
  explicit Impl(int count) : threads(count), unclaimed(static_cast<std::size_t>((count - 1) / kWordBits + 1)) {
    for (int i = 1; i < threads; ++i) workers.emplace_back([this, i] { work(i); });
  }

  // Constant after construction.
  const int threads;

  // Written before the parts of a call are published, read by those who claimed one.
  Call call = nullptr;
  void* context = nullptr;
  std::vector<std::atomic<std::uint64_t>> unclaimed;  // parts of the present call
  std::atomic<int> unfinished{0};                     // parts of the present call
  std::atomic<int> parked{0};
  std::atomic<bool> stopping{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> workers;

  [[nodiscard]] bool has_work() const {
    return std::ranges::any_of(unclaimed, [](const auto& word) { return word.load(std::memory_order_seq_cst) != 0; });
  }

  void publish() {
    unfinished.store(threads, std::memory_order_relaxed);
    for (int first = 0; std::atomic<std::uint64_t> & word : unclaimed) {
      const int count = std::min(threads - first, kWordBits);
      word.store(~std::uint64_t{0} >> (kWordBits - count), std::memory_order_seq_cst);
      first += count;
    }
  }

  // A part that nobody else gets, `own` if it is left; -1: none is.
  int claim(int own) {
    const auto words = unclaimed.size();
    const auto first = static_cast<std::size_t>(own / kWordBits);
    for (std::size_t i = 0; i < words; ++i) {
      const std::size_t at = (first + i) % words;
      for (std::uint64_t left; (left = unclaimed[at].load(std::memory_order_relaxed)) != 0;) {
        const std::uint64_t wanted = std::uint64_t{1} << (own % kWordBits);
        const std::uint64_t bit = i == 0 && (left & wanted) != 0 ? wanted : left & -left;
        if ((unclaimed[at].fetch_and(~bit, std::memory_order_acq_rel) & bit) != 0) {
          return static_cast<int>(at) * kWordBits + std::countr_zero(bit);
        }
      }
    }
    return -1;
  }

  // Runs parts of the present call while there are any, a thread's own first: what it read for that part of the last
  // call its core still holds. A worker that the system keeps waiting holds up nobody: the others do its share.
  void drain(int own) {
    for (int part; (part = claim(own)) >= 0;) {
      // The call cannot end, nor the next begin, before this part is counted.
      call(context, part, threads);
      unfinished.fetch_sub(1, std::memory_order_release);
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

  void work(int own) {
    const FloatState state;
    while (wait_for_work()) drain(own);
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
  pool.publish();
  pool.notify();
  pool.drain(0);
  for (int spin = 0; pool.unfinished.load(std::memory_order_acquire) != 0; ++spin) wait_a_little(spin);
}

}  // namespace dalsegno
