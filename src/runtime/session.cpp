#include "dalsegno/session.hpp"

#include <algorithm>
#include <atomic>
#include <optional>
#include <span>
#include <utility>

#include "runtime/process_memory.hpp"
#include "runtime/splice.hpp"
#include "tensor/kv_view.hpp"

namespace dalsegno {
namespace {

struct Release {
  std::atomic<bool>& busy;
  ~Release() { busy = false; }
};

Error is_busy() {
  return {ErrorCode::invalid_argument, "the session is answering already; wait for that reply or use another session"};
}

}  // namespace

struct Session::Impl {
  struct Trimmed {
    std::vector<Message> messages;
    std::vector<std::vector<TokenId>> replies;
    std::vector<TokenId> ids;  // the last prompt and its reply
  };
  // Without the last `tokens` tokens.
  [[nodiscard]] Result<Trimmed> trimmed(int tokens) const;

  Engine& engine;
  std::vector<Message> messages;
  std::vector<std::vector<TokenId>> replies;  // [messages.size()]: ids that decode to the content, or empty
  SessionOptions options;
  Pin pin = {};
  std::string pin_refusal = {};
  std::atomic<bool> busy{false};
  ProcessMemory::Use use = {};  // what a conversation has cached stays while it goes on

  // Pins what the turn has left cached: all but the last token of the reply, which has no K/V yet.
  void keep(const Reply& reply, const std::string& salt) {
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
};

Session::Session(Engine& engine, std::vector<Message> messages, const SessionOptions& options)
    : impl_(new Impl{engine, std::move(messages), {}, options}) {
  impl_->replies.resize(impl_->messages.size());
  if (const auto memory = ProcessMemory::current()) impl_->use = memory->use();
}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

Result<Reply> Session::respond(std::string_view user_text, const GenerateOptions& options) {
  return stream(user_text, options, {});
}

Result<Reply> Session::stream(std::string_view user_text, const GenerateOptions& options,
                              const GenerateCallbacks& callbacks) {
  Impl& self = *impl_;
  if (self.busy.exchange(true)) return is_busy();
  const Release release{self.busy};

  std::vector<Message> messages = self.messages;
  std::vector<std::vector<TokenId>> replies = self.replies;
  messages.push_back({"user", std::string(user_text)});
  replies.emplace_back();
  DALSEGNO_ASSIGN(prompt, conversation_ids(self.engine.tokenizer(), messages, replies));
  DALSEGNO_ASSIGN(reply, self.engine.generate(prompt, options, callbacks));
  messages.push_back({"assistant", reply.text});
  // A reply that ended inside a character or before a stop text is not its ids' text.
  Result<std::string> text = self.engine.tokenizer().decode(reply.ids);
  replies.push_back(text.ok() && text.value() == reply.text ? reply.ids : std::vector<TokenId>());
  self.messages = std::move(messages);
  self.replies = std::move(replies);
  if (self.options.pin) self.keep(reply, options.salt);
  return reply;
}

// From the last reply on backwards: the first whose prompt ends before the cut stays, as far as it goes.
Result<Session::Impl::Trimmed> Session::Impl::trimmed(int tokens) const {
  std::optional<std::size_t> left;
  for (std::size_t at = messages.size(); at-- > 0;) {
    if (replies[at].empty()) continue;
    const auto before = std::span(messages).first(at);
    DALSEGNO_ASSIGN(ids, conversation_ids(engine.tokenizer(), before, std::span(replies).first(at)));
    const std::size_t all = ids.size() + replies[at].size();
    if (!left) left = all - std::min(all, static_cast<std::size_t>(tokens));
    std::vector<TokenId> reply = replies[at];
    while (ids.size() + reply.size() > std::max(*left, ids.size())) reply.pop_back();
    for (; !reply.empty(); reply.pop_back()) {
      const Result<std::string> text = engine.tokenizer().decode(reply);
      if (!text.ok() || !messages[at].content.starts_with(*text)) continue;  // ends within a character
      Trimmed kept{
          {before.begin(), before.end()}, {replies.begin(), replies.begin() + static_cast<std::ptrdiff_t>(at)}, {}};
      kept.messages.push_back({messages[at].role, *text});
      ids.insert(ids.end(), reply.begin(), reply.end());
      kept.ids = std::move(ids);
      kept.replies.push_back(std::move(reply));
      return kept;
    }
  }
  const auto user = std::ranges::find(messages, "user", &Message::role);
  Trimmed kept{{messages.begin(), user}, {}, {}};
  kept.replies.resize(kept.messages.size());
  return kept;
}

Result<Explanation> Session::trim(int tokens, const std::string& salt) {
  Impl& self = *impl_;
  if (self.busy.exchange(true)) return is_busy();
  const Release release{self.busy};
  if (tokens < 0) return Error{ErrorCode::invalid_argument, "a negative number of tokens cannot be dropped"};
  DALSEGNO_ASSIGN(kept, self.trimmed(tokens));
  Explanation seen;
  if (!kept.ids.empty()) {
    DALSEGNO_ASSIGN(explained, self.engine.explain(kept.ids, salt));
    seen = explained;
  }
  self.messages = std::move(kept.messages);
  self.replies = std::move(kept.replies);
  return seen;
}

int Session::pinned_tokens() const {
  return impl_->pin.tokens();
}

const std::string& Session::pin_refusal() const {
  return impl_->pin_refusal;
}

const std::vector<Message>& Session::transcript() const {
  return impl_->messages;
}

void Session::set_transcript(std::vector<Message> messages) {
  std::vector<std::vector<TokenId>> replies(messages.size());
  for (std::size_t i = 0; i < std::min(messages.size(), impl_->messages.size()); ++i) {
    const Message& former = impl_->messages[i];
    if (former.role == messages[i].role && former.content == messages[i].content)
      replies[i] = std::move(impl_->replies[i]);
  }
  impl_->messages = std::move(messages);
  impl_->replies = std::move(replies);
}

}  // namespace dalsegno
