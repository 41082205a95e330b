#include "oracle/conversations.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "oracle/guesser.hpp"

namespace dalsegno::oracle {
namespace {

constexpr std::size_t kHistory = 24;  // conversations that another may go on from
constexpr int kLongest = 600;         // tokens of a prompt
constexpr int kMostSteps = 20;        // tokens of a reply
constexpr int kVocabulary = 264;

int most_blocks(const KvCache& cache) {
  int fits = 0;
  for (int too_many = 1 << 22; too_many - fits > 1;) {
    const int middle = fits + (too_many - fits) / 2;
    const int tokens = middle * kBlockTokens;
    (cache.could_fit(cache.layout().pages_for(tokens, tokens)) ? fits : too_many) = middle;
  }
  return fits;
}

}  // namespace

// Keeps the logits it is shown, follows the likeliest tokens, and may give up on the way.
class Conversations::Follower final : public Waiter {
 public:
  Follower(int steps, int quits_after) : steps_(steps), quits_after_(quits_after) {}
  void on_progress(int done, int) override {
    if (quits_after_ >= 0 && done >= quits_after_) cancel();
  }
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
  Seen seen;
  int right = 0;
  int wrong = 0;

 private:
  const int steps_;
  const int quits_after_;
  int taken_ = 0;
};

Conversations::Conversations(const Setup& setup, std::uint32_t seed, Counts& counts)
    : setup_(setup),
      random_(seed),
      counts_(counts),
      engine_(open(setup)),
      reference_(setup),
      branches_(*engine_, random_, counts) {}

Conversations::~Conversations() {
  branches_.drop_all();
  engine_->scheduler().on_engine_thread([&](KvCache& cache) { cache.discard(std::move(ballast_)); });
}

std::string Conversations::tree() {
  if (std::string wrong = disturb(); !wrong.empty()) return wrong;
  few_tokens_ = random_.one_in(2);
  remember(tail(1 + random_.below(100)));
  for (int rounds = 2 + random_.below(3); rounds > 0; --rounds) {
    if (std::string wrong = batch(); !wrong.empty()) return wrong;
    for (int acts = random_.below(5); acts > 0; --acts, ++steps_) {
      const std::size_t before = seen_.size();
      if (std::string wrong = branches_.act(branch(), seen_); !wrong.empty()) return wrong;
      if (seen_.size() > before && random_.one_in(2)) remember(seen_.back().tokens);
    }
  }
  if (random_.one_in(2)) branches_.drop_all();
  if (random_.one_in(16)) {
    if (std::string wrong = audit(); !wrong.empty()) return wrong;
  }
  return reference_.judge(std::exchange(seen_, {}));
}

std::uint64_t Conversations::drafted() {
  const std::array counts = engine_->draft_report().value_or(DraftReport()).proposed;
  return std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
}

CacheStats Conversations::stats() {
  CacheStats stats;
  engine_->scheduler().on_engine_thread([&](KvCache& cache) { stats = cache.stats(); });
  return stats;
}

Tokens Conversations::tail(int count) {
  Tokens tokens;
  for (; count > 0; --count) tokens.push_back(random_.below(few_tokens_ ? 3 : kVocabulary));
  return tokens;
}

void Conversations::remember(Tokens tokens) {
  history_.push_back(std::move(tokens));
  if (history_.size() > kHistory) history_.erase(history_.begin() + random_.below(kHistory));
}

// A new branch, or an earlier conversation with one token changed.
Tokens Conversations::branch() {
  // Mostly of this tree: what was said last.
  const int size = static_cast<int>(history_.size());
  const int back = random_.one_in(5) ? random_.below(size) : random_.below(std::min(size, 6));
  Tokens tokens = history_[static_cast<std::size_t>(size - 1 - back)];
  const int length = static_cast<int>(tokens.size());
  const int dice = random_.below(8);
  if (dice < 2) {
    tokens[static_cast<std::size_t>(random_.below(length))] = random_.below(kVocabulary);
    counts_.add("edits");
  } else if (dice < 4) {
    tokens.resize(static_cast<std::size_t>(random_.below(length + 1)));
  } else {
    counts_.add("turns");
  }
  const Tokens more = tail(1 + random_.below(random_.one_in(12) ? 300 : 30));
  tokens.insert(tokens.end(), more.begin(), more.end());
  if (std::cmp_greater(tokens.size(), kLongest)) tokens.resize(kLongest);
  return tokens;
}

// Leaves another number of pages free, and in them what other sequences may have left behind.
std::string Conversations::disturb() {
  std::string wrong;
  engine_->scheduler().on_engine_thread([&](KvCache& cache) {
    if (random_.one_in(12)) cache.clear();
    if (random_.one_in(12) || !ballast_.is_open()) set_room(cache);
    if (random_.one_in(4)) junk(cache);
    disturb_draft_model(*engine_, random_);
    wrong = cache.check_invariants();
  });
  return wrong;
}

// All pages but a few belong to a sequence that does nothing. The longest request fits: it would wait for ever. Its
// first blocks may take more pages than the last ones, which are spared.
void Conversations::set_room(KvCache& cache) {
  const std::uint64_t longest = cache.layout().pages_for(kLongest + kMostSteps, kLongest + kMostSteps);
  cache.discard(std::move(ballast_));
  const int blocks = most_blocks(cache);
  for (int spare = random_.one_in(3) ? 300 : 45 + random_.below(60);; spare += 20) {
    ballast_ = cache.open_private();
    const bool held = cache.extend(ballast_, std::max(0, blocks - spare) * kBlockTokens).ok();
    if (!held) cache.clear();
    if (spare >= blocks || (held && cache.could_fit(longest))) return;
    cache.discard(std::move(ballast_));
  }
}

void Conversations::junk(KvCache& cache) {
  const KvFormat format = cache.layout().format;
  if (format != KvFormat::bf16 && format != KvFormat::f32) return;  // scales of codes are not any bytes
  BlockTable table = cache.open_private();
  if (!cache.extend(table, (1 + random_.below(20)) * kBlockTokens).ok()) return;
  const KvView view = cache.view(table);
  for (int slice = 0; slice < view.layout->division.slices; ++slice) {
    for (int page = 0; page < view.page_count; ++page) {
      auto* words = reinterpret_cast<std::uint32_t*>(view.pages[static_cast<std::size_t>(slice)][page]);
      for (std::size_t i = 0; i < view.layout->page_bytes() / 4; ++i) {
        // Finite, as f32 and as two of bf16.
        words[i] = random_.word() & 0xbfffbfffU;
      }
    }
  }
  cache.discard(std::move(table));
  counts_.add("pages with residues");
}

std::string Conversations::batch() {
  const int size = 1 + random_.below(4);
  const Tokens common = branch();
  std::vector<std::shared_ptr<Follower>> followers;
  std::vector<Work> work;
  for (int i = 0; i < size; ++i) {
    Tokens tokens = random_.one_in(3) ? common : branch();
    const int length = static_cast<int>(tokens.size());
    const int from = random_.one_in(3) ? random_.below(length) : length - 1;
    const int quits = random_.one_in(6) ? random_.below(length + 10) : -1;
    followers.push_back(std::make_shared<Follower>(random_.one_in(3) ? 0 : random_.below(kMostSteps), quits));
    Work one{followers.back(), std::move(tokens), from};
    one.chunk = 1 + random_.below(random_.one_in(2) ? 600 : 60);
    one.reuse = !random_.one_in(10);
    if (random_.one_in(8)) one.salt = "other";
    one.drafter = random_.one_in(2) ? std::make_shared<Guesser>(random_.word()) : drafter_of_model(*engine_, one);
    if (random_.one_in(4)) one.scheduling.urgency = random_.below(5) - 2;
    counts_.add("requests without reuse", one.reuse ? 0 : 1);
    counts_.add("requests of another tenant", one.salt.empty() ? 0 : 1);
    counts_.add("requests more or less urgent", one.scheduling.urgency != 0 ? 1 : 0);
    counts_.add("prompts in chunks", one.chunk < length ? 1 : 0);
    work.push_back(std::move(one));
  }
  branches_.leave_room(kLongest + kMostSteps);
  counts_.add("requests at once", size > 1 ? static_cast<std::uint64_t>(size) : 0);
  engine_->scheduler().submit(std::move(work));
  for (const auto& follower : followers) {
    if (std::string wrong = take(*follower, follower->wait()); !wrong.empty()) return wrong;
  }
  return invariants();
}

std::string Conversations::take(const Follower& follower, Result<FinishReason> end) {
  ++steps_;
  if (!end.ok()) return end.error().message;
  const Admission& admission = follower.admission();
  counts_.add("requests");
  counts_.add("cancelled", *end == FinishReason::cancelled ? 1 : 0);
  counts_.add("guesses right", static_cast<std::uint64_t>(follower.right));
  counts_.add("guesses wrong", static_cast<std::uint64_t>(follower.wrong));
  counts_.add("tokens reused", static_cast<std::uint64_t>(admission.reused));
  counts_.add("resumed within a block", admission.reused % kBlockTokens > 0 ? 1 : 0);
  counts_.add("stopped by a window", admission.stopped == Stopped::window ? 1 : 0);
  counts_.add("stopped by what was evicted", admission.stopped == Stopped::evicted ? 1 : 0);
  if (follower.seen.logits.empty()) return {};
  remember(follower.seen.tokens);
  seen_.push_back(follower.seen);
  seen_.back().reused = admission.reused;
  return {};
}

std::string Conversations::invariants() {
  std::string wrong;
  engine_->scheduler().on_engine_thread([&](KvCache& cache) { wrong = cache.check_invariants(); });
  return wrong;
}

std::string Conversations::audit() {
  const AuditReport before = engine_->scheduler().audit(0);
  const AuditReport report = engine_->scheduler().audit(2);
  counts_.add("blocks audited", report.checked - before.checked);
  if (report.mismatched > 0) return report.last_mismatch;
  return invariants();
}

}  // namespace dalsegno::oracle
