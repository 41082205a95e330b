#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace dalsegno {

// The units 0, 1, ... of a call, handed out to the parts of a pool's run: a run of neighbours to each, so that a part
// knows what it reads next; who has done his own takes those that others would come to last. So all end within a unit,
// and a part that begins late, or never, delays nobody.
// Threads: reset() by one, before take() by any.
class UnitRuns {
 public:
  explicit UnitRuns(int parts) : parts_(parts), runs_(std::make_unique<Run[]>(static_cast<std::size_t>(parts))) {}

  void reset(int count) {
    for (std::int64_t part = 0; part < parts_; ++part) {
      const auto begin = static_cast<std::uint64_t>(count * part / parts_);
      const auto end = static_cast<std::uint64_t>(count * (part + 1) / parts_);
      runs_[static_cast<std::size_t>(part)].left.store(begin << 32 | end, std::memory_order_relaxed);
    }
  }
  // A unit that nobody else gets; -1: none is left. Of others' runs only while `least` units or more are left.
  int take(int part, int least = 1) {
    for (int i = 0; i < parts_; ++i) {
      std::atomic<std::uint64_t>& left = runs_[static_cast<std::size_t>((part + i) % parts_)].left;
      std::uint64_t seen = left.load(std::memory_order_relaxed);
      while (begin_of(seen) + (i == 0 ? 1 : static_cast<std::uint32_t>(least)) <= end_of(seen)) {
        const std::uint64_t rest = i == 0 ? seen + (std::uint64_t{1} << 32) : seen - 1;
        if (!left.compare_exchange_weak(seen, rest, std::memory_order_relaxed)) continue;
        return static_cast<int>(i == 0 ? begin_of(seen) : end_of(rest));
      }
    }
    return -1;
  }

 private:
  // [begin, end) of what is left: begin above, end below. A cache line of its own.
  struct alignas(64) Run {
    std::atomic<std::uint64_t> left{0};
  };
  static std::uint32_t begin_of(std::uint64_t left) { return static_cast<std::uint32_t>(left >> 32); }
  static std::uint32_t end_of(std::uint64_t left) { return static_cast<std::uint32_t>(left); }

  const int parts_;
  const std::unique_ptr<Run[]> runs_;
};

}  // namespace dalsegno
