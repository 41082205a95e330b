#include "runtime/scheduler.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>

namespace dalsegno {
namespace {

// Sequences of one step at most; more wait. Their tables and the step's lists stay small.
constexpr std::size_t kMaxRunning = 256;
// Steps of at least this many rows say what a prompt token takes; each counts for a quarter of the mean.
constexpr int kMeasuredRows = 64;
// However long a prompt token takes, this many go into a step beside tokens of replies: a block, so that prompts get
// on.
constexpr int kLeastChunk = 16;
constexpr double kNewestStep = 0.25;
// Of the time that a step with replies may take for prompts, what is aimed at, since a step may take longer than those
// before it: by a third on a quiet machine, more on one that others use as well.
constexpr double kAim = 0.7;
// An engine is idle when nothing came for so long: only then, and once per pause, a block is audited.
constexpr std::chrono::milliseconds kIdle{20};
// How long an engine that runs nothing waits before it asks the others for memory again.
constexpr std::chrono::milliseconds kAskAgain{10};
// After so many answers, others that run nothing have given up what they could.
constexpr int kAsks = 10;
// A deadline as far away as this, in seconds, is none: 30 years.
constexpr double kForever = 1e9;

}  // namespace

Scheduler::Scheduler(const Parts& parts)
    : parts_(parts),
      audit_(*parts_.cache, *parts_.model, *parts_.backend, parts_.audit_share),
      held_(*parts_.cache),
      thread_([this] { run(); }) {}

Scheduler::~Scheduler() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Scheduler::submit(std::vector<Work> work) {
  for (Work& each : work) {
    each.submitted = FairOrder::Clock::now();
    each.request->on_submitted([this] { wake(); });
  }
  {
    const std::lock_guard lock(mutex_);
    for (Work& each : work) incoming_.push_back(std::move(each));
  }
  wake_.notify_all();
}

void Scheduler::wake() {
  {
    const std::lock_guard lock(mutex_);
    woken_ = true;
  }
  wake_.notify_all();
}

void Scheduler::run() {
  while (wait_for_work()) {
    if (has_work() && !use_.is_on()) begin_use();
    drop_ended();
    admit();
    if (!running_.empty()) step();
    if (!has_work()) end_use();
  }
  use_.end();
  for (SequencePtr& sequence : running_) {
    sequence->outcome = FinishReason::cancelled;
    finish(*sequence);
  }
  for (SequencePtr& sequence : following_) sequence->work.request->on_finished(FinishReason::cancelled);
  for (SequencePtr& sequence : waiting_) sequence->work.request->on_finished(FinishReason::cancelled);
}

void Scheduler::begin_use() {
  use_ = parts_.memory->use();
  parts_.memory->set_kept(parts_.holder, 0);
}

// Also after a call while nothing ran, which may have pinned or released something. An extent with a page that is kept
// is kept whole; of how many that is true is known once nothing else is left.
void Scheduler::end_use() {
  const CacheStats stats = parts_.cache->stats();
  std::uint64_t pages = stats.pages_used - stats.pages_evictable;
  if (pages > 0 && stats.pages_evictable == 0) pages += stats.pages_free;
  const std::uint64_t kept = pages * parts_.cache->page_stride();
  if (std::exchange(kept_, kept) != kept || use_.is_on()) parts_.memory->set_kept(parts_.holder, kept);
  use_.end();
}

// Takes what was queued; sleeps while there is nothing to do. False when the scheduler stops.
bool Scheduler::wait_for_work() {
  std::vector<Work> arrived;
  std::vector<std::function<void(KvCache&)>> calls;
  bool stopping = false;
  {
    std::unique_lock lock(mutex_);
    if (waits_for_others_) {
      wake_.wait_for(lock, kAskAgain, [&] { return stopping_ || !incoming_.empty(); });
      waits_for_others_ = false;
      room_changed_ = true;
    }
    const auto is_wanted = [&] {
      return stopping_ || woken_ || !incoming_.empty() || !calls_.empty() || (has_work() && !all_wait_);
    };
    if (const auto deadline = all_wait_ ? next_deadline() : std::nullopt; deadline) {
      wake_.wait_until(lock, *deadline, is_wanted);
    } else if (!audit_.is_due() || all_wait_) {
      wake_.wait(lock, is_wanted);
    } else if (!wake_.wait_for(lock, kIdle, is_wanted)) {
      lock.unlock();
      audit_one();
      return true;
    }
    arrived.swap(incoming_);
    calls.swap(calls_);
    stopping = stopping_;
    woken_ = false;
    all_wait_ = false;
  }
  // Arrivals first: a call may be about one of them.
  for (Work& work : arrived) enqueue(std::move(work));
  for (const auto& call : calls) call(*parts_.cache);
  if (!calls.empty()) room_changed_ = true;
  return !stopping;
}

void Scheduler::enqueue(Work work) {
  auto sequence = std::make_unique<Sequence>();
  sequence->prompt_tokens = static_cast<int>(work.tokens.size());
  sequence->next_logit = work.first_logit;
  if (const double seconds = work.scheduling.deadline_seconds; seconds > 0 && seconds < kForever) {
    sequence->deadline =
        work.submitted + std::chrono::duration_cast<FairOrder::Clock::duration>(std::chrono::duration<double>(seconds));
  }
  sequence->claim = order_.enter(work.salt, work.scheduling.urgency, sequence->deadline, work.submitted);
  sequence->work = std::move(work);
  waiting_.push_back(std::move(sequence));
  room_changed_ = true;
}

std::optional<FairOrder::Clock::time_point> Scheduler::next_deadline() const {
  std::optional<FairOrder::Clock::time_point> next;
  const auto look = [&](const SequencePtr& sequence) {
    if (sequence->deadline && (!next || *sequence->deadline < *next)) next = sequence->deadline;
  };
  std::ranges::for_each(running_, look);
  std::ranges::for_each(waiting_, look);
  std::ranges::for_each(following_, look);
  return next;
}

// Ends what was cancelled or has reached its deadline, wherever it stands.
void Scheduler::drop_ended() {
  const auto now = FairOrder::Clock::now();
  const auto ended = [&](const Sequence& sequence) -> std::optional<FinishReason> {
    if (sequence.work.request->cancelled()) return FinishReason::cancelled;
    if (sequence.deadline && now >= *sequence.deadline) return FinishReason::deadline;
    return std::nullopt;
  };
  for (SequencePtr& sequence : running_) {
    const std::optional<FinishReason> reason = ended(*sequence);
    if (!reason) continue;
    sequence->finished = true;
    sequence->outcome = *reason;
  }
  settle();
  const auto drop = [&](const SequencePtr& sequence) {
    const std::optional<FinishReason> reason = ended(*sequence);
    if (reason) sequence->work.request->on_finished(*reason);
    return reason.has_value();
  };
  std::erase_if(waiting_, drop);
  std::erase_if(following_, drop);
}

// True if it stands aside: a running sequence is about to compute blocks that this one needs next. Whoever is not
// behind in what both share leads.
bool Scheduler::follows(Sequence& sequence) {
  if (!sequence.work.reuse) return false;
  const std::vector<TokenId>& tokens = sequence.work.tokens;
  const int limit = std::min(static_cast<int>(tokens.size()) - 1, sequence.next_logit);
  Sequence* leader = nullptr;
  int shared =
      parts_.cache->preview(name_space(sequence.work.salt), tokens, limit).reused / kBlockTokens * kBlockTokens;
  const int own = shared;
  sequence.leader = nullptr;
  if (shared == limit / kBlockTokens * kBlockTokens) return false;
  for (const SequencePtr& each : running_) {
    if (!each->work.reuse || each->finished || each->work.salt != sequence.work.salt) continue;
    if (each->table.tokens() < own) continue;
    const std::vector<TokenId>& theirs = each->work.tokens;
    const auto end = std::mismatch(theirs.begin(), theirs.end(), tokens.begin(), tokens.begin() + limit).first;
    const int common = static_cast<int>(end - theirs.begin()) / kBlockTokens * kBlockTokens;
    if (common <= shared || common <= each->table.tokens()) continue;
    shared = common;
    leader = each.get();
  }
  sequence.leader = leader;
  sequence.awaits = shared;
  if (leader != nullptr) leader->claim.lend(sequence.claim);
  if (leader != nullptr) parts_.cache->expect_end(leader->table, shared);
  return leader != nullptr;
}

void Scheduler::leave_leader(const Sequence& leader) {
  for (const SequencePtr& sequence : following_) {
    if (sequence->leader == &leader) sequence->leader = nullptr;
  }
}

// Those whose wait is over go back to the queue.
void Scheduler::recall_followers() {
  const auto waits = [](const SequencePtr& sequence) {
    return sequence->leader != nullptr && sequence->leader->table.tokens() < sequence->awaits;
  };
  const auto ready = std::stable_partition(following_.begin(), following_.end(), waits);
  if (ready == following_.end()) return;
  waiting_.insert(waiting_.end(), std::move_iterator(ready), std::move_iterator(following_.end()));
  following_.erase(ready, following_.end());
  room_changed_ = true;
}

void Scheduler::admit() {
  recall_followers();
  while (room_changed_ && !waiting_.empty() && running_.size() < kMaxRunning) {
    claims_.clear();
    for (const SequencePtr& sequence : waiting_) claims_.push_back(&sequence->claim);
    const std::size_t next = FairOrder::first(claims_);
    if (follows(*waiting_[next])) {
      ++counts_.waits;
      following_.push_back(std::move(waiting_[next]));
    } else if (!admit_one(waiting_[next])) {
      // Nobody overtakes a large request whose turn it is, so none starves.
      room_changed_ = false;
      return;
    }
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(next));
  }
}

// Makes room for one that is to be admitted. False: nothing that runs is less urgent.
bool Scheduler::preempt_for(const Sequence& urgent) {
  const auto least = std::ranges::min_element(
      running_, [](const SequencePtr& a, const SequencePtr& b) { return b->claim.outlasts(a->claim); });
  if (least == running_.end() || (*least)->claim.urgency >= urgent.claim.urgency) return false;
  preempt(**least);
  room_changed_ = true;
  return true;
}

void Scheduler::count(const KvCache::Opened& opened, int missing, bool from_given) {
  const auto reused = static_cast<std::uint64_t>(opened.reused);
  ReuseCounts& cause = counts_.by_cause.at(static_cast<std::size_t>(opened.stopped));
  ++cause.requests;
  cause.reused_tokens += reused;
  cause.missing_tokens += static_cast<std::uint64_t>(missing);
  counts_.continued += from_given ? 1 : 0;
  counts_.reused_tokens.add(reused);
  counts_.missing_tokens.add(static_cast<std::uint64_t>(missing));
}

// The first `limit` tokens as far as they are cached, or as the table has them that the work continues.
KvCache::Opened Scheduler::open(Sequence& sequence, int limit) {
  sequence.from_given = false;
  const Work& work = sequence.work;
  if (!work.reuse) return {parts_.cache->open_private(), 0, Stopped::off, 0};
  KvCache::Opened opened = parts_.cache->open(name_space(work.salt), work.tokens, limit, work.retention);
  BlockTable* given = work.from == 0 ? nullptr : held_.find(work.from);
  if (given == nullptr || !parts_.cache->is_trusted(*given)) return opened;
  const int common = std::min(limit, work.from_common);
  if (common <= opened.reused) return opened;
  BlockTable table = parts_.cache->fork(*given);
  const int kept = common < table.tokens() ? parts_.cache->rewind(table, common) : table.tokens();
  if (kept <= opened.reused) return opened;
  parts_.cache->discard(std::move(opened.table));
  sequence.from_given = true;
  const Stopped why = common == limit ? Stopped::end : common < given->tokens() ? Stopped::diverged : Stopped::cold;
  return {std::move(table), kept, kept < common ? Stopped::window : why, common};
}

// Reserves room for all the tokens known so far. True if the sequence left the queue, running or refused.
bool Scheduler::admit_one(SequencePtr& sequence) {
  const std::vector<TokenId>& tokens = sequence->work.tokens;
  const int size = static_cast<int>(tokens.size());
  const int limit = sequence->work.reuse ? std::min(size - 1, sequence->next_logit) : 0;
  KvCache::Opened opened = open(*sequence, limit);
  // Logits of the first position leave nothing to reuse; that is no full hit.
  if (limit == 0 && sequence->work.reuse) opened.stopped = size == 1 ? Stopped::cold : Stopped::off;
  sequence->table = std::move(opened.table);
  const int missing = size - opened.reused;
  const int rows = std::min({missing, sequence->work.chunk, parts_.max_rows});
  Result<void> room = parts_.cache->extend(sequence->table, missing, rows);
  while (!room.ok() && preempt_for(*sequence)) room = parts_.cache->extend(sequence->table, missing, rows);
  if (!room.ok()) {
    const bool waits = !running_.empty() || may_wait_for_others(*sequence, missing, rows);
    parts_.cache->close(std::move(sequence->table));
    if (waits) return false;
    give_up(*sequence, std::move(room).error());
    sequence->work.request->on_finished(std::move(sequence->outcome));
    return true;
  }
  sequence->asks = 0;
  parts_.cache->expect_end(sequence->table, sequence->prompt_tokens);
  if (!sequence->admitted_before) {
    sequence->work.request->on_admitted({opened.reused, opened.stopped, opened.at, token_seconds_});
    count(opened, missing, sequence->from_given);
  }
  sequence->admitted_before = true;
  running_.push_back(std::move(sequence));
  return true;
}

void Scheduler::step() {
  compose();
  if (in_step_.empty()) {
    // With nothing left that runs, a sequence waits for room, which is nobody's to announce.
    all_wait_ = !running_.empty() &&
                std::ranges::all_of(running_, [](const SequencePtr& each) { return each->held; }) &&
                std::ranges::none_of(running_, [](const SequencePtr& each) { return each->finished; });
    settle();
    return;
  }
  const Step step{step_tokens_, step_sequences_, logit_rows_,
                  [this](int index, std::span<const float> logits) { prepare(index, logits); }};
  const auto begin = std::chrono::steady_clock::now();
  parts_.model->forward(step, [this](int index, std::span<const float> logits, std::span<const float> hidden) {
    deliver(index, logits, hidden);
  });
  measure(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  int kept = 0;
  for (Sequence* sequence : in_step_) {
    is_known(*sequence, sequence->rows - 1);
    kept += sequence->known;
    order_.charge(sequence->claim, sequence->known, begin);
    conclude(*sequence);
  }
  audit_.earn(kept);
  for (Sequence* sequence : in_step_) sequence->work.request->on_step_end();
  settle();
}

void Scheduler::measure(double seconds) {
  const int rows = step_rows_;
  const int of_prompts = rows - reply_rows_ - guesses_;
  if (of_prompts == 0) step_cost_.learn(reply_rows_, guesses_, seconds);
  if (reply_rows_ > 0 && of_prompts >= kLeastChunk) {
    // The whole step by its chunk: the chunk settles where the step, replies included, takes what it may.
    const double each = seconds / of_prompts;
    chunk_token_seconds_ += (chunk_token_seconds_ > 0 ? kNewestStep : 1) * (each - chunk_token_seconds_);
  }
  if (rows < kMeasuredRows) return;
  const double each = seconds / rows;
  token_seconds_ += (token_seconds_ > 0 ? kNewestStep : 1) * (each - token_seconds_);
}

// First every sequence that decodes, then chunks of prompts in their order, while rows are left; guesses where there
// are no prompts.
void Scheduler::compose() {
  step_tokens_.clear();
  step_sequences_.clear();
  logit_rows_.clear();
  in_step_.clear();
  row_owner_.clear();
  step_rows_ = guesses_ = 0;
  for (SequencePtr& sequence : running_) {
    sequence->rows = 0;
    sequence->guesses.clear();
    sequence->held = false;
  }
  std::ranges::sort(running_, [](const SequencePtr& a, const SequencePtr& b) { return a->claim.outlasts(b->claim); });
  // By index: grow() may remove sequences behind the present one, never before it.
  // NOLINTNEXTLINE(modernize-loop-convert)
  for (std::size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    const int rows = std::min(sequence.reply_rows(), parts_.max_rows - step_rows_);
    if (sequence.finished || sequence.reply_rows() == 0) continue;
    sequence.held = !sequence.work.request->wants_more();
    if (!sequence.held && rows > 0 && grow(sequence, rows)) take(sequence, rows);
  }
  reply_rows_ = step_rows_;
  const int most = reply_rows_ > 0 ? std::min(parts_.max_rows, reply_rows_ + beside_replies()) : parts_.max_rows;
  for (Sequence* next = next_prompt(); next != nullptr; next = next_prompt()) {
    const int rows = std::min({next->left(), next->work.chunk, most - step_rows_});
    if (rows <= 0) break;
    if (grow(*next, rows)) take(*next, rows);
  }
  if (step_rows_ == reply_rows_) guess();
  for (Sequence* sequence : in_step_) {
    add_rows(*sequence);
    step_sequences_.push_back(
        {parts_.cache->view(sequence->table), sequence->first_row, sequence->rows, sequence->table.tokens()});
  }
}

void Scheduler::take(Sequence& sequence, int rows) {
  sequence.rows = sequence.known = rows;
  step_rows_ += rows;
  in_step_.push_back(&sequence);
}

// The next of the prompts that have no part in this step yet.
Scheduler::Sequence* Scheduler::next_prompt() {
  claims_.clear();
  for (const SequencePtr& sequence : running_) {
    const bool is_candidate = !sequence->finished && sequence->rows == 0 && sequence->has_prompt_left();
    claims_.push_back(is_candidate ? &sequence->claim : nullptr);
  }
  const std::size_t next = FairOrder::first(claims_);
  return next < running_.size() ? running_[next].get() : nullptr;
}

// How many prompt tokens go into a step with tokens of replies.
int Scheduler::beside_replies() const {
  const double each = chunk_token_seconds_;
  if (each <= 0) return kMeasuredRows;  // a first step, to learn what one takes
  return std::max(kLeastChunk, static_cast<int>(std::min(kAim * parts_.step_seconds / each, double{1 << 20})));
}

// Makes room for `rows` more tokens, if need be by preempting less urgent or younger sequences that are not yet
// part of this step. False if the sequence itself had to give way.
bool Scheduler::grow(Sequence& sequence, int rows) {
  for (;;) {
    Result<void> room = parts_.cache->extend(sequence.table, rows);
    if (room.ok()) {
      sequence.asks = 0;
      return true;
    }
    const auto victim =
        std::find_if(running_.rbegin(), running_.rend(), [](const SequencePtr& each) { return each->rows == 0; });
    const bool alone = running_.size() == 1;
    if (alone && !may_wait_for_others(sequence, rows, rows)) {
      give_up(sequence, std::move(room).error());
      return false;
    }
    if (alone || victim->get() == &sequence) {
      preempt(sequence);
      return false;
    }
    preempt(**victim);
  }
}

// Of a sequence that found no room for `more` tokens while no other runs. False if there would be none even if the
// other engines held no K/V but what they keep. Otherwise they have been asked to give up what they cache, and what
// they run will end. What they keep is believed once they have answered this sequence often enough: an engine that has
// not come round to an answer may have a release before it in its queue.
bool Scheduler::may_wait_for_others(Sequence& sequence, int more, int rows) {
  const MemoryBudget& budget = parts_.memory->budget();
  const std::optional<std::uint64_t> lacks = parts_.cache->lacks(sequence.table, more, rows);
  if (!lacks) return false;
  const CacheStats stats = parts_.cache->stats();
  const std::uint64_t own = (stats.pages_used + stats.pages_free) * parts_.cache->page_stride();
  const std::uint64_t of_others = budget.used(MemoryKind::kv) - own;
  const bool all_answered = unanswered_.expired();
  if (all_answered) ++sequence.asks;
  const std::uint64_t kept = sequence.asks > kAsks ? parts_.memory->kept(parts_.holder) : 0;
  if (*lacks > of_others - std::min(of_others, kept)) return false;
  if (!all_answered) return waits_for_others_ = true;
  const std::uint64_t target = budget.used() - std::min(budget.used() - 1, *lacks);
  const auto answers = std::make_shared<int>();  // lives until the last of them has come
  unanswered_ = answers;
  waits_for_others_ = parts_.memory->ask({.target = target, .done = [answers] {}}, parts_.holder) > 0;
  return waits_for_others_;
}

// A reply that has begun is no error: it has come to its end as at the context's.
void Scheduler::give_up(Sequence& sequence, Error why) {
  sequence.finished = true;
  if (static_cast<int>(sequence.work.tokens.size()) > sequence.prompt_tokens) {
    sequence.outcome = FinishReason::length;
  } else {
    if (const std::uint64_t kept = parts_.memory->kept(parts_.holder); kept > 0) {
      why.message += fmt::format(", or release what other engines of this process keep: {}", human_bytes(kept));
    }
    sequence.outcome = std::move(why);
  }
}

void Scheduler::preempt(Sequence& sequence) {
  const auto at =
      std::find_if(running_.begin(), running_.end(), [&](const SequencePtr& each) { return each.get() == &sequence; });
  leave_leader(sequence);
  ++preemptions_;
  parts_.cache->close(std::move(sequence.table));
  waiting_.push_back(std::move(*at));
  running_.erase(at);
  room_changed_ = false;
}

void Scheduler::add_rows(Sequence& sequence) {
  sequence.first_row = static_cast<int>(step_tokens_.size());
  const int first_position = sequence.table.tokens();
  const auto next = sequence.work.tokens.begin() + first_position;
  step_tokens_.insert(step_tokens_.end(), next, next + sequence.known);
  step_tokens_.insert(step_tokens_.end(), sequence.guesses.begin(), sequence.guesses.end());
  row_owner_.insert(row_owner_.end(), static_cast<std::size_t>(sequence.rows), &sequence);
  for (int i = 0; i < sequence.rows; ++i) {
    if (first_position + i >= sequence.next_logit) logit_rows_.push_back(sequence.first_row + i);
  }
}

// Where a sequence wants several rows, what it does with one depends on what became of those before.
void Scheduler::prepare(int index, std::span<const float> logits) {
  const auto at = static_cast<std::size_t>(index);
  const auto owner = [&](std::size_t i) { return row_owner_[static_cast<std::size_t>(logit_rows_[i])]; };
  Sequence& sequence = *owner(at);
  const bool alone =
      (at == 0 || owner(at - 1) != &sequence) && (at + 1 == logit_rows_.size() || owner(at + 1) != &sequence);
  if (!alone || sequence.finished) return;
  const int position = sequence.table.tokens() + logit_rows_[at] - sequence.first_row;
  sequence.work.request->prepare(position, logits, sequence.work.tokens);
}

void Scheduler::deliver(int index, std::span<const float> logits, std::span<const float> hidden) {
  const std::int32_t row = logit_rows_[static_cast<std::size_t>(index)];
  Sequence& sequence = *row_owner_[static_cast<std::size_t>(row)];
  if (sequence.finished || !is_known(sequence, row - sequence.first_row)) return;
  if (parts_.backend->failed_rows()[static_cast<std::size_t>(row)] != nullptr) return;
  const int position = sequence.table.tokens() + row - sequence.first_row;
  if (position < sequence.next_logit) return;  // what follows it was forced
  std::vector<TokenId>& tokens = sequence.work.tokens;
  sequence.work.request->on_hidden(hidden);
  const Decision decision = sequence.work.request->on_logits(position, logits, tokens);
  sequence.next_logit = position + 1;
  if (decision.kind == Decision::Kind::append) {
    tokens.push_back(decision.token);
    tokens.insert(tokens.end(), decision.forced.begin(), decision.forced.end());
    sequence.next_logit = static_cast<int>(tokens.size()) - 1;
    if (static_cast<int>(tokens.size()) <= parts_.context) return;
    sequence.finished = true;
    sequence.outcome = FinishReason::length;
  } else if (decision.kind == Decision::Kind::finish) {
    tokens.insert(tokens.end(), decision.forced.begin(), decision.forced.end());
    sequence.next_logit = static_cast<int>(tokens.size());
    sequence.finished = decision.forced.empty();  // else when they are computed
    sequence.outcome = decision.reason;
  }
}

// Ends what has finished.
void Scheduler::settle() {
  std::erase_if(running_, [this](const SequencePtr& sequence) {
    if (sequence->finished) finish(*sequence);
    return sequence->finished;
  });
}

void Scheduler::hold(Sequence& sequence) {
  if (!sequence.outcome.ok() || sequence.outcome.value() == FinishReason::cancelled) return;
  if (!sequence.table.is_open()) return;
  const int tokens = sequence.table.tokens();
  const Result<void> held = held_.hold(sequence.work.hold, std::move(sequence.table), sequence.work.keep);
  sequence.work.request->on_held(held.ok() ? Result<int>(tokens) : Result<int>(held.error()));
}

void Scheduler::finish(Sequence& sequence) {
  leave_leader(sequence);
  if (sequence.work.hold != 0) hold(sequence);
  if (sequence.outcome.ok()) {
    parts_.cache->close(std::move(sequence.table));
  } else {
    parts_.cache->discard(std::move(sequence.table));
  }
  room_changed_ = true;
  sequence.work.request->on_finished(std::move(sequence.outcome));
}

}  // namespace dalsegno
