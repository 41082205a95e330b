#include "dalsegno/batch.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>

#include "runtime/continuation.hpp"
#include "runtime/local_engine.hpp"
#include "runtime/prompt_cache_state.hpp"

namespace dalsegno {
namespace {

constexpr std::size_t kMostAhead = 16;

class Member;

// What the engine thread and the reader of a batch share.
struct Inbox {
  std::mutex mutex;
  std::condition_variable changed;
  // Guarded by mutex.
  std::map<std::uint64_t, std::shared_ptr<Member>> members;
  std::uint64_t next_uid = 0;
  std::size_t told = 0;  // responses that these members hold

  // Engine thread only: the responses of a step, so that its reader is woken once. A member's are told before its end.
  std::vector<std::pair<Member*, BatchResponse>> noted;
  void tell_noted();
};

// One request of a batch.
class Member final : public Request {
 public:
  Member(std::uint64_t uid, const BatchRequest& request, std::shared_ptr<Inbox> inbox, LocalEngine& engine,
         std::unique_ptr<ConstrainedText> constrained)
      : uid_(uid),
        inbox_(std::move(inbox)),
        engine_(engine),
        salt_(request.options.salt),
        given_(request.cache),
        held_(request.keep_cache ? engine.next_held() : 0),
        continuation_(request.prompt.size(), request.options, engine.continuing(std::move(constrained))),
        tokens_(request.prompt) {
    usage_.prompt_tokens = static_cast<int>(request.prompt.size());
  }
  // By which the scheduler holds its cache in the end; 0: it does not.
  [[nodiscard]] std::uint64_t held() const { return held_; }

  void on_admitted(const Admission& admission) override {
    usage_.reused_tokens = admission.reused;
    reuse_ = admission.report();
  }
  void on_progress(int done, int /*total*/) override { usage_.prefilled_tokens = done - usage_.reused_tokens; }

  void prepare(int position, std::span<const float> logits, std::span<const TokenId> tokens) override {
    continuation_.prepare(position, logits, tokens);
  }
  Decision on_logits(int position, std::span<const float> logits, std::span<const TokenId> tokens) override {
    Continuation::Next next = continuation_.next(position, logits, tokens);
    usage_.prefilled_tokens = usage_.prompt_tokens - usage_.reused_tokens;
    if (take(next)) return {Decision::Kind::finish, next.token, *next.finish};
    Decision decision{Decision::Kind::append, next.token, FinishReason::stop};
    while (std::optional<Continuation::Next> forced = continuation_.forced()) {
      if (take(*forced)) return ended(std::move(decision), *forced->finish);
      decision.forced.push_back(forced->token);
    }
    return decision;
  }

  void on_drafted(int proposed, int accepted) override {
    usage_.proposed_tokens += proposed;
    usage_.accepted_tokens += accepted;
  }

  void on_held(const Result<int>& tokens) override {
    if (!tokens.ok()) {
      cache_refusal_ = tokens.error().message;
      return;
    }
    tokens_.resize(static_cast<std::size_t>(tokens.value()));
    cache_ = PromptCache(std::make_shared<const PromptCache::State>(engine_, held_, salt_, std::move(tokens_)));
  }

  void on_finished(Result<FinishReason> outcome) override {
    BatchResponse end = last_ ? std::move(*last_) : BatchResponse{.uid = uid_};
    end.cache = std::exchange(cache_, std::nullopt);
    end.cache_refusal = cache_refusal_;
    given_ = {};
    end.text += continuation_.rest();
    end.finish_reason = outcome.ok() ? outcome.value() : FinishReason::error;
    if (end.finish_reason == FinishReason::deadline && held_ != 0 && !end.cache && end.cache_refusal.empty()) {
      end.cache_refusal = "the deadline passed while the request waited for its turn, with no K/V of its own";
    }
    if (!outcome.ok()) end.error = std::move(outcome).error();
    if (!end.error && end.finish_reason == FinishReason::error) {
      end.error = Error{ErrorCode::invalid_argument, continuation_.failure()};
    }
    note(std::move(end));
    inbox_->tell_noted();
  }

  Result<PromptCache> extract() {
    const std::uint64_t id = engine_.next_held();
    DALSEGNO_ASSIGN(tokens, engine_.scheduler().hold_running(id, *this));
    return PromptCache(std::make_shared<const PromptCache::State>(engine_, id, salt_, std::move(tokens)));
  }

  void on_step_end() override { inbox_->tell_noted(); }

  bool wants_more() override {
    const std::lock_guard lock(inbox_->mutex);
    return told_.size() < kMostAhead;
  }
  int most_wanted() override {
    const std::lock_guard lock(inbox_->mutex);
    return static_cast<int>(kMostAhead) - static_cast<int>(told_.size());
  }

  // Guarded by the inbox's mutex.
  std::deque<BatchResponse>& told() { return told_; }

 private:
  // True if it ends the request: the token is told with the end.
  bool take(Continuation::Next& next) {
    usage_.reply_tokens += next.in_reply ? 1 : 0;
    if (next.finish == FinishReason::dead_end || (next.finish == FinishReason::error && !next.in_reply)) return true;
    BatchResponse told{.uid = uid_, .token = next.token, .logprob = next.logprob, .text = std::move(next.text)};
    if (next.finish) {
      last_ = std::move(told);
      return true;
    }
    note(std::move(told));
    tokens_.push_back(next.token);
    return false;
  }
  void note(BatchResponse response) {
    response.usage = usage_;
    response.reuse = reuse_;
    inbox_->noted.emplace_back(this, std::move(response));
  }

  const std::uint64_t uid_;
  const std::shared_ptr<Inbox> inbox_;
  LocalEngine& engine_;
  const std::string salt_;
  PromptCache given_;  // stays held until the end
  const std::uint64_t held_;

  // Engine thread only.
  Continuation continuation_;
  std::vector<TokenId> tokens_;  // the prompt's and the reply's
  std::optional<PromptCache> cache_;
  std::string cache_refusal_;
  Usage usage_;
  Reuse reuse_;
  std::optional<BatchResponse> last_;  // a token with which the request ends

  std::deque<BatchResponse> told_;
};

void Inbox::tell_noted() {
  if (noted.empty()) return;
  {
    const std::lock_guard lock(mutex);
    for (auto& [member, response] : noted) {
      const auto at = members.find(response.uid);
      if (at == members.end() || at->second.get() != member) continue;  // removed
      member->told().push_back(std::move(response));
      ++told;
    }
  }
  noted.clear();
  changed.notify_all();
}

Error no_request(std::uint64_t uid) {
  return Error{ErrorCode::not_found, fmt::format("there is no request with uid {}; it may have ended", uid)};
}

int common_tokens(std::span<const TokenId> a, std::span<const TokenId> b) {
  const auto shorter = static_cast<std::ptrdiff_t>(std::min(a.size(), b.size()));
  return static_cast<int>(std::mismatch(a.begin(), a.begin() + shorter, b.begin()).first - a.begin());
}

Result<void> check_cache(const BatchRequest& request, const LocalEngine& engine) {
  if (request.cache.size() == 0) return {};
  if (&request.cache.state()->engine != &engine) {
    return Error{ErrorCode::invalid_argument,
                 "the cache given with a request belongs to another engine; save it and load it here"};
  }
  if (request.cache.salt() != request.options.salt) {
    return Error{ErrorCode::invalid_argument, "the cache given with a request has another salt than the request"};
  }
  if (!request.options.reuse) {
    return Error{ErrorCode::invalid_argument, "a request with a cache cannot have reuse off; leave one of them out"};
  }
  return {};
}

}  // namespace

struct BatchGenerator::Impl {
  LocalEngine& engine;
  const std::shared_ptr<Inbox> inbox = std::make_shared<Inbox>();
};

BatchGenerator::BatchGenerator(Engine& engine)
    : impl_(std::make_unique<Impl>(Impl{dynamic_cast<LocalEngine&>(engine)})) {}

BatchGenerator::~BatchGenerator() {
  std::map<std::uint64_t, std::shared_ptr<Member>> left;
  {
    const std::lock_guard lock(impl_->inbox->mutex);
    left.swap(impl_->inbox->members);
  }
  for (const auto& entry : left) entry.second->cancel();
}

Result<PromptCache> BatchGenerator::extract_cache(std::uint64_t uid) {
  std::shared_ptr<Member> member;
  {
    const std::lock_guard lock(impl_->inbox->mutex);
    const auto at = impl_->inbox->members.find(uid);
    if (at == impl_->inbox->members.end()) return no_request(uid);
    member = at->second;
  }
  return member->extract();
}

Result<PromptCache> BatchGenerator::remove_with_cache(std::uint64_t uid) {
  DALSEGNO_ASSIGN(cache, extract_cache(uid));
  DALSEGNO_TRY(remove(uid));
  return cache;
}

Result<std::vector<std::uint64_t>> BatchGenerator::insert(std::vector<BatchRequest> requests) {
  for (const BatchRequest& request : requests) {
    DALSEGNO_TRY(impl_->engine.check_prompt(request.prompt));
    DALSEGNO_TRY(impl_->engine.check_options(request.options));
    DALSEGNO_TRY(check_cache(request, impl_->engine));
  }
  std::vector<std::unique_ptr<ConstrainedText>> constrained;
  for (const BatchRequest& request : requests) {
    DALSEGNO_ASSIGN(text, impl_->engine.constrain(request.options, request.prompt));
    constrained.push_back(std::move(text));
  }
  std::vector<std::uint64_t> uids;
  std::vector<Work> work;
  Inbox& inbox = *impl_->inbox;
  {
    const std::lock_guard lock(inbox.mutex);
    std::set<std::uint64_t> wanted;
    for (const BatchRequest& request : requests) {
      if (!request.uid || (!inbox.members.contains(*request.uid) && wanted.insert(*request.uid).second)) continue;
      return Error{ErrorCode::invalid_argument,
                   fmt::format("uid {} is in use; take another, or wait for that request's end", *request.uid)};
    }
    for (std::size_t i = 0; i < requests.size(); ++i) {
      BatchRequest& request = requests[i];
      while (!request.uid && (inbox.members.contains(inbox.next_uid) || wanted.contains(inbox.next_uid)))
        ++inbox.next_uid;
      const std::uint64_t uid = request.uid ? *request.uid : inbox.next_uid++;
      const auto member =
          std::make_shared<Member>(uid, request, impl_->inbox, impl_->engine, std::move(constrained[i]));
      inbox.members.emplace(uid, member);
      uids.push_back(uid);
      const int last = static_cast<int>(request.prompt.size()) - 1;
      const GenerateOptions& options = request.options;
      const int common = common_tokens(request.cache.tokens(), request.prompt);
      const std::uint64_t from = common == 0 ? 0 : request.cache.state()->id;
      work.push_back({.request = member,
                      .tokens = std::move(request.prompt),
                      .first_logit = last,
                      .chunk = options.chunk,
                      .reuse = options.reuse,
                      .salt = options.salt,
                      .retention = options.retention,
                      .from = from,
                      .from_common = common,
                      .hold = member->held(),
                      .scheduling = options.scheduling,
                      .drafter = impl_->engine.drafter_for(options),
                      .most_reply = options.max_tokens});
    }
    // Within the lock: nobody may cancel what is not submitted yet.
    impl_->engine.scheduler().submit(std::move(work));
  }
  return uids;
}

std::vector<BatchResponse> BatchGenerator::next() {
  std::vector<BatchResponse> responses;
  std::vector<std::shared_ptr<Member>> held;  // that the engine waits with, for this
  {
    Inbox& inbox = *impl_->inbox;
    std::unique_lock lock(inbox.mutex);
    inbox.changed.wait(lock, [&] { return inbox.members.empty() || inbox.told > 0; });
    for (auto at = inbox.members.begin(); at != inbox.members.end();) {
      std::deque<BatchResponse>& told = at->second->told();
      const bool was_full = told.size() >= kMostAhead;
      if (!told.empty()) {
        responses.push_back(std::move(told.front()));
        told.pop_front();
        --inbox.told;
      }
      if (was_full) held.push_back(at->second);
      const bool ended = !responses.empty() && responses.back().uid == at->first && responses.back().finish_reason;
      at = ended ? inbox.members.erase(at) : std::next(at);
    }
  }
  for (const auto& member : held) member->resume();
  return responses;
}

Result<void> BatchGenerator::remove(std::uint64_t uid) {
  std::shared_ptr<Member> member;
  {
    const std::lock_guard lock(impl_->inbox->mutex);
    const auto at = impl_->inbox->members.find(uid);
    if (at == impl_->inbox->members.end()) {
      return no_request(uid);
    }
    member = at->second;
    impl_->inbox->told -= member->told().size();
    impl_->inbox->members.erase(at);
  }
  member->cancel();
  impl_->inbox->changed.notify_all();
  return {};
}

}  // namespace dalsegno
