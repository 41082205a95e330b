#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <numeric>
#include <vector>

#include "kernels/kernels.hpp"

// What one core can do, measured once in this run, and the share of it that a benchmark reaches.
namespace dalsegno::bench {

inline constexpr int kTries = 40;
inline constexpr std::size_t kColdBytes = std::size_t{256} << 20;

template <class Call>
double best_seconds(const Call& call) {
  double best = 1e9;
  for (int i = 0; i < kTries; ++i) {
    const auto start = std::chrono::steady_clock::now();
    call();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

// Operations per second of one of a level's peak functions.
inline double peak(std::uint64_t (*function)(int rounds)) {
  static std::map<void*, double> known;
  const auto key = reinterpret_cast<void*>(function);
  if (known.count(key) == 0) {
    constexpr int kRounds = 1 << 16;
    std::uint64_t operations = 0;
    const double seconds = best_seconds([&] { operations = function(kRounds); });
    known[key] = static_cast<double>(operations) / seconds;
  }
  return known[key];
}

inline std::uint64_t sum(const std::vector<std::uint64_t>& words) {
  std::uint64_t lanes[16] = {};
  for (std::size_t i = 0; i + 16 <= words.size(); i += 16) {
    for (std::size_t lane = 0; lane < 16; ++lane) lanes[lane] += words[i + lane];
  }
  return std::accumulate(std::begin(lanes), std::end(lanes), std::uint64_t{0});
}

// Bytes per second that one thread reads from memory.
inline double read_speed() {
  static const double speed = [] {
    const std::vector<std::uint64_t> words(kColdBytes / sizeof(std::uint64_t), 1);
    return static_cast<double>(kColdBytes) / best_seconds([&] { benchmark::DoNotOptimize(sum(words)); });
  }();
  return speed;
}

// Bytes per second that memcpy reads and writes, both counted, in a cache that holds this many.
inline double copy_speed(std::size_t bytes) {
  static std::map<std::size_t, double> known;
  if (known.count(bytes) == 0) {
    const std::vector<std::byte> from(bytes / 2);
    std::vector<std::byte> to(bytes / 2);
    constexpr int kSweeps = 100;
    const double seconds = best_seconds([&] {
      for (int sweep = 0; sweep < kSweeps; ++sweep) {
        std::memcpy(to.data(), from.data(), from.size());
        benchmark::ClobberMemory();
      }
    });
    known[bytes] = 2.0 * static_cast<double>(from.size()) * kSweeps / seconds;
  }
  return known[bytes];
}

// Reports `amount` per iteration in units of 1e9 and which part of `limit` per second that is.
inline void report(benchmark::State& state, const char* name, double amount, double limit) {
  using benchmark::Counter;
  state.counters[name] = Counter(amount * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["of_limit"] = Counter(amount / limit, Counter::kIsIterationInvariantRate);
}

}  // namespace dalsegno::bench
