#include "cli/questions.hpp"

#include <fmt/format.h>

#include "cli/json.hpp"
#include "cli/options.hpp"
#include "cli/terminal.hpp"

namespace dalsegno::cli {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

void check_together(const QuestionOptions& options) {
  if (options.has_messages && (options.has_prompt || options.raw || !options.system.empty())) {
    wrong_usage("--messages holds whole conversations; --prompt, --system and --raw cannot go with it");
  }
  if (options.has_prompt && options.prompt.empty()) wrong_usage("--prompt is empty; give it a text");
  if (options.raw && !options.system.empty()) wrong_usage("--raw skips the chat template that --system is for");
}

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

// Requires: message_problem() finds none in any message.
std::size_t first_parted(const boost::json::array& messages) {
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const auto* content = messages[i].get_object().if_contains("content");
    if (content != nullptr && content->is_array()) return i + 1;
  }
  return 0;
}

Result<Question> single_question(const QuestionOptions& options) {
  std::string prompt = options.prompt;
  if (!options.has_prompt) {
    DALSEGNO_ASSIGN(input, read_all("-"));
    DALSEGNO_TRY(check_utf8(input, "standard input"));
    prompt = input;
    if (prompt.ends_with('\n')) prompt.pop_back();
  }
  if (prompt.empty()) {
    return Error{ErrorCode::invalid_argument, "the prompt is empty; give --prompt TEXT or text on standard input"};
  }
  if (options.raw) return Question{.text = prompt, .raw = true};
  boost::json::array messages;
  if (!options.system.empty()) {
    messages.push_back(boost::json::object{{"role", "system"}, {"content", options.system}});
  }
  messages.push_back(boost::json::object{{"role", "user"}, {"content", prompt}});
  return Question{.text = dump(messages)};
}

Result<std::vector<Question>> conversations(const std::string& path) {
  DALSEGNO_ASSIGN(text, read_all(path));
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
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
    questions.push_back({.text = line, .where = what, .parted = first_parted(value.get_array())});
  }
  if (questions.empty())
    return Error{ErrorCode::invalid_argument, fmt::format("{} holds no messages", source_name(path))};
  return questions;
}

}  // namespace

Result<std::vector<Question>> questions_of(const QuestionOptions& options) {
  if (options.has_messages) return conversations(options.messages);
  DALSEGNO_ASSIGN(question, single_question(options));
  return std::vector<Question>{question};
}

Error located(const Question& question, const Error& error) {
  return question.where.empty() ? error : Error{error.code, fmt::format("{}: {}", question.where, error.message)};
}

Result<std::vector<TokenId>> ids_of(const Tokenizer& tokenizer, const Question& question) {
  if (question.raw) return tokenizer.encode(question.text, {.special = false, .bos = true});
  if (!tokenizer.has_template()) {
    return Error{ErrorCode::unsupported,
                 "this model has no chat template; use --raw to have it continue the prompt as it is"};
  }
  auto prompt = tokenizer.render(question.text, true);
  if (!prompt.ok() && question.parted > 0) {
    prompt = Error{prompt.error().code,
                   fmt::format("{}; the \"content\" of message {} is an array, which not every template takes: give it "
                               "as text",
                               prompt.error().message, question.parted)};
  }
  if (!prompt.ok()) return std::move(prompt).error();
  return tokenizer.encode(*prompt, {.special = true, .bos = false});
}

std::function<void()> add_questions(CLI::App& verb, QuestionOptions& options) {
  auto* prompt = verb.add_option("-p,--prompt", options.prompt,
                                 "the prompt (default: standard input, without its last line break)");
  auto* system = verb.add_option("--system", options.system, "a system message before the prompt");
  verb.add_flag("--raw", options.raw, "continue the prompt as it is, without the chat template");
  auto* messages = verb.add_option("--messages", options.messages,
                                   "instead of a prompt: JSON lines, each an array of messages, answered one after "
                                   "another by one engine; - is standard input");
  prompt->type_name("TEXT")->check(utf8_only);
  system->type_name("TEXT")->check(utf8_only);
  messages->type_name("FILE")->check(named);
  return [&options, prompt, messages] {
    options.has_prompt = prompt->count() > 0;
    options.has_messages = messages->count() > 0;
    check_together(options);
  };
}

}  // namespace dalsegno::cli
