#include "cli/read_bandwidth.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <new>
#include <span>
#include <thread>
#include <vector>

#include "base/thread_pool.hpp"

namespace dalsegno::cli {
namespace {

constexpr double kCommonCache = 32e6;
constexpr std::size_t kLeastWords = 16 << 20;  // 128 MiB
constexpr std::size_t kMostWords = 64 << 20;   // 512 MiB: fresh memory can cost a second per 500 MB
constexpr std::size_t kBriefWords = 1 << 20;
constexpr int kSweeps = 6;

// Independent sums, so that the loop waits for memory and not for additions.
std::uint64_t sum(std::span<const std::uint64_t> words) {
  std::array<std::uint64_t, 16> lanes{};
  std::size_t i = 0;
  for (; i + lanes.size() <= words.size(); i += lanes.size()) {
    for (std::size_t lane = 0; lane < lanes.size(); ++lane) lanes[lane] += words[i + lane];
  }
  std::uint64_t total = 0;
  for (const std::uint64_t lane : lanes) total += lane;
  return total;
}

std::span<std::uint64_t> share(std::vector<std::uint64_t>& words, int part, int parts) {
  const std::size_t size = words.size() / static_cast<std::size_t>(parts);
  return std::span(words).subspan(static_cast<std::size_t>(part) * size, size);
}

}  // namespace

// sysconf() multiplies by sockets or cores on some machines, so ask the kernel.
double cache_bytes() {
  std::ifstream size("/sys/devices/system/cpu/cpu0/cache/index3/size");
  double kib = 0;
  return size >> kib && kib > 0 ? kib * 1024 : kCommonCache;
}

double read_bandwidth(int threads, bool brief) {
  if (threads <= 0) threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  const auto wanted = static_cast<std::size_t>(cache_bytes()) / sizeof(std::uint64_t) * 4;
  std::vector<std::uint64_t> words;
  try {
    words.resize(brief ? kBriefWords : std::clamp(wanted, kLeastWords, kMostWords), 1);
  } catch (const std::bad_alloc&) {
    return 0;
  }
  ThreadPool pool(threads);
  std::vector<std::uint64_t> totals(static_cast<std::size_t>(pool.threads()));
  double best = 0;
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    const auto start = std::chrono::steady_clock::now();
    pool.run([&](int part, int parts) { totals[static_cast<std::size_t>(part)] = sum(share(words, part, parts)); });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    // Every word is 1: the sum tells that all of it was read.
    std::uint64_t read = 0;
    for (const std::uint64_t total : totals) read += total;
    best = std::max(best, static_cast<double>(read * sizeof(std::uint64_t)) / took.count());
  }
  return best;
}

}  // namespace dalsegno::cli
