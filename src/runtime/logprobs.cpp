#include "dalsegno/logprobs.hpp"

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
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
  Probe(std::shared_ptr<LogprobRows> rows, std::shared_ptr<LogprobRows::Row> row, int tokens)
      : rows_(std::move(rows)), row_(std::move(row)), tokens_(tokens) {}

  void on_admitted(const Admission& admission) override { rows_->count_tokens(tokens_ - admission.reused); }
  void on_hidden(std::span<const float> hidden) override {
    row_->hidden = std::make_shared<const std::vector<float>>(hidden.begin(), hidden.end());
  }
  Decision on_logits(int, std::span<const float> logits, std::span<const TokenId>) override {
    row_->values.assign(logits.begin(), logits.end());
    return {Decision::Kind::finish, 0, FinishReason::stop};
  }
  void on_finished(Result<FinishReason> outcome) override { rows_->end(row_, std::move(outcome)); }

 private:
  const std::shared_ptr<LogprobRows> rows_;
  const std::shared_ptr<LogprobRows::Row> row_;
  const int tokens_;
};

// Runs the output head for the queries that need no more, some between two steps, until there is none left. If the
// scheduler ends before, they end as cancelled.
class HeadRun : public std::enable_shared_from_this<HeadRun> {
 public:
  HeadRun(LocalEngine& engine, std::shared_ptr<LogprobRows> rows) : engine_(engine), rows_(std::move(rows)) {}
  ~HeadRun() {
    if (done_) return;
    for (const auto& row : rows_->take(SIZE_MAX)) rows_->end(row, FinishReason::cancelled);
  }
  HeadRun(const HeadRun&) = delete;
  HeadRun& operator=(const HeadRun&) = delete;

  void post() {
    engine_.scheduler().post([self = shared_from_this()](KvCache&) { self->run(); });
  }

 private:
  // As many as the backend takes at a time; more would only keep waiting who decodes.
  static constexpr std::size_t kRows = 32;

  void run() {
    const auto rows = rows_->take(kRows);
    done_ = rows.empty();
    if (done_) return;
    std::vector<float> hidden;
    for (const auto& row : rows) hidden.insert(hidden.end(), row->hidden->begin(), row->hidden->end());
    engine_.model().logits_of(hidden, [&](int index, std::span<const float> logits, std::span<const float>) {
      rows[static_cast<std::size_t>(index)]->values.assign(logits.begin(), logits.end());
    });
    for (const auto& row : rows) rows_->end(row, FinishReason::stop);
    post();
  }

  LocalEngine& engine_;
  const std::shared_ptr<LogprobRows> rows_;
  bool done_ = false;
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
  std::mutex mutex{};
  std::map<std::vector<TokenId>, Pin> pins{};  // of prompts' whole blocks; guarded by mutex
  std::atomic<std::uint64_t> quarantines{0};   // of the engine, when answers were last trusted

  Result<void> pin(std::span<const TokenId> prompt);
  // What was computed from K/V that are found damaged may be wrong too.
  void distrust() {
    const std::uint64_t now = engine.scheduler().quarantines();
    if (quarantines.exchange(now) != now) rows->clear();
  }
};

// Requires: the prompt has passed check_prompt().
Result<void> LogprobCache::Impl::pin(std::span<const TokenId> prompt) {
  const auto whole = prompt.first(prompt.size() / kBlockTokens * kBlockTokens);
  if (whole.empty()) return {};
  std::vector<TokenId> key(whole.begin(), whole.end());
  {
    const std::lock_guard lock(mutex);
    if (pins.contains(key)) return {};
  }
  DALSEGNO_ASSIGN(pinned, engine.pin(whole, options.salt));
  const std::lock_guard lock(mutex);
  pins.insert_or_assign(std::move(key), std::move(pinned));
  return {};
}

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
      // NOLINTNEXTLINE(modernize-make-unique): an aggregate
      new LogprobCache(std::unique_ptr<Impl>(new Impl{local, options, std::move(rows)})));
}

LogprobCache::Query LogprobCache::query(std::span<const TokenId> tokens) {
  const std::vector<TokenId> one(tokens.begin(), tokens.end());
  return query(std::span(&one, 1)).front();
}

std::vector<LogprobCache::Query> LogprobCache::query(std::span<const std::vector<TokenId>> batch) {
  impl_->distrust();
  std::vector<Query> queries;
  std::vector<Work> work;
  bool heads = false;
  for (const std::vector<TokenId>& tokens : batch) {
    if (Result<void> fits = impl_->engine.check_prompt(tokens); !fits.ok()) {
      queries.push_back(Query(std::make_shared<Query::State>(Query::State{nullptr, std::move(fits).error()})));
      continue;
    }
    const auto [row, needs] = impl_->rows->find(tokens);
    queries.push_back(Query(std::make_shared<Query::State>(Query::State{row, std::nullopt})));
    heads = heads || needs == LogprobRows::Needs::head;
    if (needs != LogprobRows::Needs::model) continue;
    const int size = static_cast<int>(tokens.size());
    work.push_back({std::make_shared<Probe>(impl_->rows, row, size), tokens, size - 1, impl_->options.chunk, true,
                    impl_->options.salt});
  }
  if (heads) std::make_shared<HeadRun>(impl_->engine, impl_->rows)->post();
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
  DALSEGNO_TRY(impl_->pin(prompt));
  if (prompt.size() % kBlockTokens == 0) return {};
  // What is left of it is less than a block, which any query that goes on from it takes along.
  auto waiter = std::make_shared<Waiter>();
  const int size = static_cast<int>(prompt.size());
  std::vector<Work> work;
  work.push_back({waiter, {prompt.begin(), prompt.end()}, size, impl_->options.chunk, true, impl_->options.salt});
  impl_->engine.scheduler().submit(std::move(work));
  DALSEGNO_TRY(waiter->wait());
  return {};
}

void LogprobCache::clear_cache() {
  impl_->rows->clear();
  clear_kv_cache();
}

void LogprobCache::clear_kv_cache() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->pins.clear();
  }
  impl_->engine.reset_cache();
}

LogprobStats LogprobCache::stats() const {
  return impl_->rows->stats();
}

}  // namespace dalsegno
