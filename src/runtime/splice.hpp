#pragma once

#include <span>
#include <vector>

#include "dalsegno/result.hpp"
#include "dalsegno/session.hpp"
#include "dalsegno/tokenizer.hpp"

namespace dalsegno {

// The prompt of a conversation as ids, with the replies of earlier turns as the very ids that were
// generated: replies[i] are those of messages[i], empty where it has none.
// The template is rendered with a mark in place of each such reply, and the ids go where the marks are, but
// only where the template passes the reply's text on unchanged; elsewhere the rendered text is
// tokenised as it is.
// Requires: replies.size() == messages.size(), and each non-empty entry decodes to its message's content.
Result<std::vector<TokenId>> conversation_ids(const Tokenizer& tokenizer, std::span<const Message> messages,
                                              std::span<const std::vector<TokenId>> replies);

}  // namespace dalsegno
