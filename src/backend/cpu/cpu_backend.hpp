#pragma once

#include <memory>

#include "backend/backend.hpp"
#include "base/memory_budget.hpp"
#include "base/thread_pool.hpp"
#include "kernels/kernels.hpp"

namespace dalsegno {

// The reference backend: the kernels of one CPU level, spread over a thread pool. How work is divided
// never changes a bit.
// Requires: pool, kernels and budget outlive it.
[[nodiscard]] std::unique_ptr<Backend> make_cpu_backend(ThreadPool& pool, const Kernels& kernels, MemoryBudget& budget);

}  // namespace dalsegno
