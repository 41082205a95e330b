#include "runtime/scheduler.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <future>

namespace dalsegno {
namespace {

// Sequences of one step at most; more wait. Their tables and the step's lists stay small.
constexpr std::size_t kMaxRunning = 256;

}  // namespace

Scheduler::Scheduler(Parts parts) : parts_(std::move(parts)), thread_([this] { run(); }) {}

Scheduler::~Scheduler() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Scheduler::submit(std::vector<Work> work) {
  {
    const std::lock_guard lock(mutex_);
    for (Work& each : work) incoming_.push_back(std::move(each));
  }
  wake_.notify_all();
}

void Scheduler::on_engine_thread(const std::function<void(KvCache&)>& call) {
  std::promise<void> done;
  {
    const std::lock_guard lock(mutex_);
    calls_.emplace_back([&](KvCache& cache) {
      call(cache);
      done.set_value();
    });
  }
  wake_.notify_all();
  done.get_future().wait();
}

void Scheduler::run() {
  while (wait_for_work()) {
    drop_cancelled();
    admit();
    if (!running_.empty()) step();
  }
  for (SequencePtr& sequence : running_) {
    sequence->outcome = FinishReason::cancelled;
    finish(*sequence);
  }
  for (SequencePtr& sequence : waiting_) sequence->work.request->on_finished(FinishReason::cancelled);
}

// Takes what was queued; sleeps while there is nothing to do. False when the scheduler stops.
bool Scheduler::wait_for_work() {
  std::vector<Work> arrived;
  std::vector<std::function<void(KvCache&)>> calls;
  bool stopping = false;
  {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] {
      return stopping_ || !incoming_.empty() || !calls_.empty() || !running_.empty() || !waiting_.empty();
    });
    arrived.swap(incoming_);
    calls.swap(calls_);
    stopping = stopping_;
  }
  for (const auto& call : calls) call(*parts_.cache);
  if (!calls.empty()) room_changed_ = true;
  for (Work& work : arrived) {
    auto sequence = std::make_unique<Sequence>();
    sequence->prompt_tokens = static_cast<int>(work.tokens.size());
    sequence->next_logit = work.first_logit;
    sequence->work = std::move(work);
    waiting_.push_back(std::move(sequence));
    room_changed_ = true;
  }
  return !stopping;
}

void Scheduler::drop_cancelled() {
  for (SequencePtr& sequence : running_) {
    if (!sequence->work.request->cancelled()) continue;
    sequence->finished = true;
    sequence->outcome = FinishReason::cancelled;
  }
  settle();
  std::erase_if(waiting_, [](const SequencePtr& sequence) {
    const bool cancelled = sequence->work.request->cancelled();
    if (cancelled) sequence->work.request->on_finished(FinishReason::cancelled);
    return cancelled;
  });
}

void Scheduler::admit() {
  while (room_changed_ && !waiting_.empty() && running_.size() < kMaxRunning) {
    if (!admit_one(waiting_.front())) {
      // In order of arrival: nobody overtakes a large request, so none starves.
      room_changed_ = false;
      return;
    }
    waiting_.pop_front();
  }
}

// Reserves room for all the tokens known so far. True if the sequence left the queue, running or refused.
bool Scheduler::admit_one(SequencePtr& sequence) {
  const std::vector<TokenId>& tokens = sequence->work.tokens;
  const int size = static_cast<int>(tokens.size());
  const int limit = sequence->work.reuse ? std::min(size - 1, sequence->next_logit) : 0;
  KvCache::Opened opened = sequence->work.reuse ? parts_.cache->open(parts_.name_space, tokens, limit)
                                                : KvCache::Opened{parts_.cache->open_private(), 0, Stopped::off, 0};
  // Logits of the first position leave nothing to reuse; that is no full hit.
  if (limit == 0 && sequence->work.reuse) opened.stopped = size == 1 ? Stopped::cold : Stopped::off;
  sequence->table = std::move(opened.table);
  if (Result<void> room = parts_.cache->extend(sequence->table, size - opened.reused); !room.ok()) {
    parts_.cache->close(std::move(sequence->table));
    if (!running_.empty()) return false;
    sequence->work.request->on_finished(std::move(room).error());
    return true;
  }
  if (!sequence->admitted_before) sequence->work.request->on_admitted({opened.reused, opened.stopped, opened.at});
  sequence->admitted_before = true;
  running_.push_back(std::move(sequence));
  return true;
}

void Scheduler::step() {
  compose();
  if (in_step_.empty()) {
    settle();
    return;
  }
  const Step step{step_tokens_, step_sequences_, logit_rows_};
  parts_.model->forward(step, [this](int index, std::span<const float> logits) { deliver(index, logits); });
  const std::span<const char* const> failed = parts_.backend->failed_rows();
  for (Sequence* sequence : in_step_) {
    const char* why = nullptr;
    for (const char* each :
         failed.subspan(static_cast<std::size_t>(sequence->first_row), static_cast<std::size_t>(sequence->rows))) {
      if (why == nullptr) why = each;
    }
    if (why != nullptr) {
      sequence->finished = true;
      sequence->outcome =
          Error{ErrorCode::numeric, fmt::format("the model cannot go on with this text: {}; its weights "
                                                "may be damaged, or try --kv f32",
                                                why)};
      continue;
    }
    const std::vector<TokenId>& tokens = sequence->work.tokens;
    const int done = sequence->table.tokens();
    parts_.cache->commit(sequence->table, std::span(tokens).subspan(static_cast<std::size_t>(done),
                                                                    static_cast<std::size_t>(sequence->rows)));
    if (done < sequence->prompt_tokens) {
      sequence->work.request->on_progress(std::min(sequence->table.tokens(), sequence->prompt_tokens),
                                          sequence->prompt_tokens);
    }
    // A request that wants no (further) logits ends with its last token.
    const bool all_known = sequence->table.tokens() == static_cast<int>(tokens.size());
    if (!sequence->finished && all_known && sequence->next_logit >= static_cast<int>(tokens.size())) {
      sequence->finished = true;
      sequence->outcome = FinishReason::stop;
    }
  }
  settle();
}

// First every sequence that decodes, then chunks of prompts in order of arrival, while rows are left.
void Scheduler::compose() {
  step_tokens_.clear();
  step_sequences_.clear();
  logit_rows_.clear();
  in_step_.clear();
  row_owner_.clear();
  for (SequencePtr& sequence : running_) sequence->rows = 0;
  for (const bool decoding : {true, false}) {
    // By index: grow() may remove sequences behind the present one, never before it.
    // NOLINTNEXTLINE(modernize-loop-convert)
    for (std::size_t i = 0; i < running_.size(); ++i) {
      Sequence& sequence = *running_[i];
      const int left = static_cast<int>(sequence.work.tokens.size()) - sequence.table.tokens();
      if (sequence.finished || sequence.rows > 0 || (left == 1) != decoding) continue;
      const int rows = std::min({left, sequence.work.chunk, parts_.max_rows - static_cast<int>(step_tokens_.size())});
      if (rows > 0 && grow(sequence, rows)) add_rows(sequence, rows);
    }
  }
  for (Sequence* sequence : in_step_) {
    step_sequences_.push_back(
        {parts_.cache->view(sequence->table), sequence->first_row, sequence->rows, sequence->table.tokens()});
  }
}

// Makes room for `rows` more tokens, if need be by preempting younger sequences that are not yet
// part of this step. False if the sequence itself had to give way.
bool Scheduler::grow(Sequence& sequence, int rows) {
  for (;;) {
    Result<void> room = parts_.cache->extend(sequence.table, rows);
    if (room.ok()) return true;
    const auto victim =
        std::find_if(running_.rbegin(), running_.rend(), [](const SequencePtr& each) { return each->rows == 0; });
    if (running_.size() == 1) {
      sequence.finished = true;
      sequence.outcome = std::move(room).error();
      return false;
    }
    if (victim->get() == &sequence) {
      preempt(sequence);
      return false;
    }
    preempt(**victim);
  }
}

void Scheduler::preempt(Sequence& sequence) {
  const auto at =
      std::find_if(running_.begin(), running_.end(), [&](const SequencePtr& each) { return each.get() == &sequence; });
  parts_.cache->close(std::move(sequence.table));
  waiting_.push_front(std::move(*at));
  running_.erase(at);
  room_changed_ = false;
}

void Scheduler::add_rows(Sequence& sequence, int rows) {
  sequence.rows = rows;
  sequence.first_row = static_cast<int>(step_tokens_.size());
  const int first_position = sequence.table.tokens();
  const auto next = sequence.work.tokens.begin() + first_position;
  step_tokens_.insert(step_tokens_.end(), next, next + rows);
  row_owner_.insert(row_owner_.end(), static_cast<std::size_t>(rows), &sequence);
  for (int i = 0; i < rows; ++i) {
    if (first_position + i >= sequence.next_logit) logit_rows_.push_back(sequence.first_row + i);
  }
  in_step_.push_back(&sequence);
}

void Scheduler::deliver(int index, std::span<const float> logits) {
  const std::int32_t row = logit_rows_[static_cast<std::size_t>(index)];
  Sequence& sequence = *row_owner_[static_cast<std::size_t>(row)];
  if (sequence.finished || parts_.backend->failed_rows()[static_cast<std::size_t>(row)] != nullptr) return;
  const int position = sequence.table.tokens() + row - sequence.first_row;
  std::vector<TokenId>& tokens = sequence.work.tokens;
  const Decision decision = sequence.work.request->on_logits(position, logits, tokens);
  sequence.next_logit = position + 1;
  if (decision.kind == Decision::Kind::append) {
    tokens.push_back(decision.token);
    if (static_cast<int>(tokens.size()) <= parts_.context) return;
    sequence.finished = true;
    sequence.outcome = FinishReason::length;
  } else if (decision.kind == Decision::Kind::finish) {
    sequence.finished = true;
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

void Scheduler::finish(Sequence& sequence) {
  if (sequence.outcome.ok()) {
    parts_.cache->close(std::move(sequence.table));
  } else {
    parts_.cache->discard(std::move(sequence.table));
  }
  room_changed_ = true;
  sequence.work.request->on_finished(std::move(sequence.outcome));
}

}  // namespace dalsegno
