#include <algorithm>
#include <utility>

#include "runtime/session_impl.hpp"

namespace dalsegno {

// From the last reply on backwards: the first whose prompt ends before the cut stays, as far as it goes.
Result<std::optional<Session::Impl::Cut>> Session::Impl::cut(int tokens) const {
  std::optional<std::size_t> left;
  for (std::size_t at = state.messages.size(); at-- > 0;) {
    const Message& message = state.messages[at];
    if (message.role != "assistant") continue;
    Cut kept;
    kept.message = at;
    DALSEGNO_ASSIGN(before, render({state.messages.begin(), state.messages.begin() + static_cast<std::ptrdiff_t>(at)}));
    DALSEGNO_ASSIGN(prompt, state.prompts.peek(engine.tokenizer(), before));
    DALSEGNO_ASSIGN(ids, state.prompts.peek(engine.tokenizer(), before + message.content));
    if (ids.size() <= prompt.size() || !std::equal(prompt.begin(), prompt.end(), ids.begin())) continue;
    if (!left) left = ids.size() - std::min(ids.size(), static_cast<std::size_t>(tokens));
    if (*left <= prompt.size()) continue;
    ids.resize(std::min(ids.size(), *left));
    kept.reply.assign(ids.begin() + static_cast<std::ptrdiff_t>(prompt.size()), ids.end());
    for (; !kept.reply.empty(); kept.reply.pop_back()) {
      Result<std::string> text = engine.tokenizer().decode(kept.reply);
      if (!text.ok() || !message.content.starts_with(*text)) continue;  // ends within a character
      kept.before = std::move(before);
      kept.prompt = std::move(prompt);
      kept.text = std::move(text).value();
      return std::optional(std::move(kept));
    }
  }
  return std::optional<Cut>();
}

Result<Explanation> Session::trim(int tokens, const std::string& salt) {
  Impl& self = *impl_;
  const Impl::Claim claim(self);
  DALSEGNO_TRY(claim.check());
  if (tokens < 0) return Error{ErrorCode::invalid_argument, "a negative number of tokens cannot be dropped"};
  DALSEGNO_ASSIGN(kept, self.cut(tokens));
  if (!kept) {
    self.truncate(self.begin_of(1));
    return Explanation{};
  }
  std::vector<TokenId> ids = kept->prompt;
  ids.insert(ids.end(), kept->reply.begin(), kept->reply.end());
  DALSEGNO_ASSIGN(seen, self.engine.explain(ids, salt));
  DALSEGNO_TRY(self.state.prompts.encode(self.engine.tokenizer(), kept->before));
  self.state.prompts.add_reply(kept->text, kept->reply);
  self.truncate(kept->message + 1);
  self.state.messages.back().content = std::move(kept->text);
  return seen;
}

}  // namespace dalsegno
