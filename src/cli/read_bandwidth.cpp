#include "cli/read_bandwidth.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <thread>

namespace dalsegno::cli {
namespace {

constexpr double kCommonCache = 32e6;
constexpr std::size_t kLeastBytes = 128 << 20;
constexpr std::size_t kMostBytes = 512 << 20;  // fresh memory can cost a second per 500 MB
constexpr std::size_t kBriefBytes = 8 << 20;
constexpr std::size_t kCaches = 8;  // times the last-level cache, so that little of it is still there in the next sweep

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

std::span<std::uint64_t> share(std::span<std::uint64_t> words, int part, int parts) {
  const std::size_t size = words.size() / static_cast<std::size_t>(parts);
  return words.subspan(static_cast<std::size_t>(part) * size, size);
}

// In huge pages where the system has them, as an engine's weights may be. Empty where memory is too short.
std::span<std::uint64_t> map_words(std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return {};
  (void)madvise(memory, bytes, MADV_HUGEPAGE);
  return {static_cast<std::uint64_t*>(memory), bytes / sizeof(std::uint64_t)};
}

int pool_threads(int threads) {
  return threads > 0 ? threads : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

}  // namespace

// sysconf() multiplies by sockets or cores on some machines, so ask the kernel.
double cache_bytes() {
  std::ifstream size("/sys/devices/system/cpu/cpu0/cache/index3/size");
  double kib = 0;
  return size >> kib && kib > 0 ? kib * 1024 : kCommonCache;
}

ReadBandwidth::ReadBandwidth(int threads, bool brief) : pool_(pool_threads(threads)) {
  const auto wanted = static_cast<std::size_t>(cache_bytes()) * kCaches;
  words_ = map_words(brief ? kBriefBytes : std::clamp(wanted, kLeastBytes, kMostBytes));
  totals_.resize(static_cast<std::size_t>(pool_.threads()));
  pool_.run([&](int part, int parts) {
    const auto mine = share(words_, part, parts);
    std::fill(mine.begin(), mine.end(), 1);
  });
}

ReadBandwidth::~ReadBandwidth() {
  if (!words_.empty()) munmap(words_.data(), words_.size_bytes());
}

void ReadBandwidth::sweep(int times) {
  for (int i = 0; i < times && !words_.empty(); ++i) {
    const auto start = std::chrono::steady_clock::now();
    pool_.run([&](int part, int parts) { totals_[static_cast<std::size_t>(part)] = sum(share(words_, part, parts)); });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    // Every word is 1: the sum tells how many were read.
    std::uint64_t read = 0;
    for (const std::uint64_t total : totals_) read += total;
    best_ = std::max(best_, static_cast<double>(read * sizeof(std::uint64_t)) / took.count());
  }
}

}  // namespace dalsegno::cli
