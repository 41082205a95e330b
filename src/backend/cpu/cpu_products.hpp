#pragma once

#include <atomic>
#include <span>

#include "backend/cpu/cpu_objects.hpp"
#include "base/thread_pool.hpp"
#include "base/unit_runs.hpp"
#include "kernels/kernels.hpp"

namespace dalsegno {

// Up to this many rows a product is limited by memory: each thread reads one contiguous run of panels. Seven rows are
// one tile where L1 is large, and 2 to 3% faster so than in units.
inline int streaming_rows() {
  return has_large_l1() ? 7 : 6;
}

// Products of a step's rows by packed weights, spread over the pool.
// Threads: one caller at a time.
class CpuProducts {
 public:
  CpuProducts(ThreadPool& pool, const Kernels& kernels) : pool_(pool), kernels_(kernels), runs_(pool.threads()) {}

  // y [m, y_columns] = a W^T + bias (nullptr: none); add: y = y + that. ahead: what may be prefetched meanwhile,
  // as many pages for each part of the pool, in turn.
  struct Output {
    const float* bias = nullptr;
    float* values = nullptr;
    int columns = 0;
    bool add = false;
  };
  void multiply(const CpuActivations& a, int m, const CpuWeight& w, const Output& y, const Ahead& ahead);
  // The same into logits [m, w.n]. finite: [m] whether all of a row is; whoever computes a part looks at it while it is
  // in its cache. Requires: w is one matrix.
  void multiply_head(const CpuActivations& a, int m, const CpuWeight& w, float* logits,
                     std::span<std::atomic<bool>> finite);

 private:
  void multiply_panels(GemmArgs args, const CpuWeight& w, const Output& y, int begin, int end) const;

  ThreadPool& pool_;
  const Kernels& kernels_;
  UnitRuns runs_;
};

}  // namespace dalsegno
