#include "runtime/constrained.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace dalsegno {
namespace {

// Compiled grammars that wait for a next request.
constexpr std::size_t kRecent = 8;

// Of a grammar's lexer: 30,000 states, the bridge's limit, of strings take 15 MB.
constexpr std::uint64_t kLexer = 24ULL << 20;
// Of the rest, for each byte of its text, as the bridge counts it.
constexpr std::uint64_t kPerByte = 192;

// Measured at most: 8 bytes for a node of the trie, in it and in its slices.
constexpr std::uint64_t trie_bytes(int tokens, std::uint64_t text) {
  return (1ULL << 20) + static_cast<std::uint64_t>(tokens) * 64 + text * 16;
}

bool same(const Constraint& a, const Constraint& b) {
  return a.kind == b.kind && a.text == b.text && a.choices == b.choices;
}

Result<void> check_parts(const Constraint& constraint, std::span<const TokenId> prompt) {
  if (constraint.continues < 0 || static_cast<std::size_t>(constraint.continues) > prompt.size()) {
    return Error{ErrorCode::invalid_argument, fmt::format("a constraint cannot continue {} tokens of a prompt of {}",
                                                          constraint.continues, prompt.size())};
  }
  if (constraint.kind == Constraint::Kind::choices ? constraint.text.empty() : constraint.choices.empty()) return {};
  return Error{ErrorCode::invalid_argument,
               "a constraint has either a text or, if it is of the kind choices, a list of them"};
}

// Whether the prompt ends with the beginning of thoughts, as templates of thinking models make it.
bool begins_thoughts(const Vocabulary& vocabulary, std::span<const TokenId> prompt) {
  constexpr std::string_view kThink = "<think>";
  constexpr std::size_t kLooksBack = 32;
  std::string end;
  for (const TokenId id : prompt.last(std::min(prompt.size(), kLooksBack)))
    end += vocabulary.is_control(id) ? vocabulary.token_text(id) : vocabulary.bytes(id);
  while (!end.empty() && std::string_view(" \t\r\n").find(end.back()) != std::string_view::npos) end.pop_back();
  return end.ends_with(kThink);
}

Result<void> check_room(const Matcher& matcher, std::uint64_t most) {
  DALSEGNO_ASSIGN(bytes, matcher.bytes());
  if (bytes <= most) return {};
  return Error{ErrorCode::invalid_argument,
               fmt::format("the constraint cannot be used: its grammar takes {}, and {} are the limit; make it simpler",
                           human_bytes(bytes), human_bytes(most))};
}

}  // namespace

std::uint64_t CompiledGrammar::most_bytes(const Constraint& constraint) {
  std::uint64_t text = constraint.text.size();
  for (const std::string& each : constraint.choices) text += each.size();
  return kLexer + text * kPerByte;
}

Result<void> CompiledGrammar::begin_use(MemoryBudget& budget) {
  const std::lock_guard lock(mutex_);
  if (memory_.bytes() < most) {
    DALSEGNO_ASSIGN(whole, budget.reserve(MemoryKind::work, most, "the grammar of the constraint"));
    memory_ = std::move(whole);
  }
  ++uses_;
  return {};
}

// Where there is no room for both, it stays reserved as a whole.
void CompiledGrammar::end_use(MemoryBudget& budget) {
  const std::lock_guard lock(mutex_);
  if (--uses_ > 0) return;
  const Result<std::uint64_t> bytes = beginning_.bytes();
  if (!bytes.ok() || bytes.value() >= most) return;
  auto kept = budget.reserve(MemoryKind::work, bytes.value(), "the grammar of the constraint");
  if (kept.ok()) memory_ = std::move(kept).value();
}

bool CompiledGrammar::is_used() const {
  const std::lock_guard lock(mutex_);
  return uses_ > 0;
}

ConstrainedText::ConstrainedText(Matcher matcher, TextState state, int vocabulary, GrammarInUse grammar,
                                 MaskThread& thread)
    : grammar_(std::move(grammar)),
      job_(std::make_shared<MaskJob>(std::move(matcher), vocabulary, grammar_->most, grammar_->spent)),
      thread_(thread),
      state_(state) {}

void ConstrainedText::prepare() {
  if (prepared_ || known_) return;
  prepared_ = true;
  thread_.start(job_);
}

Result<const TokenMask*> ConstrainedText::allowed() {
  prepare();
  if (prepared_) {
    MaskThread::take(*job_);
    prepared_ = false;
    known_ = true;
  }
  if (!job_->state.ok()) return job_->state.error();
  return job_->state.value() == TextState::dead ? nullptr : &job_->allowed;
}

Result<TextState> ConstrainedText::advance(TokenId token) {
  known_ = false;
  const Result<TextState> state = job_->matcher.consume({&token, 1});
  if (!state.ok()) {
    grammar_->spent->store(true);  // what may come next is not at fault
    return state.error();
  }
  state_ = state.value();
  return state;
}

Result<std::optional<TokenId>> ConstrainedText::forced() {
  if (state_ != TextState::open) return std::optional<TokenId>();
  return job_->matcher.forced();
}

Constraints::Constraints(const Vocabulary& vocabulary, int logits, ProcessMemory& memory)
    : vocabulary_(vocabulary), logits_(logits), memory_(memory) {}

void Constraints::forget(std::uint64_t target) {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = recent_.size(); i-- > 0 && memory_.budget().used() > target;) {
    if (!recent_[i]->is_used()) recent_.erase(recent_.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

void Constraints::make_room(std::uint64_t bytes) {
  MemoryBudget& budget = memory_.budget();
  if (budget.free_bytes() >= bytes) return;
  memory_.ask_and_wait({.target = std::max<std::uint64_t>(1, budget.limit() - std::min(budget.limit(), bytes))});
}

Result<Reservation> Constraints::reserve_trie() {
  std::uint64_t text = 0;
  for (TokenId id = 0; id < vocabulary_.size(); ++id) text += vocabulary_.token_text(id).size();
  const std::uint64_t bytes = trie_bytes(vocabulary_.size(), text);
  make_room(bytes);
  return memory_.budget().reserve(MemoryKind::work, bytes, "the vocabulary's trie, which constraints need,");
}

Result<const Grammars*> Constraints::grammars() {
  const std::lock_guard lock(trie_mutex_);
  if (grammars_) return grammars_.get();
  DALSEGNO_ASSIGN(trie, reserve_trie());
  DALSEGNO_ASSIGN(made, Grammars::create(vocabulary_));
  trie_ = std::move(trie);
  grammars_ = std::move(made);
  return grammars_.get();
}

std::shared_ptr<CompiledGrammar> Constraints::recent(const Constraint& constraint) {
  const std::lock_guard lock(mutex_);
  std::erase_if(recent_, [&](const auto& each) { return each->spent->load() && same(each->constraint, constraint); });
  const auto at = std::ranges::find_if(recent_, [&](const auto& each) { return same(each->constraint, constraint); });
  if (at == recent_.end()) return nullptr;
  std::rotate(recent_.begin(), at, at + 1);
  return recent_.front();
}

Result<GrammarInUse> Constraints::compiled(const Constraint& constraint) {
  DALSEGNO_ASSIGN(grammars, this->grammars());
  const std::uint64_t bytes = CompiledGrammar::most_bytes(constraint);
  if (const std::shared_ptr<CompiledGrammar> there = recent(constraint)) {
    if (!there->is_used()) make_room(bytes);
    DALSEGNO_TRY(there->begin_use(memory_.budget()));
    return GrammarInUse(there, memory_.budget());
  }
  make_room(bytes);
  DALSEGNO_ASSIGN(memory, memory_.budget().reserve(MemoryKind::work, bytes, "the grammar of the constraint"));
  // Others go on meanwhile; that two compile the same at once does no harm.
  DALSEGNO_ASSIGN(matcher, grammars->compile(constraint));
  DALSEGNO_TRY(check_room(matcher, bytes));
  auto made = std::make_shared<CompiledGrammar>(constraint, std::move(matcher), std::move(memory));
  const std::lock_guard lock(mutex_);
  recent_.push_front(made);
  if (recent_.size() > kRecent) recent_.pop_back();
  return GrammarInUse(std::move(made), memory_.budget());
}

Result<void> Constraints::check(const Constraint& constraint) {
  DALSEGNO_TRY(compiled(constraint));
  return {};
}

Result<std::unique_ptr<ConstrainedText>> Constraints::begin(const Constraint& constraint,
                                                            std::span<const TokenId> prompt) {
  DALSEGNO_TRY(check_parts(constraint, prompt));
  DALSEGNO_ASSIGN(compiled, this->compiled(constraint));
  DALSEGNO_ASSIGN(matcher, compiled->clone());
  TextState state = TextState::open;
  if (constraint.kind == Constraint::Kind::tool_calls) {
    const auto before = prompt.first(prompt.size() - static_cast<std::size_t>(constraint.continues));
    if (begins_thoughts(vocabulary_, before)) matcher.think();
  }
  const auto continued = prompt.last(static_cast<std::size_t>(constraint.continues));
  for (std::size_t i = 0; i < continued.size(); ++i) {
    const Result<TextState> next = matcher.consume(continued.subspan(i, 1));
    if (!next.ok()) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("token {} of the {} that the constraint continues is not what it allows: {}", i,
                               continued.size(), next.error().message)};
    }
    state = next.value();
  }
  auto text = std::make_unique<ConstrainedText>(std::move(matcher), state, logits_, std::move(compiled), thread_);
  text->prepare();
  return text;
}

}  // namespace dalsegno
