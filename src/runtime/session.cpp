#include "dalsegno/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <utility>

#include "runtime/session_impl.hpp"
#include "runtime/tokenizer_impl.hpp"
#include "runtime/tool_calls.hpp"
#include "tensor/kv_view.hpp"

namespace dalsegno {
namespace {

namespace json = boost::json;

int count_turns(const std::vector<Message>& messages) {
  return static_cast<int>(
      std::count_if(messages.begin(), messages.end(), [](const Message& m) { return m.role == "user"; }));
}

std::string to_json(const std::vector<Message>& messages) {
  json::array array;
  for (const Message& message : messages) {
    json::object object{{"role", message.role}, {"content", message.content}};
    if (!message.name.empty()) object["name"] = message.name;
    array.push_back(std::move(object));
  }
  return json::serialize(array);
}

Result<std::string> rendered(const Tokenizer& tokenizer, const std::vector<Message>& messages,
                             const std::string& tools) {
  std::string context = to_json(messages);
  if (!tools.empty()) context = fmt::format(R"({{"messages":{},"tools":{}}})", context, tools);
  return tokenizer.render(context, true);
}

// Stafford's variant 13 of MurmurHash3's finaliser: a bijection, so streams of the same options stay apart.
std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

void keep_common(std::vector<TokenId>& ids, const std::vector<TokenId>& others) {
  const auto end = std::mismatch(ids.begin(), ids.end(), others.begin(), others.end()).first;
  ids.erase(end, ids.end());
}

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

// Takes away the last word, whole or not, and the space before it, as far as no control token stands between: tokens
// that text behind them could merge with.
void drop_last_word(const Vocabulary& vocabulary, std::vector<TokenId>& ids) {
  bool space = false;  // seen, from the end
  while (!ids.empty() && !vocabulary.is_control(ids.back())) {
    const std::string_view bytes = vocabulary.bytes(ids.back());
    bool before = false;  // a part of the token stands before that word and space
    bool within = bytes.empty();
    for (std::size_t i = bytes.size(); i-- > 0 && !before;) {
      before = space && !is_space(bytes[i]);
      within = within || !before;
      space = space || is_space(bytes[i]);
    }
    if (!within) return;
    ids.pop_back();
    if (before) return;
  }
}

}  // namespace

Session::Impl::Impl(Engine& its_engine, State its_state) : engine(its_engine), state(std::move(its_state)) {
  if (const auto memory = ProcessMemory::current()) use = memory->use();
}

Result<void> Session::Impl::Claim::check() const {
  if (held_) return {};
  return Error{ErrorCode::invalid_argument,
               "the session is at work already; wait for that call to end, or use another session or a fork"};
}

Session::Impl::Rollback::~Rollback() {
  if (kept_) return;
  state_.messages.resize(messages_);
  state_.reports.resize(reports_);
}

Result<std::string> Session::Impl::render(const std::vector<Message>& messages) const {
  return rendered(engine.tokenizer(), messages, state.tools_json);
}

// What all prompts begin with is seen from several of them. Templates may strip space, and tokens may merge with what
// the user says in more ways than these texts show, so the last word before it is left out.
Result<std::vector<TokenId>> Session::Impl::common_beginning() const {
  std::vector<Message> messages = state.messages;
  messages.push_back({"user", ""});
  std::vector<TokenId> common;
  for (const char* beginning : {"a", "Z", " a", "\na", "\n\na", "\ta", "  a", "1", ".", "'s", "\"", "<", "\xC3\xA9",
                                "\xE6\x97\xA5", "\xF0\x9F\x99\x82"}) {
    messages.back().content = beginning;
    DALSEGNO_ASSIGN(text, render(messages));
    DALSEGNO_ASSIGN(ids, state.prompts.peek(engine.tokenizer(), text));
    if (common.empty()) {
      common = std::move(ids);
    } else {
      keep_common(common, ids);
    }
    if (common.empty()) break;
  }
  drop_last_word(*engine.tokenizer().impl().vocabulary, common);
  return common;
}

Result<Reply> Session::Impl::answer(GenerateOptions options, const GenerateCallbacks& callbacks) {
  DALSEGNO_ASSIGN(text, render(state.messages));
  DALSEGNO_ASSIGN(prompt, state.prompts.encode(engine.tokenizer(), text));
  const GenerateOptions asked = options;
  DALSEGNO_ASSIGN(constraint, constraint_of(options));
  options.constraint = std::move(constraint);
  options.tool_choice.reset();
  if (state.stream != 0) options.sampling.stream = mixed(options.sampling.stream ^ state.stream);
  DALSEGNO_ASSIGN(reply, engine.generate(prompt, options, callbacks));
  state.options = asked;
  loaded = {};
  // A reply that ended inside a character or before a stop text is not its ids' text.
  const Result<std::string> whole = engine.tokenizer().decode(reply.ids);
  if (whole.ok() && whole.value() == reply.text) state.prompts.add_reply(reply.text, reply.ids);
  state.reports.push_back({count_turns(state.messages), state.messages.size(), reply.usage, reply.reuse, reply.ttft_ms,
                           reply.tokens_per_second});
  state.messages.push_back({"assistant", reply.text});
  if (state.pin) keep(reply, options.salt);
  return reply;
}

void Session::Impl::keep(const Reply& reply, const std::string& salt) {
  std::vector<TokenId> tokens = reply.prompt_ids;
  tokens.insert(tokens.end(), reply.ids.begin(), reply.ids.end());
  tokens.resize((tokens.size() - 1) / kBlockTokens * kBlockTokens);
  pin_refusal.clear();
  if (tokens.empty()) return;
  Result<Pin> pinned = engine.pin(tokens, salt);
  if (pinned.ok()) {
    pin = std::move(pinned).value();
  } else {
    pin_refusal = pinned.error().message;
  }
}

std::size_t Session::Impl::begin_of(int turn) const {
  std::size_t at = 0;
  for (; at < state.messages.size(); ++at) {
    if (state.messages[at].role == "user" && --turn == 0) break;
  }
  return at;
}

Result<void> Session::Impl::check_turn(int turn, int least) const {
  const int turns = count_turns(state.messages);
  if (turn >= least && turn <= turns) return {};
  return Error{ErrorCode::invalid_argument,
               fmt::format("there is no turn {}; the session has {}, numbered from 1", turn, turns)};
}

void Session::Impl::truncate(std::size_t messages) {
  std::erase_if(state.reports, [&](const ReplyReport& report) { return report.message >= messages; });
  state.messages.resize(messages);
}

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::Session(Engine& engine, std::vector<Message> messages) {
  Impl::State state;
  state.messages = std::move(messages);
  impl_ = std::make_unique<Impl>(engine, std::move(state));
}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

Result<Session> Session::create(Engine& engine, SessionOptions options) {
  Impl::State state;
  if (!options.instructions.empty()) state.messages.push_back({"system", std::move(options.instructions)});
  std::move(options.messages.begin(), options.messages.end(), std::back_inserter(state.messages));
  state.call_style = options.call_style;
  state.pin = options.pin;
  state.tool_choice = std::move(options.tool_choice);
  state.strict = options.strict;
  if (!options.tools.empty()) {
    DALSEGNO_ASSIGN(tools, tools_json(options.tools));
    const std::vector<Message> probe{{"user", "a"}};
    DALSEGNO_ASSIGN(without, rendered(engine.tokenizer(), probe, ""));
    DALSEGNO_ASSIGN(with, rendered(engine.tokenizer(), probe, tools));
    if (with == without) {
      return Error{ErrorCode::unsupported,
                   "the model's chat template has no place for tools; describe them in the instructions instead"};
    }
    if (state.call_style == ToolCallStyle::automatic) state.call_style = style_asked_for(with);
    state.tools_json = std::move(tools);
    state.tools = std::make_shared<const std::vector<Tool>>(std::move(options.tools));
  }
  auto impl = std::make_unique<Impl>(engine, std::move(state));
  DALSEGNO_TRY(impl->check_tools());
  return Session(std::move(impl));
}

Result<Reply> Session::respond(std::string_view user_text, const GenerateOptions& options) {
  return stream(user_text, options, {});
}

Result<Reply> Session::stream(std::string_view user_text, const GenerateOptions& options,
                              const GenerateCallbacks& callbacks) {
  const Impl::Claim claim(*impl_);
  DALSEGNO_TRY(claim.check());
  Impl::Rollback rollback(impl_->state);
  impl_->state.messages.push_back({"user", std::string(user_text)});
  DALSEGNO_ASSIGN(reply, impl_->answer(options, callbacks));
  rollback.keep();
  return reply;
}

Result<Reply> Session::reply(const GenerateOptions& options, const GenerateCallbacks& callbacks) {
  const Impl::Claim claim(*impl_);
  DALSEGNO_TRY(claim.check());
  const std::vector<Message>& messages = impl_->state.messages;
  if (messages.empty() || messages.back().role == "assistant")
    return Error{ErrorCode::invalid_argument, "there is nothing to reply to: the last message is not the user's"};
  return impl_->answer(options, callbacks);
}

Result<int> Session::prewarm(const GenerateOptions& options, const GenerateCallbacks& callbacks) {
  const Impl::Claim claim(*impl_);
  DALSEGNO_TRY(claim.check());
  if (!options.reuse) return Error{ErrorCode::invalid_argument, "without reuse nothing stays warm"};
  DALSEGNO_ASSIGN(ids, impl_->common_beginning());
  if (ids.empty()) return 0;
  // The token drawn after it has no K/V and is forgotten.
  const GenerateOptions only_prompt{
      .max_tokens = 1, .salt = options.salt, .scheduling = options.scheduling, .chunk = options.chunk};
  DALSEGNO_ASSIGN(reply, impl_->engine.generate(ids, only_prompt, callbacks));
  return reply.usage.reused_tokens + reply.usage.prefilled_tokens;
}

Result<Session> Session::fork(Draws draws) {
  const Impl::Claim claim(*impl_);
  DALSEGNO_TRY(claim.check());
  Impl::State state = impl_->state;
  if (draws == Draws::independent) state.stream = mixed(mixed(state.stream + 1) + ++impl_->forks);
  return Session(std::make_unique<Impl>(impl_->engine, std::move(state)));
}

Result<void> Session::rewind(int turn) {
  const Impl::Claim claim(*impl_);
  DALSEGNO_TRY(claim.check());
  DALSEGNO_TRY(impl_->check_turn(turn, 0));
  impl_->truncate(impl_->begin_of(turn + 1));
  return {};
}

Result<void> Session::edit(int turn, std::string_view user_text) {
  const Impl::Claim claim(*impl_);
  DALSEGNO_TRY(claim.check());
  DALSEGNO_TRY(impl_->check_turn(turn, 1));
  impl_->truncate(impl_->begin_of(turn));
  impl_->state.messages.push_back({"user", std::string(user_text)});
  return {};
}

Result<void> Session::set_transcript(std::vector<Message> messages) {
  const Impl::Claim claim(*impl_);
  DALSEGNO_TRY(claim.check());
  const std::vector<Message>& former = impl_->state.messages;
  const auto changed = std::mismatch(former.begin(), former.end(), messages.begin(), messages.end()).first;
  impl_->truncate(static_cast<std::size_t>(changed - former.begin()));
  impl_->state.messages = std::move(messages);
  return {};
}

const std::vector<Message>& Session::transcript() const {
  return impl_->state.messages;
}

int Session::pinned_tokens() const {
  return impl_->pin.tokens();
}

const std::string& Session::pin_refusal() const {
  return impl_->pin_refusal;
}

int Session::turns() const {
  return count_turns(impl_->state.messages);
}

const GenerateOptions& Session::last_options() const {
  return impl_->state.options;
}

const std::vector<ReplyReport>& Session::reports() const {
  return impl_->state.reports;
}

std::set<std::string>& Session::tags() {
  return impl_->state.tags;
}

const std::set<std::string>& Session::tags() const {
  return impl_->state.tags;
}

}  // namespace dalsegno
