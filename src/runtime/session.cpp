#include "dalsegno/session.hpp"

#include <atomic>
#include <utility>

#include "runtime/process_memory.hpp"
#include "runtime/splice.hpp"

namespace dalsegno {

struct Session::Impl {
  Engine& engine;
  std::vector<Message> messages;
  std::vector<std::vector<TokenId>> replies;  // [messages.size()]: ids that decode to the content, or empty
  std::atomic<bool> busy{false};
  ProcessMemory::Use use = {};  // what a conversation has cached stays while it goes on
};

Session::Session(Engine& engine, std::vector<Message> messages) : impl_(new Impl{engine, std::move(messages), {}}) {
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
  if (self.busy.exchange(true)) {
    return Error{ErrorCode::invalid_argument,
                 "the session is answering already; wait for that reply or use another session"};
  }
  const struct Release {
    std::atomic<bool>& busy;
    ~Release() { busy = false; }
  } release{self.busy};

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
  return reply;
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
