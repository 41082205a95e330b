#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "dalsegno/engine.hpp"
#include "dalsegno/tools.hpp"

namespace dalsegno {

struct Message {
  std::string role;
  std::string content;
  std::string name{};  // of the tool that answers, in messages of role "tool"
  bool operator==(const Message&) const = default;
};

struct SessionOptions {
  std::string instructions{};  // the system message, first of all
  std::vector<Tool> tools{};   // told to the model by its chat template
  ToolCallStyle call_style = ToolCallStyle::automatic;
  ToolChoice tool_choice{};  // of turns whose GenerateOptions have none
  // Calls are enforced: see tool_calls() in tools.hpp. Without, the model writes what it likes, and calls may be
  // malformed; then there is no other tool_choice than automatic.
  bool strict = true;
  std::vector<Message> messages{};  // what was said before
  // What the conversation has cached stays while the session exists, whatever needs room; see Engine::pin().
  bool pin = false;
};

// What a reply took. With tools a turn has several.
struct ReplyReport {
  int turn = 0;             // 1 for the first user message
  std::size_t message = 0;  // the reply's place in transcript()
  Usage usage;
  Reuse reuse;
  double ttft_ms = 0;
  double tokens_per_second = 0;
};

// Why Session::run_tools ended.
enum class ToolsEnded : std::uint8_t {
  answered,    // the last reply calls nothing
  rounds,      // it calls once more, after as many rounds as were allowed
  repeated,    // it repeats a call that was answered in this turn: the same name and arguments
  unfinished,  // it was cancelled or as long as allowed
};
[[nodiscard]] const char* name(ToolsEnded ended);

struct ToolRun {
  ToolCall call;
  std::string result;
  bool failed = false;  // the result says why
};

struct ToolsReply {
  Reply reply;  // the last; unless answered, calls in it were not run
  ToolsEnded ended = ToolsEnded::answered;
  int rounds = 0;             // replies whose calls were run
  std::vector<ToolRun> runs;  // in their order
};

// A conversation. Replies are spliced into later prompts as the ids that were generated, so that tokenising a reply's
// text again never breaks reuse. A turn is a user message and all until the next one; turns are numbered from 1.
// Threads: one call at a time. A second one, also from a callback or a tool, gets invalid_argument and changes nothing.
// Errors, of all that renders: invalid_argument (no chat template, or it refuses the messages); of all that runs
// the model: those of Engine::generate.
class Session {
 public:
  // Requires: engine outlives the session.
  explicit Session(Engine& engine, std::vector<Message> messages = {});
  // Errors: invalid_argument (a tool's name or schema; one that cannot be enforced is named), unsupported (the chat
  // template tells the model of no tools), exhausted (no memory for the grammar).
  static Result<Session> create(Engine& engine, SessionOptions options);
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;

  // Adds a user message, generates the reply and adds it too. A cancelled reply is kept as far
  // as it came. On an error the transcript is as it was before the call.
  Result<Reply> respond(std::string_view user_text, const GenerateOptions& options);
  // The same, with text as it comes.
  Result<Reply> stream(std::string_view user_text, const GenerateOptions& options, const GenerateCallbacks& callbacks);
  // The same for the transcript as it stands. Errors: invalid_argument (the assistant has the last word).
  Result<Reply> reply(const GenerateOptions& options, const GenerateCallbacks& callbacks = {});
  // The same as stream(), and runs the tools that replies call, adding what they return, until one answers. In each
  // of `most_rounds` rounds the model may call several. A malformed call gets told so. Once tools have been run a
  // tool_choice of `required` or `named` counts as automatic: a model that must call would never answer.
  // Errors: as stream(), also if tools have been run by then; invalid_argument (no tools).
  Result<ToolsReply> run_tools(std::string_view user_text, const GenerateOptions& options, int most_rounds = 8,
                               const GenerateCallbacks& callbacks = {});

  // Pinned so far; where the last turn's pin was refused, that of an earlier turn, and the refusal as a sentence.
  [[nodiscard]] int pinned_tokens() const;
  [[nodiscard]] const std::string& pin_refusal() const;

  // Computes and caches what the prompt of the next turn begins with, whatever the user will say: instructions, tools,
  // the transcript. Returns how many tokens of that prompt are cached then; less only if cancelled. Uses salt and
  // chunk. Errors: invalid_argument (without reuse nothing is kept).
  Result<int> prewarm(const GenerateOptions& options = {}, const GenerateCallbacks& callbacks = {});

  // A session that shares all so far, cached and said, and goes its own way. `same`: it draws as this one would. Else
  // it draws from a stream of its own, which depends on this session's and on how many forks of it came before.
  enum class Draws : std::uint8_t { independent, same };
  Result<Session> fork(Draws draws = Draws::independent);
  // Back to after the given turn; 0: before the first. Errors: invalid_argument (there is no such turn), as edit().
  Result<void> rewind(int turn);
  // Replaces the user's message of a turn and drops what followed; reply() answers. What is dropped stays cached.
  Result<void> edit(int turn, std::string_view user_text);
  // Replaces the transcript. What it begins with of this one, or of one of the latest others, keeps its ids.
  Result<void> set_transcript(std::vector<Message> messages);
  // Drops the last `tokens` tokens of the last prompt and its reply. A reply is cut at the token, or before it where
  // its text would end within a character; other messages go as a whole, and with them what precedes a reply's first
  // token. Says how many tokens are left (prompt_tokens) and what of them is cached. With sliding layers or
  // KvOptions::max_size that may have to be resumed from further back (reuse.stopped: window), which the next turn then
  // computes again. Errors: invalid_argument (a negative number).
  Result<Explanation> trim(int tokens, const std::string& salt = {});

  // One file with all of this: what was said, tools, tags, how the last reply was asked for, what draws depend on, and
  // the K/V (docs/saved_caches.md); what is at `path` stays until that is written. Errors: io, exhausted.
  Result<void> save(const std::string& path);
  // Goes on in any process as the saved one would have, to the bit. tools: the same as then, for their handlers, or
  // none: then run_tools() is refused. Errors: as PromptCache::load, unsupported (no session in
  // it), invalid_argument (other tools).
  static Result<Session> load(Engine& engine, const std::string& path, const std::vector<Tool>& tools = {},
                              const std::string& salt = {});

  // Not while a call is under way on another thread, as all below.
  [[nodiscard]] const std::vector<Message>& transcript() const;
  [[nodiscard]] int turns() const;
  // As the last reply was asked for, before a restart too: then with the salt that load() was given, and without its
  // logits processor.
  [[nodiscard]] const GenerateOptions& last_options() const;
  // Of the replies in the transcript that were generated here or in the session it was forked from, in their order.
  [[nodiscard]] const std::vector<ReplyReport>& reports() const;
  // The caller's own words for a session. Forks begin with the same.
  [[nodiscard]] std::set<std::string>& tags();
  [[nodiscard]] const std::set<std::string>& tags() const;

  struct Impl;  // runtime/session_impl.hpp

 private:
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dalsegno
