#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "dalsegno/diagnostics.hpp"
#include "runtime/local_engine.hpp"
#include "runtime/waiter.hpp"
#include "sampling/sampler.hpp"

namespace dalsegno {
namespace {

using Clock = std::chrono::steady_clock;

// Takes the most likely token `steps` times, and notes when the first and the last came.
class Decoding final : public Waiter {
 public:
  explicit Decoding(int steps) : steps_(steps) {}
  void prepare(int, std::span<const float> logits, std::span<const TokenId>) override { prepared_ = argmax(logits); }
  Decision on_logits(int, std::span<const float> logits, std::span<const TokenId>) override {
    const TokenId token = prepared_ ? *std::exchange(prepared_, std::nullopt) : argmax(logits);
    last = Clock::now();
    if (taken_++ == 0) first = last;
    return {taken_ > steps_ ? Decision::Kind::finish : Decision::Kind::append, token, FinishReason::length};
  }
  [[nodiscard]] bool complete() const { return taken_ == steps_ + 1; }
  Clock::time_point first;
  Clock::time_point last;

 private:
  const int steps_;
  std::optional<TokenId> prepared_;
  int taken_ = 0;
};

// Ordinary looking ids; `salt` makes them another text.
std::vector<TokenId> some_tokens(int count, int vocabulary, int salt) {
  std::vector<TokenId> ids(static_cast<std::size_t>(count));
  std::uint32_t state = 12345U + 7919U * static_cast<std::uint32_t>(salt);
  for (TokenId& id : ids) {
    state = state * 1664525U + 1013904223U;
    id = static_cast<TokenId>((state >> 8) % static_cast<std::uint32_t>(vocabulary));
  }
  return ids;
}

template <class R>
Result<void> run(LocalEngine& engine, std::vector<Work> work, const std::vector<std::shared_ptr<R>>& requests) {
  for (const Work& each : work) DALSEGNO_TRY(engine.check_prompt(each.tokens));
  engine.scheduler().submit(std::move(work));
  Result<void> all;
  for (const auto& request : requests) {
    if (Result<FinishReason> end = request->wait(); !end.ok()) all = std::move(end).error();
  }
  return all;
}

double seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

Result<TimedRun> time_prefill(Engine& engine, int tokens) {
  auto& local = dynamic_cast<LocalEngine&>(engine);
  const std::vector<std::shared_ptr<Decoding>> requests{std::make_shared<Decoding>(0)};
  std::vector<Work> work;
  work.push_back({requests[0], some_tokens(tokens, local.config().vocabulary, 0), tokens - 1, tokens, false});
  const Clock::time_point start = Clock::now();
  DALSEGNO_TRY(run(local, std::move(work), requests));
  return TimedRun{seconds(start, requests[0]->first), tokens};
}

Result<TimedRun> time_decode(Engine& engine, int depth, int batch, int tokens, bool shared) {
  auto& local = dynamic_cast<LocalEngine&>(engine);
  const int vocabulary = local.config().vocabulary;
  const int size = depth + 1;  // the last prompt token is what the first timed step continues from
  std::vector<std::vector<TokenId>> prompts;
  for (int i = 0; i < batch; ++i) {
    prompts.push_back(some_tokens(size, vocabulary, shared ? 0 : i));
    prompts.back().back() = static_cast<TokenId>(i % vocabulary);
  }
  // First each prefix, so that the timed requests start together.
  for (const auto& prompt : prompts) {
    const std::vector<std::shared_ptr<Waiter>> waiters{std::make_shared<Waiter>()};
    std::vector<Work> work;
    work.push_back({waiters[0], prompt, size, size, true});
    DALSEGNO_TRY(run(local, std::move(work), waiters));
  }
  std::vector<std::shared_ptr<Decoding>> requests;
  std::vector<Work> work;
  for (const auto& prompt : prompts) {
    requests.push_back(std::make_shared<Decoding>(tokens));
    work.push_back({requests.back(), prompt, size - 1, size, true});
  }
  DALSEGNO_TRY(run(local, std::move(work), requests));
  Clock::time_point first = requests[0]->first;
  Clock::time_point last = requests[0]->last;
  for (const auto& request : requests) {
    if (!request->complete()) {
      return Error{ErrorCode::exhausted, "the context ended before the steps that were to be timed; raise --context"};
    }
    first = std::max(first, request->first);
    last = std::max(last, request->last);
  }
  return TimedRun{seconds(first, last), tokens * batch};
}

}  // namespace dalsegno
