#pragma once

#include <memory>
#include <stop_token>

#include "backend/backend.hpp"
#include "base/memory_budget.hpp"
#include "base/thread_pool.hpp"
#include "kernels/kernels.hpp"

namespace dalsegno {

// The reference backend: the kernels of one CPU level, spread over a thread pool. How work is divided
// never changes a bit.
// activation_bits: 8 or 16, of what quantised weights are multiplied by.
// cancel: ends load() with `cancelled`, within about a megabyte per thread.
// Requires: pool, kernels and budget outlive it.
[[nodiscard]] std::unique_ptr<Backend> make_cpu_backend(ThreadPool& pool, const Kernels& kernels, MemoryBudget& budget,
                                                        int activation_bits, const std::stop_token& cancel = {});

// Reserves what the above would, and reads no tensor: for load_model() and then weight_bytes() and work_bytes(), not
// for steps. The memory is address space that nobody touches.
[[nodiscard]] std::unique_ptr<Backend> make_sizing_backend(ThreadPool& pool, const Kernels& kernels,
                                                           MemoryBudget& budget, int activation_bits);

}  // namespace dalsegno
