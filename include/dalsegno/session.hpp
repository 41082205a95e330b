#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dalsegno/engine.hpp"

namespace dalsegno {

struct Message {
  std::string role;
  std::string content;
};

struct SessionOptions {
  // What the conversation has cached stays while the session exists, whatever needs room; see Engine::pin().
  bool pin = false;
};

// A conversation. Replies are spliced into later prompts as the ids that were
// generated, so that tokenising a reply's text again never breaks reuse.
// Threads: one call at a time; a second concurrent call gets an error.
class Session {
 public:
  // Requires: engine outlives the session.
  explicit Session(Engine& engine, std::vector<Message> messages = {}, const SessionOptions& options = {});
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;

  // Adds a user message, generates the reply and adds it too. A cancelled reply is kept as far
  // as it came. On an error the transcript is as it was before the call.
  Result<Reply> respond(std::string_view user_text, const GenerateOptions& options);
  // The same, with text as it comes.
  Result<Reply> stream(std::string_view user_text, const GenerateOptions& options, const GenerateCallbacks& callbacks);

  // Pinned so far; where the last turn's pin was refused, that of an earlier turn, and the refusal as a sentence.
  [[nodiscard]] int pinned_tokens() const;
  [[nodiscard]] const std::string& pin_refusal() const;

  [[nodiscard]] const std::vector<Message>& transcript() const;
  // Replaces the transcript. Messages equal to the present ones at the same place keep their ids;
  // reuse falls back to the true common prefix.
  void set_transcript(std::vector<Message> messages);
  // Drops the last `tokens` tokens of the last prompt and its reply. A reply is cut at the token, or before it where
  // its text would end within a character; other messages go as a whole, and with them what precedes a reply's first
  // token. Says how many tokens are left (prompt_tokens) and what of them is cached. With sliding layers or
  // KvOptions::max_size that may have to be resumed from further back (reuse.stopped: window), which the next turn then
  // computes again. Errors: invalid_argument (a negative number; the session is answering).
  Result<Explanation> trim(int tokens, const std::string& salt = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dalsegno
