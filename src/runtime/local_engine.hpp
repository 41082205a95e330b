#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>

#include "backend/backend.hpp"
#include "base/thread_pool.hpp"
#include "cache/kv_cache.hpp"
#include "dalsegno/engine.hpp"
#include "kernels/kernels.hpp"
#include "model/config.hpp"
#include "model/model.hpp"
#include "runtime/constrained.hpp"
#include "runtime/continuation.hpp"
#include "runtime/draft_model.hpp"
#include "runtime/process_memory.hpp"
#include "runtime/scheduler.hpp"
#include "text/vocabulary.hpp"

namespace dalsegno {

// The engine of one model in this process: everything it needs, wired.
class LocalEngine final : public Engine {
 public:
  static Result<std::unique_ptr<LocalEngine>> open(const EngineOptions& options, const std::stop_token& cancel = {});
  // What bytes() will be, from the file's header. Errors: those of open() that need no more than that.
  static Result<std::uint64_t> bytes_needed(const EngineOptions& options);

  ~LocalEngine() override;
  LocalEngine(const LocalEngine&) = delete;
  LocalEngine& operator=(const LocalEngine&) = delete;

  Result<Reply> generate(std::span<const TokenId> prompt, const GenerateOptions& options,
                         const GenerateCallbacks& callbacks) override;
  Result<Explanation> explain(std::span<const TokenId> prompt, const std::string& salt) override;
  Result<Pin> pin(std::span<const TokenId> prefix, const std::string& salt) override;
  [[nodiscard]] const Tokenizer& tokenizer() const override { return *tokenizer_; }
  [[nodiscard]] int context() const override { return context_; }
  void reset_cache() override;
  CacheReport cache_report() override { return scheduler_->cache_report(); }
  std::optional<DraftReport> draft_report() override;
  AuditReport audit_cache(int blocks) override { return scheduler_->audit(blocks); }

  // For what else drives sequences (score, bench, tests). Errors as generate().
  [[nodiscard]] Result<void> check_prompt(std::span<const TokenId> prompt) const;
  [[nodiscard]] Result<void> check_options(const GenerateOptions& options) const;
  // Where the reply to this prompt stands in the options' constraint; null if they have none. Compiles it on this
  // thread. Errors: those of Constraints::begin.
  [[nodiscard]] Result<std::unique_ptr<ConstrainedText>> constrain(const GenerateOptions& options,
                                                                   std::span<const TokenId> prompt);
  // Whether such a constraint can be enforced; it is compiled for the next request. Errors: those of
  // Constraints::begin.
  [[nodiscard]] Result<void> check_constraint(const Constraint& constraint) { return constraints_->check(constraint); }
  [[nodiscard]] Continuation::Parts continuing(std::unique_ptr<ConstrainedText> constrained) const {
    return {vocabulary(), kernels_, context_, std::move(constrained)};
  }
  // Who guesses for a reply; null: nobody.
  [[nodiscard]] std::shared_ptr<Drafter> drafter_for(const GenerateOptions& options);
  // Holds the K/V of these tokens, computing what is not cached; the number by which to release them. Errors: as pin().
  Result<std::uint64_t> hold(std::span<const TokenId> tokens, const std::string& salt,
                             HeldTables::Keep keep = HeldTables::Keep::pinned);
  [[nodiscard]] std::uint64_t next_held() { return next_held_++; }
  [[nodiscard]] const NumericsKey& numerics_key() const { return scheduler_->key(); }
  [[nodiscard]] const KvLayout& layout() const { return cache_->layout(); }
  [[nodiscard]] const Vocabulary& vocabulary() const;
  // Reserved for as long as it is open: all but what it caches and the index of that.
  [[nodiscard]] std::uint64_t bytes() const;
  // Holds kSavingBytes of the budget, for the buffers of one save or load at a time.
  [[nodiscard]] std::unique_lock<std::mutex> saving_buffers() { return std::unique_lock(saving_mutex_); }
  [[nodiscard]] const Kernels& kernels() const { return kernels_; }
  [[nodiscard]] ProcessMemory& memory() { return *memory_; }
  [[nodiscard]] Scheduler& scheduler() { return *scheduler_; }
  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] Model& model() { return *model_; }                        // engine thread only
  [[nodiscard]] DraftModel* draft_model() { return draft_model_.get(); }  // the same; null: none

 private:
  LocalEngine(const Kernels& kernels, std::shared_ptr<ProcessMemory> memory, int threads);
  void cut(const ProcessMemory::Cut& cut);
  Result<void> load(const EngineOptions& options, const std::stop_token& cancel);

  std::atomic<std::uint64_t> next_held_{1};
  std::mutex saving_mutex_;
  // Constant after open(); destroyed from the last to the first.
  std::optional<Tokenizer> tokenizer_;
  const Kernels& kernels_;
  const std::shared_ptr<ProcessMemory> memory_;
  Reservation vocabulary_;
  Reservation saving_;
  ThreadPool pool_;
  ModelConfig config_;
  int context_ = 0;
  int rows_ = 0;               // of a step at most
  bool memory_bound_ = false;  // the context is what the budget has room for
  std::string remedy_;         // else what to do about a prompt longer than the context
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<DraftModel> draft_model_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Constraints> constraints_;
  std::unique_ptr<Scheduler> scheduler_;
};

}  // namespace dalsegno
