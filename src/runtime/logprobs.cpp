#include "dalsegno/logprobs.hpp"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "runtime/local_engine.hpp"
#include "runtime/logprob_rows.hpp"
#include "runtime/waiter.hpp"
#include "sampling/sampler.hpp"

namespace dalsegno {
namespace {

// Computes one row on the engine thread.
class Probe final : public Request {
 public:
  Probe(std::shared_ptr<LogprobRows> rows, std::shared_ptr<LogprobRows::Row> row)
      : rows_(std::move(rows)), row_(std::move(row)) {}

  void on_admitted(const Admission&) override {}
  Decision on_logits(int, std::span<const float> logits, std::span<const TokenId>) override {
    row_->values.assign(logits.begin(), logits.end());
    return {Decision::Kind::finish, 0, FinishReason::stop};
  }
  void on_finished(Result<FinishReason> outcome) override { rows_->end(row_, std::move(outcome)); }

 private:
  const std::shared_ptr<LogprobRows> rows_;
  const std::shared_ptr<LogprobRows::Row> row_;
};

void normalise(std::vector<float>& row) {
  const double log_sum_exp = log_probs(row, 0).log_sum_exp;
  for (float& value : row) value = static_cast<float>(static_cast<double>(value) - log_sum_exp);
}

}  // namespace

struct LogprobCache::Query::State {
  std::shared_ptr<LogprobRows::Row> row;  // or nullptr and the error
  std::optional<Error> error;
};

bool LogprobCache::Query::is_ready() const {
  return state_->error || state_->row->ended.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

Result<LogprobRow> LogprobCache::Query::get() const {
  if (state_->error) return *state_->error;
  LogprobRows::Row& row = *state_->row;
  const Result<FinishReason>& outcome = row.ended.get();
  if (!outcome.ok()) return outcome.error();
  if (outcome.value() == FinishReason::cancelled) {
    return Error{ErrorCode::cancelled, "the engine was closed before it had computed the log-probabilities"};
  }
  std::call_once(row.normalised, [&] { normalise(row.values); });
  return LogprobRow(state_->row, &row.values);
}

struct LogprobCache::Impl {
  LocalEngine& engine;
  const LogprobOptions options;
  const std::shared_ptr<LogprobRows> rows;
};

LogprobCache::LogprobCache(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {
  // Rows are few bytes beside K/V, so they go only where everything does, or where they alone are too much.
  impl_->engine.memory().add(impl_->rows.get(), [rows = impl_->rows](const ProcessMemory::Cut& cut) {
    if (cut.target < rows->stats().bytes || cut.target == 0) rows->give_back();
    if (cut.done) cut.done();
  });
}

LogprobCache::~LogprobCache() {
  impl_->engine.memory().remove(impl_->rows.get());
  impl_->rows->close();
}

Result<std::unique_ptr<LogprobCache>> LogprobCache::create(Engine& engine, const LogprobOptions& options) {
  if (options.chunk < 1) return Error{ErrorCode::invalid_argument, "chunk must be at least 1"};
  auto& local = dynamic_cast<LocalEngine&>(engine);
  DALSEGNO_ASSIGN(rows, LogprobRows::create(local.memory().shared_from_this(), options.max_bytes));
  return std::unique_ptr<LogprobCache>(
      new LogprobCache(std::unique_ptr<Impl>(new Impl{local, options, std::move(rows)})));
}

LogprobCache::Query LogprobCache::query(std::span<const TokenId> tokens) {
  const std::vector<TokenId> one(tokens.begin(), tokens.end());
  return query(std::span(&one, 1)).front();
}

std::vector<LogprobCache::Query> LogprobCache::query(std::span<const std::vector<TokenId>> batch) {
  std::vector<Query> queries;
  std::vector<Work> work;
  for (const std::vector<TokenId>& tokens : batch) {
    if (Result<void> fits = impl_->engine.check_prompt(tokens); !fits.ok()) {
      queries.push_back(Query(std::make_shared<Query::State>(Query::State{nullptr, std::move(fits).error()})));
      continue;
    }
    bool is_new = false;
    const auto row = impl_->rows->find(tokens, is_new);
    queries.push_back(Query(std::make_shared<Query::State>(Query::State{row, std::nullopt})));
    if (!is_new) continue;
    work.push_back({std::make_shared<Probe>(impl_->rows, row), tokens, static_cast<int>(tokens.size()) - 1,
                    impl_->options.chunk, true, impl_->options.salt});
  }
  if (!work.empty()) impl_->engine.scheduler().submit(std::move(work));
  return queries;
}

Result<LogprobRow> LogprobCache::next_token_logprobs(std::span<const TokenId> tokens) {
  return query(tokens).get();
}

Result<std::vector<LogprobRow>> LogprobCache::next_token_logprobs(std::span<const std::vector<TokenId>> batch) {
  std::vector<LogprobRow> rows;
  for (const Query& each : query(batch)) {
    DALSEGNO_ASSIGN(row, each.get());
    rows.push_back(std::move(row));
  }
  return rows;
}

Result<void> LogprobCache::cache_kv(std::span<const TokenId> prompt) {
  DALSEGNO_TRY(impl_->engine.check_prompt(prompt));
  auto waiter = std::make_shared<Waiter>();
  const int size = static_cast<int>(prompt.size());
  std::vector<Work> work;
  work.push_back({waiter, {prompt.begin(), prompt.end()}, size, impl_->options.chunk, true, impl_->options.salt});
  impl_->engine.scheduler().submit(std::move(work));
  if (Result<FinishReason> end = waiter->wait(); !end.ok()) return std::move(end).error();
  return {};
}

void LogprobCache::clear_cache() {
  impl_->rows->clear();
  clear_kv_cache();
}

void LogprobCache::clear_kv_cache() {
  impl_->engine.reset_cache();
}

LogprobStats LogprobCache::stats() const {
  return impl_->rows->stats();
}

}  // namespace dalsegno
