#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <optional>

#include "base/files.hpp"
#include "cli/cache_lines.hpp"
#include "cli/json.hpp"
#include "cli/line_editor.hpp"
#include "cli/models_folder.hpp"
#include "cli/options.hpp"
#include "cli/reply_report.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "dalsegno/session.hpp"

namespace dalsegno::cli {
namespace {

struct ChatOptions {
  CommonOptions common;
  GenerateOptions generate;
  std::string system;
  std::string session;  // a file; empty: none
  bool show_ids = false;
};

constexpr const char* kWelcome = "/help lists the commands; Ctrl-C ends a reply; Ctrl-D ends the conversation.\n\n";
constexpr const char* kCommands =
    "/undo   take back the last question and its reply\n"
    "/trim N drop the last N tokens: the end of a reply, other messages as a whole\n"
    "/reset  begin again; what is cached stays cached\n"
    "/cache  show what the cache has done so far and what it holds\n"
    "/exit   leave, as Ctrl-D does\n";

// One conversation, whoever types it: a person at a terminal or a file of questions.
class Chat {
 public:
  Chat(Engine& engine, const ChatOptions& options)
      : options_(options), engine_(engine), session_(engine, beginning()) {}

  // Goes on where the session's file ends, if there is one.
  Result<void> resume();

  // Answers each line of standard input.
  Result<int> follow_script();
  // Answers what is typed until the person leaves.
  Result<int> follow_person();

 private:
  [[nodiscard]] std::vector<Message> beginning() const;
  Result<Reply> ask(const std::string& question);
  Result<void> print_reply(const Reply& reply);
  Result<void> save();
  // False to leave.
  bool obey(const std::string& command);
  void undo();
  void trim(const std::string& count);

  const ChatOptions& options_;
  Engine& engine_;
  Session session_;
  DamageWarning damage_;
  int turn_ = 0;
};

std::vector<Message> Chat::beginning() const {
  if (options_.system.empty()) return {};
  return {{.role = "system", .content = options_.system}};
}

Result<Reply> Chat::ask(const std::string& question) {
  PrefillProgress progress;
  return session_.stream(question, options_.generate, live_callbacks(!options_.common.json, progress));
}

Result<void> Chat::resume() {
  if (options_.session.empty()) return {};
  auto loaded = Session::load(engine_, options_.session, {}, options_.generate.salt);
  if (!loaded.ok() && loaded.error().code == ErrorCode::not_found) return {};
  if (!loaded.ok()) return std::move(loaded).error();
  const std::vector<Message>& said = loaded->transcript();
  if (!options_.system.empty() && (said.empty() || said.front() != beginning().front())) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("the conversation in '{}' began with another system message; leave out --system or take "
                             "another file",
                             options_.session)};
  }
  session_ = std::move(loaded).value();
  turn_ = session_.turns();
  if (!options_.common.json) note(fmt::format("Resumed after turn {}.\n", turn_));
  return {};
}

Result<void> Chat::save() {
  return options_.session.empty() ? Result<void>() : session_.save(options_.session);
}

Result<void> Chat::print_reply(const Reply& reply) {
  ++turn_;
  damage_.check(engine_);
  if (options_.common.json) {
    say(dump(reply_json(reply, turn_, options_.show_ids)) + "\n");
  } else {
    say(fmt::format("{}{}\n\n", reply.text.ends_with('\n') ? "" : "\n", reply_line(reply)));
  }
  return save();
}

// The next line of standard input, its `number`th, without its line break, or nothing at its end.
Result<std::optional<std::string>> next_line(int number) {
  std::string line;
  int c = std::getchar();
  for (; c != EOF && c != '\n'; c = std::getchar()) {
    line += static_cast<char>(c);
    if (line.size() > kMostInput) return too_much("a line of standard input");
  }
  if (c == EOF) DALSEGNO_TRY(check_input());
  if (c == EOF && line.empty()) return std::optional<std::string>();
  if (line.ends_with('\r')) line.pop_back();
  DALSEGNO_TRY(check_utf8(line, fmt::format("line {} of standard input", number)));
  return std::optional(line);
}

Result<int> Chat::follow_script() {
  for (int number = 1;; ++number) {
    DALSEGNO_ASSIGN(question, next_line(number));
    if (!question) return 0;
    if (question->empty()) continue;
    if (!options_.common.json) say(fmt::format("> {}\n", *question));
    const Interruptible interruptible(true);
    const auto reply = ask(*question);
    if (!reply.ok() && reply.error().code == ErrorCode::cancelled) return kInterrupted;
    if (!reply.ok()) return reply.error();
    DALSEGNO_TRY(finish_output());
    DALSEGNO_TRY(print_reply(*reply));
    if (Interruptible::requested()) return kInterrupted;
  }
}

Result<int> Chat::follow_person() {
  if (!options_.common.json) say(kWelcome);
  // Also between replies, so that pressing Ctrl-C once too often does not end the conversation.
  const Interruptible interruptible(false);
  LineEditor editor("> ", options_.common.json);
  std::string line;
  while (editor.read(line)) {
    if (line.empty()) continue;
    if (line.front() == '/') {
      if (!obey(line)) return 0;
      DALSEGNO_TRY(save());
      continue;
    }
    Interruptible::forget();
    const auto reply = ask(line);
    DALSEGNO_TRY(finish_output());
    if (reply.ok()) {
      DALSEGNO_TRY(print_reply(*reply));
    } else if (reply.error().code == ErrorCode::cancelled) {
      note("[interrupted]\n");
    } else {
      note(fmt::format("error: {}\n", one_line(reply.error().message)));
    }
  }
  if (!options_.common.json) say("\n");
  return 0;
}

void report(const Result<void>& done, std::string_view success) {
  note(done.ok() ? std::string(success) : fmt::format("error: {}\n", one_line(done.error().message)));
}

bool Chat::obey(const std::string& command) {
  if (command == "/exit") return false;
  if (command == "/reset") {
    report(session_.set_transcript(beginning()), "The conversation begins again.\n");
  } else if (command == "/undo") {
    undo();
  } else if (command == "/cache") {
    note(cache_lines(engine_.cache_report()));
    if (const auto drafts = engine_.draft_report()) note(draft_line(*drafts));
  } else if (command.starts_with("/trim")) {
    trim(command.substr(5));
  } else {
    if (command != "/help") note(fmt::format("There is no command {}.\n", one_line(command)));
    note(kCommands);
  }
  return true;
}

// after: the beginning of `before`, of which the last message may be cut short.
std::string what_is_gone(const std::vector<Message>& before, const std::vector<Message>& after) {
  const std::size_t messages = before.size() - after.size();
  const bool cut = !after.empty() && after.back().content != before[after.size() - 1].content;
  const std::string whole = messages == 1 ? "the last message" : fmt::format("the last {} messages", messages);
  if (messages == 0) return cut ? "the end of the last reply" : "nothing";
  return cut ? whole + " and the end of the reply before" : whole;
}

void Chat::trim(const std::string& count) {
  int tokens = 0;
  if (!count.starts_with(' ') || !parse_number(count.substr(1), tokens) || tokens < 0) {
    return note("How many tokens? Write /trim 20.\n");
  }
  const std::vector<Message> before = session_.transcript();
  const auto left = session_.trim(tokens, options_.generate.salt);
  if (!left.ok()) return note(fmt::format("error: {}\n", one_line(left.error().message)));
  const std::string dropped = what_is_gone(before, session_.transcript());
  if (left->prompt_tokens == 0) return note(fmt::format("Dropped: {}. The conversation begins again.\n", dropped));
  note(fmt::format("Dropped: {}. {} tokens of the conversation stay, of which {} are cached.\n", dropped,
                   left->prompt_tokens, left->reused_tokens));
}

void Chat::undo() {
  if (session_.turns() == 0) {
    note("There is nothing to take back.\n");
    return;
  }
  report(session_.rewind(session_.turns() - 1), "The last question and its reply are taken back.\n");
}

// Before anything is computed that could not be saved: makes a file beside the session's and removes it.
Result<void> check_place(const std::string& session) {
  if (session.empty()) return {};
  const std::string folder = std::filesystem::absolute(session).parent_path().string();
  if (!std::filesystem::is_directory(folder)) {
    return Error{ErrorCode::not_found, fmt::format("there is no folder '{}' to save the session in", folder)};
  }
  const auto made = AtomicFile::create(system_files(), session);
  if (made.ok()) return {};
  const bool is_no_file = made.error().code == ErrorCode::invalid_argument;
  return Error{made.error().code, fmt::format("the session cannot be saved: {}{}", made.error().message,
                                              is_no_file ? "" : "; name a file in a folder that can be written to")};
}

Result<int> chat(const ChatOptions& options) {
  DALSEGNO_TRY(check_input());  // a model's file may take the place of a closed one
  DALSEGNO_TRY(find_model(options.common.model));
  DALSEGNO_TRY(check_place(options.session));
  DALSEGNO_ASSIGN(engine, open_engine(options.common));
  check_generation(options.generate, *engine);
  if (!engine->tokenizer().has_template()) {
    return Error{
        ErrorCode::unsupported,
        "this model has no chat template, so it cannot hold a conversation; `dalsegno run --raw` continues text"};
  }
  Chat conversation(*engine, options);
  DALSEGNO_TRY(conversation.resume());
  const bool person = input_is_terminal() && (options.common.json ? error_is_terminal() : output_is_terminal());
  return person ? conversation.follow_person() : conversation.follow_script();
}

}  // namespace

void add_chat(CLI::App& app, Action& action) {
  auto* verb = app.add_subcommand("chat", "Hold a conversation, at a terminal or one question per line of input");
  const auto options = std::make_shared<ChatOptions>();
  verb->add_option("--system", options->system, "a system message before the conversation")
      ->check(utf8_only)
      ->type_name("TEXT");
  verb->add_option("--session", options->session,
                   "a file that holds the conversation: it goes on from there, and is saved after every turn")
      ->check(named)
      ->type_name("FILE");
  verb->add_flag("--show-ids", options->show_ids, "add the token ids of prompt and reply to the JSON");
  add_common(*verb, options->common, ModelUse::runs);
  add_draft_model(*verb, options->common);
  add_generation(*verb, options->generate);
  verb->footer(
      "At a terminal a line that begins with / is a command; /help lists them. Otherwise every line of input is a\n"
      "question, also one that begins with /.\n\n"
      "Example:\n  dalsegno chat -m smollm2 --system 'Answer in one sentence.'\n"
      "  printf 'Name three rivers.\\nWhich is the longest?\\n' | dalsegno chat -m smollm2");
  verb->callback([options, &action] { action = [options] { return chat(*options); }; });
}

}  // namespace dalsegno::cli
