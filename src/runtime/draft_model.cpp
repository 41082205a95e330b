#include "runtime/draft_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <utility>

#include "backend/cpu/cpu_backend.hpp"
#include "cache/block_table.hpp"
#include "gguf/gguf.hpp"
#include "gguf/printable.hpp"
#include "model/kv_layout.hpp"
#include "model/registry.hpp"
#include "runtime/draft_lookup.hpp"
#include "sampling/sampler.hpp"

namespace dalsegno {
namespace {

// Rows of a pass: a quarter of a step's buffers, and reading is no faster with more.
constexpr int kRows = 128;
// Of what the memory budget has left, the K/V get at most one part in so many, and no more than so many sequences of
// the whole context need.
constexpr std::uint64_t kPartOfRoom = 8;
constexpr int kSequences = 2;
// What came since the last guess, of other sources too, is read in the pass of the next one.
constexpr int kJoins = 33;
constexpr int kLeastRead = 16;
// As Scheduler's, for the same reason.
constexpr double kAim = 0.7;
// Reading takes this share of a pass per token until there was one that says so.
constexpr double kFirstRead = 0.25;
constexpr int kMeasuredRead = kLeastRead;
// Each guess counts for so much of the mean, a reading pass for so much of its.
constexpr double kNewestDraft = 1.0 / 16;
constexpr double kNewestRead = 0.25;
// Of guesses that nobody made yet so many are taken to come true.
constexpr double kHope = 0.6;
// One step in so many goes without, so that what one takes by itself stays known.
constexpr std::uint64_t kPlainEvery = 32;
// Guesses that are not known to pay may take this share of the time, less what they bring.
constexpr double kTrialShare = 0.01;
// Steps for which a sequence that finds no room gets no guesses.
constexpr std::uint64_t kRest = 256;

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// How many tokens both have. Beyond them one may have unused ones, which only fill up its matrices.
Result<int> common_vocabulary(const GgufFile& file, const GgufFile& target) {
  constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
  constexpr std::string_view kTypes = "tokenizer.ggml.token_type";
  constexpr std::int64_t kUnused = 5;
  DALSEGNO_ASSIGN(own, file.strings(kTokens));
  DALSEGNO_ASSIGN(theirs, target.strings(kTokens));
  const std::size_t common = std::min(own.size(), theirs.size());
  const std::string remedy = "choose a draft model with the same vocabulary";
  for (std::size_t id = 0; id < common; ++id) {
    if (own[id] == theirs[id]) continue;
    return Error{ErrorCode::unsupported,
                 fmt::format("{}: token {} is '{}', but '{}' in {}; {}", quoted_path(file.path()), id,
                             printable(own[id]), printable(theirs[id]), quoted_path(target.path()), remedy)};
  }
  const GgufFile& longer = own.size() > theirs.size() ? file : target;
  std::vector<std::int64_t> types;
  if (longer.has(kTypes)) {
    DALSEGNO_ASSIGN(all, longer.integers(kTypes));
    types = std::move(all);
  }
  types.resize(std::max(own.size(), theirs.size()));
  if (std::all_of(types.begin() + static_cast<std::ptrdiff_t>(common), types.end(),
                  [](std::int64_t type) { return type == kUnused; })) {
    return static_cast<int>(common);
  }
  return Error{ErrorCode::unsupported,
               fmt::format("{} has a vocabulary of {} tokens, but {} one of {}; {}", quoted_path(file.path()),
                           own.size(), quoted_path(target.path()), theirs.size(), remedy)};
}

Error of_draft(Error error) {
  error.message = "the draft model: " + error.message;
  return error;
}

Result<DraftModel::Loaded> load_from(const std::string& path, const GgufFile& target, int context, Backend& backend) {
  DALSEGNO_ASSIGN(file, GgufFile::open(path));
  DALSEGNO_ASSIGN(common, common_vocabulary(*file, target));
  DALSEGNO_ASSIGN(config, read_config(*file));
  DraftModel::Loaded loaded;
  loaded.config = config;
  loaded.positions = std::min(context, config.context);
  loaded.vocabulary = std::min(common, config.vocabulary);
  DALSEGNO_ASSIGN(model, load_model(*file, config, {.rows = kRows, .positions = loaded.positions}, backend));
  loaded.model = std::move(model);
  return loaded;
}

KvCacheOptions cache_options(const DraftModel::Loaded& loaded) {
  KvCacheOptions options;
  options.layout = kv_layout(loaded.config, {});
  options.most_tokens = loaded.positions;
  return options;
}

}  // namespace

// What is known of one sequence. Its own guesses are those of DraftLookup.
struct DraftModel::Seat final : Drafter {
  Seat(DraftModel& of, const GenerateOptions& options)
      : model(of), name_space{of.name_space_.key, options.salt}, reuse(options.reuse), retention(options.retention) {}
  ~Seat() override { model.leave(*this); }
  Draft draft(const Question& question) override { return lookup.draft(question); }

  DraftModel& model;
  const Namespace name_space;
  const bool reuse;
  const Retention retention;
  DraftLookup lookup;
  bool is_known = false;          // to the model
  bool has_ended = false;         // gets no guesses any more
  std::size_t checked = 0;        // tokens that the model has
  std::uint64_t asked = 0;        // in which turn
  std::uint64_t rests_until = 0;  // this turn
  std::array<double, DraftReport::kMostGuesses> right{};
  double worth = 0;  // seconds that guesses would have saved, less those spent on reading
  // tokens: read and known to be the sequence's. After them stand K/V of guesses.
  BlockTable table;
  std::vector<TokenId> ahead;
  std::vector<TokenId> guessed;
  std::size_t guessed_at = 0;  // tokens there were
  double trial_value = 0;      // of the last of them, which was tried: what it pays back if it is right
};

Result<DraftModel::Loaded> DraftModel::load(const std::string& path, const GgufFile& target, int context,
                                            Backend& backend) {
  Result<Loaded> loaded = load_from(path, target, context, backend);
  if (!loaded.ok()) return of_draft(std::move(loaded).error());
  return loaded;
}

Result<std::unique_ptr<DraftModel>> DraftModel::open(const Parts& parts) {
  auto backend = make_cpu_backend(*parts.pool, *parts.kernels, *parts.budget, kActivationBits, parts.cancel);
  DALSEGNO_ASSIGN(loaded, load(parts.path, *parts.target, parts.context, *backend));
  KvCacheOptions options = cache_options(loaded);
  const std::uint64_t most = KvCache::bytes_needed(options, kSequences * loaded.positions, kRows);
  const std::uint64_t share = parts.budget->free_bytes() / kPartOfRoom;
  const std::uint64_t least = KvCache::bytes_needed(options, 1, 1);
  if (share < least) {
    const auto [needed, there] = told_apart(least, share);
    return of_draft(
        {ErrorCode::exhausted,
         fmt::format("{} has no room for K/V: a block of {} tokens needs {}, but an eighth of what the "
                     "memory budget of {} has left is {}; raise --memory",
                     quoted_path(parts.path), kBlockTokens, needed, human_bytes(parts.budget->limit()), there)});
  }
  DALSEGNO_ASSIGN(
      room, parts.budget->reserve(MemoryKind::work, std::min(most, share), "the room for K/V of the draft model"));
  std::unique_ptr<DraftModel> made(new DraftModel(parts, std::move(backend), std::move(loaded), std::move(room)));
  options.budget = &made->kv_budget_;
  options.max_bytes = made->kv_budget_.limit();
  if (auto ready = made->make_cache(options); !ready.ok()) return of_draft(std::move(ready).error());
  return made;
}

DraftModel::DraftModel(const Parts& parts, std::unique_ptr<Backend> backend, Loaded loaded, Reservation room)
    : step_seconds_(parts.step_seconds),
      positions_(loaded.positions),
      vocabulary_(loaded.vocabulary),
      backend_(std::move(backend)),
      model_(std::move(loaded.model)),
      room_(std::move(room)),
      kv_budget_(room_.bytes()) {
  right_.fill(kHope);
  step_then_.resize(kRows + 1);
}

DraftModel::~DraftModel() = default;

// Also learns what a pass takes; the first touches fresh memory.
Result<void> DraftModel::make_cache(const KvCacheOptions& options) {
  DALSEGNO_ASSIGN(cache, KvCache::create(options));
  cache_ = std::move(cache);
  BlockTable table = cache_->open_private();
  DALSEGNO_TRY(cache_->extend(table, 1));
  double least = 0;
  for (int i = 0; i < 3; ++i) {
    const TokenId token = 0;
    const std::int32_t row = 0;
    const StepSequence sequence{cache_->view(table), 0, 1, 0};
    const auto begin = std::chrono::steady_clock::now();
    model_->forward({{&token, 1}, {&sequence, 1}, {&row, 1}},
                    [](int, std::span<const float>, std::span<const float>) {});
    const double seconds = seconds_since(begin);
    least = i == 0 ? seconds : std::min(least, seconds);
  }
  cache_->discard(std::move(table));
  cache_->clear();
  pass_cost_.learn(1, 0, least);
  token_seconds_ = kFirstRead * least;
  report_.pass_ms = 1e3 * least;
  return {};
}

std::shared_ptr<Drafter> DraftModel::drafter_for(const GenerateOptions& options) {
  return std::make_shared<Seat>(*this, options);
}

void DraftModel::draft(std::span<Asked> asked, const Drafter::Step& step) {
  ++turn_;
  step_now_ = step.seconds;
  trial_seconds_ += kTrialShare * step.seconds;
  choices_.clear();
  for (Asked& each : asked) consider(each);
  if (always_ == 0 && (step.seconds <= 0 || turn_ % kPlainEvery == 0)) return;
  choose(step);
  const double trial_seconds = trial_seconds_;
  const double seconds = report_.seconds;
  begin();
  while (!parts_.empty()) {
    run();
    go_on(step);
  }
  // A trial by itself is charged with what it took, not with what was expected.
  if (choices_.size() != 1 || !choices_.front().is_trial || choices_.front().count > 1) return;
  trial_seconds_ = trial_seconds - (report_.seconds - seconds);
  if (!choices_.front().seat->guessed.empty()) trial_seconds_ -= step.guess_seconds;
}

void DraftModel::consider(Asked& asked) {
  auto* seat = dynamic_cast<Seat*>(asked.drafter);
  if (seat == nullptr || seat->has_ended) return;
  if (!std::exchange(seat->is_known, true)) {
    seats_.push_back(seat);
    seat->right = right_;
  }
  const std::span<const TokenId> tokens = asked.question.tokens;
  learn(*seat, tokens);
  follow(*seat, tokens);
  seat->asked = turn_;
  const auto has = [this](TokenId token) { return token < vocabulary_; };
  const bool has_all = std::ranges::all_of(tokens.subspan(seat->checked), has);
  seat->checked = tokens.size();
  if (!has_all || std::cmp_greater_equal(tokens.size(), positions_)) return end(*seat);
  const int most =
      std::min({asked.question.most, DraftReport::kMostGuesses, positions_ - static_cast<int>(tokens.size())});
  if (most > 0 && turn_ >= seat->rests_until) choices_.push_back({.asked = &asked, .seat = seat, .most = most});
}

// A guess was one only if those before it were right.
void DraftModel::learn(Seat& seat, std::span<const TokenId> tokens) {
  const std::vector<TokenId> guessed = std::exchange(seat.guessed, {});
  const auto came = tokens.subspan(std::min(seat.guessed_at, tokens.size()));
  for (std::size_t i = 0; i < std::min(guessed.size(), came.size()); ++i) {
    const bool right = guessed[i] == came[i];
    for (double* share : {&seat.right[i], &right_[i]}) *share += kNewestDraft * ((right ? 1.0 : 0.0) - *share);
    ++report_.proposed[i];
    if (!right) return;
    ++report_.accepted[i];
    if (i + 1 == guessed.size()) trial_seconds_ += seat.trial_value;
  }
}

// Of what was computed ahead, the beginning that proved right. The last token is always computed anew: it leads to the
// next guess.
void DraftModel::follow(Seat& seat, std::span<const TokenId> tokens) {
  if (!seat.table.is_open()) return;
  const auto next = tokens.subspan(static_cast<std::size_t>(seat.table.tokens()));
  assert(!next.empty() && "a step brings a token");
  const auto most = static_cast<std::ptrdiff_t>(std::min(seat.ahead.size(), next.size() - 1));
  const auto end = std::mismatch(next.begin(), next.begin() + most, seat.ahead.begin()).first;
  cache_->commit(seat.table, next.first(static_cast<std::size_t>(end - next.begin())));
  seat.ahead.clear();
}

// The one place that decides who guesses, and how much.
void DraftModel::choose(const Drafter::Step& step) {
  if (choices_.empty()) return;
  const int count = static_cast<int>(choices_.size());
  const double seconds = pass_seconds(count) / count + step.guess_seconds;
  report_.pays = false;
  for (Choice& each : choices_) {
    Seat& seat = *each.seat;
    const auto right = [&](int guess) { return seat.right[static_cast<std::size_t>(guess)]; };
    const PayingGuesses paying = paying_guesses(each.most, step, seconds, right);
    report_.pays |= paying.count > 0;
    each.count = always_ > 0 ? std::min(always_, each.most) : paying.count;
    const double hoped = always_ > 0 ? each.count : paying.right;
    if (each.asked->draft.expected > 0 && each.asked->draft.expected >= hoped) {
      each.most = each.count = 0;
    } else if (paying.count > 0) {
      seat.worth += paying.right * step.seconds / step.tokens - paying.count * seconds;
    }
  }
  if (always_ == 0) try_one_more(step);
  std::erase_if(choices_, [](const Choice& each) { return each.count == 0; });
}

// One guess more than is known to pay, of one sequence: so that what has changed is noticed.
void DraftModel::try_one_more(const Drafter::Step& step) {
  for (Choice& each : choices_) {
    Seat& seat = *each.seat;
    const int tokens = static_cast<int>(each.asked->question.tokens.size());
    const int left = tokens - (seat.table.is_open() ? seat.table.tokens() : 0);
    const double seconds = pass_seconds(1) + step.guess_seconds + (left > kJoins ? left * token_seconds_ : 0);
    if (each.count >= each.most || seconds > trial_seconds_ || (left > kJoins && each.count > 0)) continue;
    each.is_trial = true;
    ++each.count;
    return;
  }
}

int DraftModel::missing(Seat& seat, std::span<const TokenId> tokens) {
  if (!seat.table.is_open()) {
    const int limit = static_cast<int>(tokens.size()) - 1;
    seat.table =
        seat.reuse ? cache_->open(seat.name_space, tokens, limit, seat.retention).table : cache_->open_private();
  }
  return static_cast<int>(tokens.size()) - seat.table.tokens();
}

// The first pass: of those that have been read their first guess, and of others a piece.
void DraftModel::begin() {
  parts_.clear();
  int rows = kRows;
  for (Choice& each : choices_) {
    Seat& seat = *each.seat;
    const std::span<const TokenId> tokens = each.asked->question.tokens;
    const int left = missing(seat, tokens);
    if (left > std::min(kJoins, rows) || !make_room(seat, left + each.count - 1)) continue;
    each.joins = true;
    rows -= left;
    seat.worth = 0;
    const int at = seat.table.tokens();
    parts_.push_back(
        {.seat = &seat, .tokens = tokens.subspan(static_cast<std::size_t>(at)), .position = at, .guess = true});
  }
  read(rows);
}

void DraftModel::read(int rows) {
  rows = std::min(rows, std::max(kLeastRead, static_cast<int>(kAim * step_seconds_ / token_seconds_)));
  for (const Choice& each : choices_) {
    Seat& seat = *each.seat;
    if (each.joins || !seat.table.is_open()) continue;
    const std::span<const TokenId> tokens = each.asked->question.tokens;
    const int at = seat.table.tokens();
    const int left = static_cast<int>(tokens.size()) - at - 1;
    const bool all = always_ > 0 || each.is_trial;
    const int read =
        std::min({left, rows, all ? left : static_cast<int>(std::min<double>(left, seat.worth / token_seconds_))});
    if (left < kJoins || read < kLeastRead || !make_room(seat, read)) continue;
    rows -= read;
    (each.is_trial ? trial_seconds_ : seat.worth) -= read * token_seconds_;
    report_.read += static_cast<std::uint64_t>(read);
    parts_.push_back({.seat = &seat,
                      .tokens = tokens.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(read)),
                      .position = at});
  }
}

// The next pass: of those that want another guess, as long as what it brings is worth it for all of them together.
void DraftModel::go_on(const Drafter::Step& step) {
  parts_.clear();
  double brings = 0;
  bool is_free = always_ > 0;
  for (const Choice& each : choices_) {
    Seat& seat = *each.seat;
    const std::size_t so_far = seat.guessed.size();
    if (!each.joins || seat.has_ended || std::cmp_greater_equal(so_far, each.count)) continue;
    double share = 1;
    for (std::size_t i = 0; i <= so_far; ++i) share *= seat.right[i];
    brings += share;
    is_free |= each.is_trial;
    parts_.push_back({.seat = &seat,
                      .tokens = std::span(seat.guessed).last(1),
                      .position = seat.table.tokens() + static_cast<int>(so_far) - 1,
                      .known = false,
                      .guess = true});
  }
  const int count = static_cast<int>(parts_.size());
  const double costs = pass_seconds(count) + count * step.guess_seconds;
  if (!is_free && brings * step.seconds < costs * step.tokens) parts_.clear();
  for (const Part& part : parts_) part.seat->ahead.push_back(part.tokens.front());
  if (!parts_.empty()) return;
  for (const Choice& each : choices_) {
    Seat& seat = *each.seat;
    if (seat.guessed.empty()) continue;
    double expected = 0;
    double share = 1;
    for (std::size_t i = 0; i < seat.guessed.size(); ++i) expected += share *= seat.right[i];
    each.asked->draft = {seat.guessed, expected};
    seat.trial_value = 0;
    if (!each.is_trial) continue;
    ++report_.trials;
    const double spent = pass_seconds(1) + step.guess_seconds;
    seat.trial_value = std::min(spent, step.seconds / step.tokens);
    trial_seconds_ -= spent;
  }
}

void DraftModel::run() {
  step_tokens_.clear();
  step_sequences_.clear();
  logit_rows_.clear();
  guessing_.clear();
  for (const Part& part : parts_) {
    const int first = static_cast<int>(step_tokens_.size());
    const int rows = static_cast<int>(part.tokens.size());
    step_tokens_.insert(step_tokens_.end(), part.tokens.begin(), part.tokens.end());
    step_sequences_.push_back({cache_->view(part.seat->table), first, rows, part.position});
    if (!part.guess) continue;
    logit_rows_.push_back(first + rows - 1);
    guessing_.push_back(part.seat);
  }
  std::vector<TokenId> guesses(guessing_.size());
  const auto begin = std::chrono::steady_clock::now();
  model_->forward({step_tokens_, step_sequences_, logit_rows_},
                  [&](int index, std::span<const float> logits, std::span<const float>) {
                    const auto at = static_cast<std::size_t>(index);
                    if (backend_->failed_rows()[static_cast<std::size_t>(logit_rows_[at])] != nullptr) return;
                    guesses[at] = argmax(logits.first(static_cast<std::size_t>(vocabulary_)));
                  });
  const double seconds = seconds_since(begin);
  const int rows = static_cast<int>(step_tokens_.size());
  ++report_.passes;
  report_.seconds += seconds;
  if (rows == static_cast<int>(logit_rows_.size())) {
    pass_cost_.learn(rows, 0, seconds);
    step_then_[static_cast<std::size_t>(rows)] = step_now_;
  }
  if (rows == 1) report_.pass_ms = 1e3 * pass_seconds(1);
  if (rows >= kMeasuredRead) token_seconds_ += kNewestRead * (seconds / rows - token_seconds_);
  std::size_t guess = 0;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const Part& part = parts_[i];
    const auto failed =
        backend_->failed_rows().subspan(static_cast<std::size_t>(step_sequences_[i].first_row), part.tokens.size());
    const TokenId next = part.guess ? guesses[guess++] : 0;
    if (std::ranges::any_of(failed, [](const char* why) { return why != nullptr; })) {
      end(*part.seat);
      continue;
    }
    if (part.known) cache_->commit(part.seat->table, part.tokens);
    if (part.guess) part.seat->guessed.push_back(next);
    if (part.guess && part.known) part.seat->guessed_at = static_cast<std::size_t>(part.seat->table.tokens());
  }
}

// As many or fewer rows were timed: what takes longer than it seems is noticed once it is tried. Steps that take longer
// than those of that time, since sequences are longer or the machine is busy, let expect the same of passes.
double DraftModel::pass_seconds(int rows) {
  double seconds = 0;
  int near = rows;
  for (; near > 0 && seconds <= 0; --near) seconds = pass_cost_.step(near, 0).seconds;
  if (near + 1 != rows || step_now_ <= 0) return seconds;
  double& then = step_then_[static_cast<std::size_t>(rows)];
  if (then <= 0) then = step_now_;
  return seconds * std::max(1.0, step_now_ / then);
}

// --- Room ---

// Others that are not guessed for now let go of theirs, the one asked longest ago first.
bool DraftModel::make_room(Seat& seat, int tokens) {
  while (!cache_->extend(seat.table, tokens).ok()) {
    Seat* idle = nullptr;
    for (Seat* each : seats_) {
      const bool could = each->table.is_open() && each->asked != turn_;
      if (could && (idle == nullptr || each->asked < idle->asked)) idle = each;
    }
    if (idle == nullptr) {
      put_away(seat);
      seat.rests_until = turn_ + kRest;
      return false;
    }
    put_away(*idle);
  }
  return true;
}

// What it has read stays in the index as long as there is room.
void DraftModel::put_away(Seat& seat) {
  seat.ahead.clear();
  if (seat.table.is_open()) cache_->close(std::exchange(seat.table, BlockTable()));
}

void DraftModel::end(Seat& seat) {
  seat.has_ended = true;
  seat.ahead.clear();
  seat.guessed.clear();
  if (seat.table.is_open()) cache_->discard(std::exchange(seat.table, BlockTable()));
}

void DraftModel::leave(Seat& seat) {
  if (!seat.is_known) return;
  put_away(seat);
  std::erase(seats_, &seat);
}

void DraftModel::release(bool buffers) {
  for (Seat* seat : seats_) put_away(*seat);
  cache_->clear();
  if (buffers) backend_->release_buffers();
}

}  // namespace dalsegno
