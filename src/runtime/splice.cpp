#include "runtime/splice.hpp"

#include <boost/json.hpp>
#include <string>
#include <string_view>

namespace dalsegno {
namespace {

// A text that occurs in no message, so that it can stand for a reply in a rendered template.
std::string unused_mark(std::span<const Message> messages) {
  for (int serial = 0;; ++serial) {
    std::string mark = "dalsegno-reply-" + std::to_string(serial) + "-";
    bool used = false;
    for (const Message& message : messages) used = used || message.content.find(mark) != std::string::npos;
    if (!used) return mark;
  }
}

std::string mark_of(const std::string& mark, std::size_t index) {
  return mark + std::to_string(index) + ".";
}

// The messages as JSON, with marks for the contents of those in `marked`.
std::string to_json(std::span<const Message> messages, const std::vector<bool>& marked, const std::string& mark) {
  boost::json::array array;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    array.push_back({{"role", messages[i].role}, {"content", marked[i] ? mark_of(mark, i) : messages[i].content}});
  }
  return boost::json::serialize(array);
}

// A rendered prompt cut at its marks: texts[0], reply, texts[1], reply, ..., texts.back().
struct Pieces {
  std::vector<std::string> texts;
  std::vector<std::size_t> replies;  // message indices
};

// Cuts `rendered` at the marks, each of which must stand in it once and in order. False otherwise.
bool cut(std::string_view rendered, const std::vector<bool>& marked, const std::string& mark, Pieces& pieces) {
  std::size_t from = 0;
  for (std::size_t i = 0; i < marked.size(); ++i) {
    if (!marked[i]) continue;
    const std::string own = mark_of(mark, i);
    const std::size_t at = rendered.find(own, from);
    if (at == std::string_view::npos) return false;
    pieces.texts.emplace_back(rendered.substr(from, at - from));
    pieces.replies.push_back(i);
    from = at + own.size();
  }
  pieces.texts.emplace_back(rendered.substr(from));
  for (const std::string& text : pieces.texts) {
    if (text.find(mark) != std::string::npos) return false;
  }
  return true;
}

bool same_text(const Pieces& pieces, std::span<const Message> messages, std::string_view rendered) {
  std::string joined = pieces.texts[0];
  for (std::size_t i = 0; i < pieces.replies.size(); ++i)
    joined += messages[pieces.replies[i]].content + pieces.texts[i + 1];
  return joined == rendered;
}

// True if rendering with these marks and putting the replies back gives `rendered`.
Result<bool> try_marks(const Tokenizer& tokenizer, std::span<const Message> messages, const std::vector<bool>& marked,
                       const std::string& mark, std::string_view rendered, Pieces& pieces) {
  DALSEGNO_ASSIGN(text, tokenizer.render(to_json(messages, marked, mark), true));
  pieces = {};
  return cut(text, marked, mark, pieces) && same_text(pieces, messages, rendered);
}

Result<Pieces> find_pieces(const Tokenizer& tokenizer, std::span<const Message> messages,
                           std::span<const std::vector<TokenId>> replies, const std::string& rendered) {
  const std::string mark = unused_mark(messages);
  const std::vector<bool> none(messages.size(), false);
  std::vector<bool> all = none;
  bool any = false;
  for (std::size_t i = 0; i < messages.size(); ++i) any = (all[i] = !replies[i].empty()) || any;
  Pieces pieces{{rendered}, {}};
  if (!any) return pieces;
  DALSEGNO_ASSIGN(all_fit, try_marks(tokenizer, messages, all, mark, rendered, pieces));
  if (all_fit) return pieces;
  // Some reply is changed by the template (thinking dropped, text stripped): keep those that are not.
  std::vector<bool> fitting = none;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (!all[i]) continue;
    std::vector<bool> one = none;
    one[i] = true;
    DALSEGNO_ASSIGN(fits, try_marks(tokenizer, messages, one, mark, rendered, pieces));
    fitting[i] = fits;
  }
  DALSEGNO_ASSIGN(fit, try_marks(tokenizer, messages, fitting, mark, rendered, pieces));
  if (!fit) pieces = {{rendered}, {}};
  return pieces;
}

}  // namespace

Result<std::vector<TokenId>> conversation_ids(const Tokenizer& tokenizer, std::span<const Message> messages,
                                              std::span<const std::vector<TokenId>> replies) {
  const std::vector<bool> none(messages.size(), false);
  DALSEGNO_ASSIGN(rendered, tokenizer.render(to_json(messages, none, ""), true));
  DALSEGNO_ASSIGN(pieces, find_pieces(tokenizer, messages, replies, rendered));
  std::vector<TokenId> ids;
  for (std::size_t i = 0; i < pieces.texts.size(); ++i) {
    DALSEGNO_ASSIGN(part, tokenizer.encode(pieces.texts[i], {.special = true, .bos = false}));
    ids.insert(ids.end(), part.begin(), part.end());
    if (i >= pieces.replies.size()) continue;
    const std::vector<TokenId>& reply = replies[pieces.replies[i]];
    ids.insert(ids.end(), reply.begin(), reply.end());
  }
  return ids;
}

}  // namespace dalsegno
