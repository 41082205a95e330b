#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/thread_pool.hpp"

namespace dalsegno::cli {

// How fast several threads read from memory, from sweeps over a buffer several times the last-level cache.
// Neighbours on the same memory come and go, so the limit is the best sweep so far: sweep() now and then.
class ReadBandwidth {
 public:
  // threads 0: one per core. brief: a small buffer, which a cache may hold.
  ReadBandwidth(int threads, bool brief);
  ~ReadBandwidth();
  ReadBandwidth(const ReadBandwidth&) = delete;
  ReadBandwidth& operator=(const ReadBandwidth&) = delete;

  void sweep(int times);
  // Bytes per second; 0 where memory was too short for the buffer.
  [[nodiscard]] double best() const { return best_; }

 private:
  ThreadPool pool_;
  std::span<std::uint64_t> words_;  // each 1; [threads of the pool] equal shares
  std::vector<std::uint64_t> totals_;
  double best_ = 0;
};

// Bytes of the last-level cache, or a common size where the system does not say.
[[nodiscard]] double cache_bytes();

}  // namespace dalsegno::cli
