#include "runtime/opening.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <thread>

#include "backend/cpu/cpu_backend.hpp"
#include "base/memory_budget.hpp"
#include "base/thread_pool.hpp"
#include "cache/kv_cache.hpp"
#include "gguf/printable.hpp"
#include "kernels/self_check.hpp"
#include "model/kv_layout.hpp"
#include "model/registry.hpp"
#include "runtime/draft_model.hpp"
#include "runtime/tokenizer_impl.hpp"

namespace dalsegno {

int worker_threads(const EngineOptions& options) {
  if (options.threads > 0) return options.threads;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMaxThreads);
}

int context_of(const EngineOptions& options, const ModelConfig& config) {
  return options.context > 0 ? options.context : config.context;
}

Result<void> check_context(const EngineOptions& options, const ModelConfig& config) {
  if (options.context >= 0 && options.context <= config.context) return {};
  return Error{ErrorCode::invalid_argument,
               fmt::format("a context of {} tokens is not possible; {} was made for at most {}", options.context,
                           quoted_path(options.model_path), config.context)};
}

Result<MemoryNeeds> memory_needs(const GgufFile& file, const ModelConfig& config, const EngineOptions& options,
                                 int tokens) {
  DALSEGNO_ASSIGN(kv, kv_options(config, options.kv));
  MemoryBudget ledger(std::numeric_limits<std::uint64_t>::max());
  ThreadPool pool(worker_threads(options));
  const auto backend = make_sizing_backend(pool, *runnable_kernels().front(), ledger, options.activation_bits);
  ModelLimits limits;
  limits.positions = context_of(options, config);
  DALSEGNO_TRY(load_model(file, config, limits, *backend));
  KvCacheOptions cache;
  cache.layout = kv_layout(config, kv);
  cache.most_tokens = limits.positions;
  MemoryNeeds needs{.weights = backend->weight_bytes(),
                    .work = backend->work_bytes() + vocabulary_bytes(file) + kSavingBytes,
                    .cache = KvCache::bytes_needed(cache, tokens, limits.rows)};
  if (options.draft_model_path.empty()) return needs;
  const auto draft = make_sizing_backend(pool, *runnable_kernels().front(), ledger, DraftModel::kActivationBits);
  DALSEGNO_TRY(DraftModel::load(options.draft_model_path, file, limits.positions, *draft));
  needs.weights += draft->weight_bytes();
  needs.work += draft->work_bytes();
  return needs;
}

}  // namespace dalsegno
