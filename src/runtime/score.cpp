#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <memory>

#include "dalsegno/diagnostics.hpp"
#include "runtime/local_engine.hpp"
#include "runtime/waiter.hpp"
#include "sampling/sampler.hpp"

namespace dalsegno {
namespace {

// SHA-256 in pieces.
class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new()) { EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr); }
  void add(std::span<const float> values) { EVP_DigestUpdate(context_.get(), values.data(), values.size_bytes()); }
  std::string hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int bytes = 0;
    EVP_DigestFinal_ex(context_.get(), digest, &bytes);
    std::string text;
    for (unsigned int i = 0; i < bytes; ++i) text += fmt::format("{:02x}", digest[i]);
    return text;
  }

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context_;
};

// Sees the logits of every position from options.from on, in order.
class Scoring final : public Waiter {
 public:
  Scoring(const std::vector<TokenId>& ids, const ScoreOptions& options) : ids_(ids), options_(options) {}

  Decision on_logits(int position, std::span<const float> logits, std::span<const TokenId>) override {
    if (options_.hash) sha_.add(logits);
    const auto next = static_cast<std::size_t>(position) + 1;
    const bool listed = std::find(options_.at.begin(), options_.at.end(), position) != options_.at.end();
    const bool scored = options_.nll && next < ids_.size();
    if (!listed && !scored) return {};
    LogProbs probs = log_probs(logits, listed ? options_.top : 0);
    if (scored)
      result_.nll.push_back(probs.log_sum_exp - static_cast<double>(logits[static_cast<std::size_t>(ids_[next])]));
    if (listed) result_.positions.push_back({position, std::move(probs.top)});
    return {};
  }

  // After wait().
  ScoreResult result() {
    if (options_.hash) result_.hash = sha_.hex();
    const int size = static_cast<int>(ids_.size());
    result_.usage = {size, admission().reused, size - admission().reused, 0};
    result_.reuse = admission().report();
    return std::move(result_);
  }

 private:
  const std::vector<TokenId>& ids_;
  const ScoreOptions& options_;
  ScoreResult result_;
  Sha256 sha_;
};

Result<void> check(const std::vector<TokenId>& ids, const ScoreOptions& options) {
  const int size = static_cast<int>(ids.size());
  for (const int at : options.at) {
    if (at >= options.from && at < size) continue;
    return Error{ErrorCode::invalid_argument,
                 fmt::format("position {} is not among the scored ones, {} to {}", at, options.from, size - 1)};
  }
  if (options.from < 0 || options.from >= size) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("scoring cannot begin at position {} of {} tokens", options.from, size)};
  }
  if (options.warm < 0 || options.warm > size) {
    return Error{ErrorCode::invalid_argument, fmt::format("{} of {} tokens cannot be warmed", options.warm, size)};
  }
  if (options.chunk < 1 || options.top < 0)
    return Error{ErrorCode::invalid_argument, "the chunk must be at least 1 token and top at least 0"};
  return {};
}

// Computes the K/V of the first `count` tokens, as another request would.
Result<void> warm(LocalEngine& engine, const std::vector<TokenId>& ids, int count, int chunk) {
  if (count == 0) return {};
  auto waiter = std::make_shared<Waiter>();
  std::vector<Work> work;
  work.push_back({waiter, {ids.begin(), ids.begin() + count}, count, chunk, true});
  engine.scheduler().submit(std::move(work));
  if (Result<FinishReason> end = waiter->wait(); !end.ok()) return std::move(end).error();
  return {};
}

}  // namespace

Result<ScoreResult> score(Engine& engine, const std::vector<TokenId>& ids, const ScoreOptions& options) {
  auto& local = dynamic_cast<LocalEngine&>(engine);
  DALSEGNO_TRY(local.check_prompt(ids));
  DALSEGNO_TRY(check(ids, options));
  DALSEGNO_TRY(warm(local, ids, options.warm, options.chunk));
  if (options.evict) engine.reset_cache();
  auto scoring = std::make_shared<Scoring>(ids, options);
  std::vector<Work> work;
  work.push_back({scoring, ids, options.from, options.chunk, true});
  local.scheduler().submit(std::move(work));
  if (Result<FinishReason> end = scoring->wait(); !end.ok()) return std::move(end).error();
  return scoring->result();
}

}  // namespace dalsegno
