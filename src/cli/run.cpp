#include <fmt/format.h>

#include "cli/json.hpp"
#include "cli/models_folder.hpp"
#include "cli/options.hpp"
#include "cli/reply_report.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "dalsegno/tokenizer.hpp"

namespace dalsegno::cli {
namespace {

struct RunOptions {
  CommonOptions common;
  GenerateOptions generate;
  std::string prompt, system, messages;  // empty: not given
  bool has_prompt = false;
  bool has_messages = false;
  bool raw = false;
  bool show_ids = false;
};

void check_together(const RunOptions& options) {
  if (options.has_messages && (options.has_prompt || options.raw || !options.system.empty())) {
    wrong_usage("--messages holds whole conversations; --prompt, --system and --raw cannot go with it");
  }
  if (options.raw && !options.system.empty()) wrong_usage("--raw skips the chat template that --system is for");
}

// What one reply answers: text for the model as it is, or the JSON of a conversation for its template.
struct Question {
  std::string text;
  bool raw = false;
  std::string where{};  // "line 2 of FILE", where there are several
};

// Empty, or why this is no message that a template can render.
std::string message_problem(const boost::json::value& message) {
  const auto* object = message.if_object();
  if (object == nullptr) return "is no object";
  const auto* role = object->if_contains("role");
  if (role == nullptr || !role->is_string()) return "has no \"role\" text";
  const auto* content = object->if_contains("content");
  const bool calls = object->contains("tool_calls");
  if (content == nullptr && !calls) return "has no \"content\"";
  if (content != nullptr && !content->is_string() && !content->is_array() && !(content->is_null() && calls)) {
    return "has a \"content\" that is no text";
  }
  return {};
}

Result<Question> single_question(const RunOptions& options) {
  std::string prompt = options.prompt;
  if (!options.has_prompt) {
    DALSEGNO_ASSIGN(input, read_all("-"));
    prompt = input;
    if (prompt.ends_with('\n')) prompt.pop_back();
  }
  if (prompt.empty()) {
    return Error{ErrorCode::invalid_argument, "the prompt is empty; give --prompt TEXT or text on standard input"};
  }
  if (options.raw) return Question{.text = prompt, .raw = true};
  boost::json::array messages;
  if (!options.system.empty()) {
    messages.push_back(boost::json::object{{"role", "system"}, {"content", well_formed(options.system)}});
  }
  messages.push_back(boost::json::object{{"role", "user"}, {"content", well_formed(prompt)}});
  return Question{.text = dump(messages)};
}

Result<std::vector<Question>> conversations(const std::string& path) {
  DALSEGNO_ASSIGN(text, read_all(path));
  std::vector<Question> questions;
  int line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string what = fmt::format("line {} of {}", line_number, source_name(path));
    DALSEGNO_ASSIGN(value, parse_json(line, what));
    if (!value.is_array() || value.get_array().empty()) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format(R"({} must be an array of messages such as [{{"role":"user","content":"Hi"}}])", what)};
    }
    for (std::size_t i = 0; i < value.get_array().size(); ++i) {
      const std::string problem = message_problem(value.get_array()[i]);
      if (problem.empty()) continue;
      return Error{ErrorCode::invalid_argument, fmt::format("message {} in {} {}", i + 1, what, problem)};
    }
    questions.push_back({.text = line, .where = what});
  }
  if (questions.empty())
    return Error{ErrorCode::invalid_argument, fmt::format("{} holds no messages", source_name(path))};
  return questions;
}

Result<std::vector<Question>> questions_of(const RunOptions& options) {
  if (options.has_messages) return conversations(options.messages);
  DALSEGNO_ASSIGN(question, single_question(options));
  return std::vector<Question>{question};
}

Result<std::vector<TokenId>> ids_of(const Tokenizer& tokenizer, const Question& question) {
  if (question.raw) return tokenizer.encode(question.text, {.special = false, .bos = true});
  if (!tokenizer.has_template()) {
    return Error{ErrorCode::unsupported,
                 "this model has no chat template; use --raw to have it continue the prompt as it is"};
  }
  DALSEGNO_ASSIGN(prompt, tokenizer.render(question.text, true));
  return tokenizer.encode(prompt, {.special = true, .bos = false});
}

void print_reply(const Reply& reply, int turn, const RunOptions& options) {
  if (options.common.json) {
    say(dump(reply_json(reply, turn, options.show_ids)) + "\n");
    return;
  }
  if (!reply.text.ends_with('\n')) say("\n");
  note(reply_line(reply) + "\n");
}

Result<Reply> answer(Engine& engine, const Question& question, const RunOptions& options) {
  PrefillProgress progress;
  auto ids = ids_of(engine.tokenizer(), question);
  auto reply = ids.ok() ? engine.generate(*ids, options.generate, live_callbacks(!options.common.json, progress))
                        : Result<Reply>(std::move(ids).error());
  if (reply.ok() || question.where.empty()) return reply;
  return Error{reply.error().code, fmt::format("{}: {}", question.where, reply.error().message)};
}

Result<int> run(const RunOptions& options) {
  DALSEGNO_TRY(find_model(options.common.model));
  DALSEGNO_ASSIGN(questions, questions_of(options));
  DALSEGNO_ASSIGN(engine, open_engine(options.common));
  const Interruptible interruptible(true);
  int turn = 0;
  for (const Question& question : questions) {
    const auto reply = answer(*engine, question, options);
    if (!reply.ok() && reply.error().code == ErrorCode::cancelled) return kInterrupted;
    if (!reply.ok()) return reply.error();
    DALSEGNO_TRY(finish_output());
    print_reply(*reply, ++turn, options);
    if (Interruptible::requested()) return kInterrupted;
  }
  return 0;
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  auto* verb = app.add_subcommand("run", "Answer one prompt, from --prompt or standard input");
  const auto options = std::make_shared<RunOptions>();
  auto* prompt = verb->add_option("-p,--prompt", options->prompt,
                                  "the prompt (default: standard input, without its last line break)");
  auto* system = verb->add_option("--system", options->system, "a system message before the prompt");
  verb->add_flag("--raw", options->raw, "continue the prompt as it is, without the chat template");
  auto* messages = verb->add_option("--messages", options->messages,
                                    "instead of a prompt: JSON lines, each an array of messages, answered one after "
                                    "another by one engine; - is standard input");
  prompt->type_name("TEXT");
  system->type_name("TEXT");
  messages->type_name("FILE");
  verb->add_flag("--show-ids", options->show_ids, "add the token ids of prompt and reply to the JSON");
  add_common(*verb, options->common, ModelUse::runs);
  add_generation(*verb, options->generate);
  verb->footer("Example:\n  dalsegno run -m smollm2 --prompt 'Name three rivers.' --max-tokens 64");
  verb->callback([options, prompt, messages, &action] {
    options->has_prompt = prompt->count() > 0;
    options->has_messages = messages->count() > 0;
    check_together(*options);
    action = [options] { return run(*options); };
  });
}

}  // namespace dalsegno::cli
