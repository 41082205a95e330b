#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/files.hpp"
#include "dalsegno/prompt_cache.hpp"
#include "dalsegno/session.hpp"
#include "runtime/process_memory.hpp"
#include "runtime/splice.hpp"

namespace dalsegno {

struct Session::Impl {
  // What a fork takes with it.
  struct State {
    std::vector<Message> messages;
    std::vector<ReplyReport> reports;
    PromptMemory prompts;
    std::shared_ptr<const std::vector<Tool>> tools;
    std::string tools_json;  // empty: none
    ToolCallStyle call_style = ToolCallStyle::automatic;
    ToolChoice tool_choice;
    bool strict = true;
    std::uint64_t stream = 0;  // mixed into that of the options; 0: theirs as it is
    std::set<std::string> tags;
    bool pin = false;
    GenerateOptions options;  // of the last reply
  };

  // The right to work on a session, taken by each call and given back at its end.
  class Claim {
   public:
    explicit Claim(Impl& session) : session_(session), held_(!session.busy.exchange(true)) {}
    ~Claim() {
      if (held_) session_.busy = false;
    }
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;
    [[nodiscard]] Result<void> check() const;

   private:
    Impl& session_;
    const bool held_;
  };

  // Takes back what a call has added to the transcript, unless it is kept.
  class Rollback {
   public:
    explicit Rollback(State& state) : state_(state), messages_(state.messages.size()), reports_(state.reports.size()) {}
    ~Rollback();
    Rollback(const Rollback&) = delete;
    Rollback& operator=(const Rollback&) = delete;
    void keep() { kept_ = true; }

   private:
    State& state_;
    const std::size_t messages_, reports_;
    bool kept_ = false;
  };

  Impl(Engine& its_engine, State its_state);

  [[nodiscard]] Result<std::string> render(const std::vector<Message>& messages) const;
  // Ids that the next turn's prompt begins with whatever the user says.
  [[nodiscard]] Result<std::vector<TokenId>> common_beginning() const;
  // What calls must look like in a reply to these options. Errors: invalid_argument (a choice that cannot be).
  [[nodiscard]] Result<std::optional<Constraint>> constraint_of(const GenerateOptions& options) const;
  // Compiles what calls must look like. Errors: those of Constraints::begin.
  [[nodiscard]] Result<void> check_tools() const;
  // Generates the reply to the transcript and adds it.
  Result<Reply> answer(GenerateOptions options, const GenerateCallbacks& callbacks);
  // Pins what the reply has left cached: all but its last token, which has no K/V yet.
  void keep(const Reply& reply, const std::string& salt);
  Result<void> save(FileSystem& files, const std::string& path);
  static Result<std::unique_ptr<Impl>> load(FileSystem& files, const std::string& path, Engine& engine,
                                            const std::vector<Tool>& tools, const std::string& salt);
  // Where the given turn's user message stands; of the turn after the last, the end. Requires: 1 <= turn <= turns + 1.
  [[nodiscard]] std::size_t begin_of(int turn) const;
  [[nodiscard]] Result<void> check_turn(int turn, int least) const;
  void truncate(std::size_t messages);
  // A reply that stays, cut, as the last message.
  struct Cut {
    std::size_t message = 0;
    std::string before;           // its prompt, rendered
    std::vector<TokenId> prompt;  // the ids of that
    std::vector<TokenId> reply;   // those that stay; never empty
    std::string text;             // theirs
  };
  // Without the last `tokens` tokens. Nothing: no reply stays.
  [[nodiscard]] Result<std::optional<Cut>> cut(int tokens) const;
  // Runs the calls, adding what they return. False if one repeats an earlier one; then none is run.
  bool run_calls(const Result<std::vector<ToolCall>>& calls, const std::string& text, ToolsReply& so_far,
                 std::set<std::string>& seen);
  [[nodiscard]] ToolRun run(const ToolCall& call) const;

  Engine& engine;
  State state;
  Pin pin = {};  // of the last turn that could be pinned
  std::string pin_refusal = {};
  std::uint64_t forks = 0;
  PromptCache loaded = {};  // until the next reply has its K/V
  std::atomic<bool> busy{false};
  ProcessMemory::Use use = {};  // what a conversation has cached stays while it goes on
};

}  // namespace dalsegno
