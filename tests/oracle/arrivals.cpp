#include "oracle/arrivals.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "oracle/guesser.hpp"
#include "runtime/prompt_cache_state.hpp"

namespace dalsegno::oracle {
namespace {

constexpr int kMostRequests = 32;   // of a wave
constexpr std::size_t kCaches = 6;  // kept for later requests
constexpr std::size_t kHistory = 12;
constexpr int kLongest = 300;  // tokens of a prompt
constexpr int kMostSteps = 48;
constexpr std::uint64_t kFileBuffers = 4ULL << 20;  // of saving and loading, at most
constexpr int kVocabulary = 264;
constexpr const char* kSalts[] = {"", "other", "third"};

}  // namespace

// Keeps the logits it is shown and follows the likeliest tokens.
class Arrivals::Arrival final : public Waiter {
 public:
  Arrival(int steps, std::string salt) : salt_(std::move(salt)), steps_(steps) {}
  Decision on_logits(int position, std::span<const float> logits, std::span<const TokenId> tokens) override {
    seen.logits[position] = bits_of(logits);
    seen.tokens.assign(tokens.begin(), tokens.end());
    if (position + 1 < static_cast<int>(tokens.size()) || steps_ == 0) return {};
    if (taken_++ == steps_) return {Decision::Kind::finish, 0, FinishReason::length};
    seen.tokens.push_back(likeliest(logits));
    return {Decision::Kind::append, seen.tokens.back(), FinishReason::length};
  }
  void on_drafted(int proposed, int accepted) override {
    right += accepted;
    wrong += proposed - accepted;
  }
  void on_finished(Result<FinishReason> outcome) override {
    ended_ = true;
    Waiter::on_finished(std::move(outcome));
  }
  [[nodiscard]] bool ended() const { return ended_; }
  [[nodiscard]] const std::string& salt() const { return salt_; }
  Seen seen;
  int right = 0;
  int wrong = 0;

 private:
  const std::string salt_;
  const int steps_;
  int taken_ = 0;
  std::atomic<bool> ended_{false};
};

Arrivals::Arrivals(const Setup& setup, std::uint32_t seed, Counts& counts)
    : random_(seed),
      counts_(counts),
      engine_(open(setup)),
      reference_(setup),
      file_(std::filesystem::temp_directory_path() / fmt::format("dalsegno-oracle-{}-{}", ::getpid(), seed)) {}

Arrivals::~Arrivals() {
  for (const auto& arrival : under_way_) static_cast<void>(arrival->wait());
  caches_.clear();
  engine_->scheduler().on_engine_thread([&](KvCache& cache) { cache.discard(std::move(ballast_)); });
  std::filesystem::remove(file_);
}

std::string Arrivals::run() {
  engine_->scheduler().on_engine_thread([&](KvCache& cache) {
    if (random_.one_in(8) || !ballast_.is_open()) set_room(cache);
    disturb_draft_model(*engine_, random_);
  });
  const int size = 1 + random_.below(random_.one_in(2) ? kMostRequests : 8);
  counts_.add("waves of more than 16 requests", size > 16 ? 1 : 0);
  for (int left = size; left > 0 || !under_way_.empty();) {
    if (left > 0) {
      std::vector<Work> together;
      for (int count = std::min(left, 1 + random_.below(4)); count > 0; --count, --left) together.push_back(arrival());
      engine_->scheduler().submit(std::move(together));
    }
    if (std::string wrong = let_time_pass(); !wrong.empty()) return wrong;
    if (std::string wrong = happen(); !wrong.empty()) return wrong;
    for (auto at = under_way_.begin(); at != under_way_.end();) {
      if (left > 0 && !(*at)->ended()) {
        ++at;
        continue;
      }
      if (std::string wrong = take(**at); !wrong.empty()) return wrong;
      at = under_way_.erase(at);
    }
  }
  return reference_.judge(std::exchange(seen_, {}));
}

CacheStats Arrivals::stats() {
  CacheStats stats;
  engine_->scheduler().on_engine_thread([&](KvCache& cache) { stats = cache.stats(); });
  return stats;
}

Tokens Arrivals::tokens(int count) {
  Tokens made;
  for (; count > 0; --count) made.push_back(random_.below(kVocabulary));
  return made;
}

// Something new, or what was said before and more, cut or changed somewhere; some begin as a cache does.
Tokens Arrivals::prompt() {
  Tokens made;
  if (!caches_.empty() && random_.one_in(4)) {
    const PromptCache& cache = caches_[static_cast<std::size_t>(random_.below(static_cast<int>(caches_.size())))];
    made.assign(cache.tokens().begin(), cache.tokens().end());
  } else if (!history_.empty() && !random_.one_in(5)) {
    made = history_[static_cast<std::size_t>(random_.below(static_cast<int>(history_.size())))];
  }
  const int length = static_cast<int>(made.size());
  if (length > 0 && random_.one_in(4)) made.resize(static_cast<std::size_t>(random_.below(length + 1)));
  if (!made.empty() && random_.one_in(8)) {
    made[static_cast<std::size_t>(random_.below(static_cast<int>(made.size())))] = random_.below(kVocabulary);
  }
  const Tokens more = tokens(1 + random_.below(random_.one_in(6) ? 120 : 20));
  made.insert(made.end(), more.begin(), more.end());
  if (std::cmp_greater(made.size(), kLongest)) made.resize(kLongest);
  return made;
}

Work Arrivals::arrival() {
  Tokens tokens = prompt();
  const int length = static_cast<int>(tokens.size());
  Work work;
  work.salt = kSalts[random_.one_in(3) ? random_.below(3) : 0];
  const auto made = std::make_shared<Arrival>(random_.one_in(4) ? 0 : random_.below(kMostSteps), work.salt);
  work.request = made;
  work.first_logit = random_.one_in(6) ? random_.below(length) : length - 1;
  work.chunk = random_.one_in(2) ? 512 : 1 + random_.below(40);
  work.reuse = !random_.one_in(12);
  work.drafter = random_.one_in(2) ? std::make_shared<Guesser>(random_.word()) : drafter_of_model(*engine_, work);
  if (random_.one_in(3)) work.scheduling.urgency = random_.below(5) - 2;
  for (const PromptCache& cache : caches_) {
    if (!work.reuse || cache.size() == 0 || cache.salt() != work.salt || random_.one_in(3)) continue;
    const auto given = cache.tokens();
    const auto shorter = static_cast<std::ptrdiff_t>(std::min(given.size(), tokens.size()));
    work.from = cache.state()->id;
    work.from_common =
        static_cast<int>(std::mismatch(given.begin(), given.begin() + shorter, tokens.begin()).first - given.begin());
    counts_.add("requests with a cache");
    counts_.add("requests that leave their cache half-way", work.from_common < static_cast<int>(given.size()) ? 1 : 0);
    break;
  }
  counts_.add("requests");
  counts_.add("requests without reuse", work.reuse ? 0 : 1);
  counts_.add("requests of another tenant", work.salt.empty() ? 0 : 1);
  counts_.add("prompts in chunks", work.chunk < length ? 1 : 0);
  counts_.add("requests more or less urgent", work.scheduling.urgency != 0 ? 1 : 0);
  work.tokens = std::move(tokens);
  under_way_.push_back(made);
  ++requests_;
  return work;
}

// A few steps, after each of which the cache is sound.
std::string Arrivals::let_time_pass() {
  std::string wrong;
  for (int steps = random_.below(6); steps > 0 && wrong.empty(); --steps) {
    engine_->scheduler().on_engine_thread([&](KvCache& cache) { wrong = cache.check_invariants(); });
  }
  return wrong;
}

void Arrivals::keep_cache(Result<PromptCache> cache) {
  if (!cache.ok()) {
    caches_.clear();
    return;
  }
  if (caches_.size() == kCaches) caches_.erase(caches_.begin() + random_.below(kCaches));
  caches_.push_back(std::move(cache).value());
  // Beside them the longest request has room. In pages, since each of them has a window of its own, and with the last,
  // partial block, which no pin counts.
  const auto held = [&] { return stats().pages_pinned + caches_.size() * partial_; };
  while (held() > longest_) caches_.erase(caches_.begin());
}

std::string Arrivals::happen() {
  if (!under_way_.empty() && random_.one_in(4)) {
    under_way_[static_cast<std::size_t>(random_.below(static_cast<int>(under_way_.size())))]->cancel();
    counts_.add("cancels");
  }
  if (!under_way_.empty() && random_.one_in(4)) {
    Arrival& arrival = *under_way_[static_cast<std::size_t>(random_.below(static_cast<int>(under_way_.size())))];
    const std::uint64_t id = engine_->next_held();
    auto held = engine_->scheduler().hold_running(id, arrival);
    if (held.ok()) {
      counts_.add("caches taken from requests on their way");
      keep_cache(PromptCache(
          std::make_shared<const PromptCache::State>(*engine_, id, arrival.salt(), std::move(held).value())));
    }
  }
  if (random_.one_in(12)) {
    keep_cache(PromptCache::make(*engine_, prompt(), kSalts[random_.below(2)]));
    counts_.add("caches made");
  }
  if (!caches_.empty() && random_.one_in(8)) {
    PromptCache& cache = caches_[static_cast<std::size_t>(random_.below(static_cast<int>(caches_.size())))];
    (void)cache.trim(random_.below(cache.size() + 1));
    counts_.add("caches trimmed");
  }
  if (random_.one_in(40)) engine_->reset_cache();
  if (!caches_.empty() && random_.one_in(12)) return save_and_load();
  return {};
}

std::string Arrivals::save_and_load() {
  const PromptCache cache = caches_[static_cast<std::size_t>(random_.below(static_cast<int>(caches_.size())))];
  if (cache.size() == 0) return {};
  const std::string salt = cache.salt();
  buffers_.reset();  // files need room beside the pages
  if (auto saved = cache.save(file_.string()); !saved.ok()) {
    return saved.error().code == ErrorCode::exhausted ? "" : saved.error().message;
  }
  if (random_.one_in(2)) {
    caches_.clear();
    engine_->reset_cache();
  }
  auto loaded = PromptCache::load(*engine_, file_.string(), salt);
  if (!loaded.ok() && loaded.error().code != ErrorCode::exhausted) return loaded.error().message;
  counts_.add("caches loaded", loaded.ok() ? 1 : 0);
  if (loaded.ok() && !std::ranges::equal(loaded->tokens(), cache.tokens()))
    return "a cache came back with other tokens";
  keep_cache(std::move(loaded));
  set_files_apart();
  return {};
}

void Arrivals::set_files_apart() {
  auto apart = engine_->memory().budget().reserve(MemoryKind::work, kFileBuffers, "files");
  if (apart.ok()) buffers_ = std::move(apart).value();
}

std::string Arrivals::take(Arrival& arrival) {
  const Result<FinishReason> end = arrival.wait();
  if (!end.ok()) return end.error().message;
  counts_.add("cancelled", *end == FinishReason::cancelled ? 1 : 0);
  counts_.add("guesses right", static_cast<std::uint64_t>(arrival.right));
  counts_.add("guesses wrong", static_cast<std::uint64_t>(arrival.wrong));
  counts_.add("tokens reused", static_cast<std::uint64_t>(arrival.admission().reused));
  counts_.add("stopped by what was evicted", arrival.admission().stopped == Stopped::evicted ? 1 : 0);
  if (arrival.seen.logits.empty()) return {};
  history_.push_back(arrival.seen.tokens);
  if (history_.size() > kHistory) history_.erase(history_.begin() + random_.below(kHistory));
  seen_.push_back(arrival.seen);
  seen_.back().reused = arrival.admission().reused;
  return {};
}

// Room for about two of the longest requests, so that of many that run together some must give way. What caches keep
// could take half of all pages, so the rest of them is this sequence's.
void Arrivals::set_room(KvCache& cache) {
  caches_.clear();
  cache.discard(std::move(ballast_));
  if (!buffers_) set_files_apart();
  partial_ = 2 * static_cast<std::uint64_t>(cache.layout().most_pages_in_block());
  longest_ = cache.layout().pages_for(kLongest + kMostSteps, kLongest + kMostSteps);
  ballast_ = cache.open_private();
  const std::uint64_t spare = longest_ * static_cast<std::uint64_t>(2 + random_.below(3));
  while (cache.could_fit(spare + partial_) &&
         cache.extend(ballast_, ballast_.capacity() - ballast_.tokens() + kBlockTokens).ok()) {
  }
}

}  // namespace dalsegno::oracle
