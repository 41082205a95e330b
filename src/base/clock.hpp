#pragma once

#include <atomic>
#include <chrono>

namespace dalsegno {

// Where the time comes from that a decision rests on, so that tests can set it. It counts from some moment of its own
// and never goes back. Threads: any.
class MonotonicClock {
 public:
  virtual ~MonotonicClock() = default;
  [[nodiscard]] virtual std::chrono::milliseconds now() const = 0;
};

// The system's.
[[nodiscard]] const MonotonicClock& steady_clock();

// Stands still until it is moved.
class ManualClock final : public MonotonicClock {
 public:
  [[nodiscard]] std::chrono::milliseconds now() const override { return now_; }
  void advance(std::chrono::milliseconds by) { now_ = now_.load() + by; }

 private:
  std::atomic<std::chrono::milliseconds> now_{std::chrono::milliseconds{0}};
};

}  // namespace dalsegno
