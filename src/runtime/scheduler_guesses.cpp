#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "runtime/scheduler.hpp"

// Guesses: how they join a step, and what of a step becomes the sequence's.

namespace dalsegno {
namespace {

// Of one sequence in a step. Beyond this a row costs as much as one of a prompt, and few drafts are right so far.
constexpr int kMostGuesses = 31;

}  // namespace

// Adds the guesses that pay to the sequences which this step brings to their next tokens.
void Scheduler::guess() {
  Drafter::Step step = step_cost_.step(reply_rows_, token_seconds_);
  guessing_.clear();
  asked_.clear();
  int rows = step_rows_;
  for (Sequence* sequence : in_step_) {
    const int size = static_cast<int>(sequence->work.tokens.size());
    if (sequence->work.drafter == nullptr) continue;
    if (sequence->rows != sequence->left() || sequence->next_logit != size - 1) continue;
    StepDrafter::Asked each{.drafter = sequence->work.drafter.get(), .question = question(*sequence, rows, step)};
    each.draft = each.drafter->draft(each.question);
    const int count = static_cast<int>(each.draft.tokens.size());
    rows += count;
    step.tokens += each.draft.expected;
    step.seconds += count * step.guess_seconds;
    guessing_.push_back(sequence);
    asked_.push_back(std::move(each));
  }
  if (parts_.drafter != nullptr && !asked_.empty()) parts_.drafter->draft(asked_, step);
  for (std::size_t i = 0; i < asked_.size(); ++i) take_guesses(*guessing_[i], std::move(asked_[i].draft.tokens));
}

// rows: of the step so far.
Drafter::Question Scheduler::question(Sequence& sequence, int rows, const Drafter::Step& step) const {
  const std::vector<TokenId>& tokens = sequence.work.tokens;
  const int size = static_cast<int>(tokens.size());
  int most =
      std::min({kMostGuesses, parts_.max_rows - rows, parts_.context - size, sequence.work.request->most_wanted() - 1});
  if (sequence.work.most_reply > 0) {
    const int drawn = size - sequence.prompt_tokens;
    most = std::min(most, sequence.work.most_reply - drawn - 1);
  }
  const std::span<const TokenId> next = std::span(tokens).subspan(static_cast<std::size_t>(sequence.table.tokens()));
  return {.tokens = tokens, .most = std::max(0, most), .step = step, .cached = [this, &sequence, next](int count) {
            return parts_.cache->continuation(sequence.table, next, count);
          }};
}

// They only take what is free.
void Scheduler::take_guesses(Sequence& sequence, std::vector<TokenId> guesses) {
  guesses.resize(std::min(guesses.size(), static_cast<std::size_t>(parts_.max_rows - step_rows_)));
  if (guesses.empty()) return;
  const int wanted = sequence.rows + static_cast<int>(guesses.size());
  const int room = parts_.cache->extend_into_free(sequence.table, wanted);
  guesses.resize(static_cast<std::size_t>(std::min(wanted, room) - sequence.rows));
  const int count = static_cast<int>(guesses.size());
  sequence.guesses = std::move(guesses);
  sequence.rows += count;
  step_rows_ += count;
  guesses_ += count;
}

// Whether the tokens of all rows up to this one, of the sequence's rows, are those that it now has.
bool Scheduler::is_known(Sequence& sequence, int row) const {
  const std::vector<TokenId>& tokens = sequence.work.tokens;
  const auto first = static_cast<std::size_t>(sequence.table.tokens());
  for (; sequence.known <= row; ++sequence.known) {
    const auto at = static_cast<std::size_t>(sequence.known);
    const TokenId computed = step_tokens_[static_cast<std::size_t>(sequence.first_row) + at];
    if (first + at >= tokens.size() || tokens[first + at] != computed) return false;
  }
  return true;
}

// Why a row failed that the sequence has; what became of wrong guesses says nothing.
const char* Scheduler::failure(const Sequence& sequence) const {
  const auto failed = parts_.backend->failed_rows().subspan(static_cast<std::size_t>(sequence.first_row),
                                                            static_cast<std::size_t>(sequence.known));
  const auto first = std::ranges::find_if(failed, [](const char* why) { return why != nullptr; });
  return first == failed.end() ? nullptr : *first;
}

// What a step brought becomes the sequence's.
void Scheduler::conclude(Sequence& sequence) {
  if (const char* why = failure(sequence); why != nullptr) {
    sequence.finished = true;
    sequence.outcome = Error{ErrorCode::numeric, fmt::format("the model cannot go on with this text: {}; its weights "
                                                             "may be damaged, or try --kv f32",
                                                             why)};
    return;
  }
  const std::vector<TokenId>& tokens = sequence.work.tokens;
  const int done = sequence.table.tokens();
  parts_.cache->commit(sequence.table, std::span(tokens).subspan(static_cast<std::size_t>(done),
                                                                 static_cast<std::size_t>(sequence.known)));
  if (const int proposed = static_cast<int>(sequence.guesses.size()); proposed > 0) {
    parts_.cache->give_back_room(sequence.table);
    sequence.work.request->on_drafted(proposed, std::max(0, sequence.known - (sequence.rows - proposed)));
  }
  if (done < sequence.prompt_tokens) {
    sequence.work.request->on_progress(std::min(sequence.table.tokens(), sequence.prompt_tokens),
                                       sequence.prompt_tokens);
  }
  // A request that wants no (further) logits ends with its last token.
  const bool all_known = sequence.table.tokens() == static_cast<int>(tokens.size());
  if (all_known && sequence.next_logit >= static_cast<int>(tokens.size())) sequence.finished = true;
}

}  // namespace dalsegno
