#include "cli/constraint_options.hpp"

#include <fmt/format.h>

#include <utility>

#include "cli/options.hpp"
#include "cli/terminal.hpp"

namespace dalsegno::cli {
namespace {

std::string read_text(const std::string& option, const std::string& path) {
  Result<std::string> text = read_all(path);
  if (!text.ok()) wrong_usage(fmt::format("{}: {}", option, text.error().message));
  const auto checked = check_utf8(*text, source_name(path));
  if (!checked.ok()) wrong_usage(fmt::format("{}: {}", option, checked.error().message));
  return std::move(text).value();
}

// A reply has one form at most.
void constrain(GenerateOptions& options, Constraint constraint) {
  if (options.constraint) wrong_usage("give one of --json-schema, --regex, --grammar and --choice");
  options.constraint = std::move(constraint);
}

}  // namespace

void add_constraint(CLI::App& app, GenerateOptions& options) {
  const std::string group = "Reply";
  app.add_option_function<std::string>(
         "--json-schema",
         [&options](const std::string& path) {
           constrain(options, Constraint::json_schema(read_text("--json-schema", path)));
         },
         "the reply is JSON by the schema in this file")
      ->check(named)
      ->type_name("FILE")
      ->group(group);
  app.add_option_function<std::string>(
         "--regex", [&options](const std::string& pattern) { constrain(options, Constraint::regex(pattern)); },
         "the reply matches this regular expression, from its beginning to its end")
      ->check(utf8_only)
      ->type_name("TEXT")
      ->group(group);
  app.add_option_function<std::string>(
         "--grammar",
         [&options](const std::string& path) { constrain(options, Constraint::lark(read_text("--grammar", path))); },
         "the reply follows the grammar in this file, in Lark's syntax or GBNF")
      ->check(named)
      ->type_name("FILE")
      ->group(group);
  app.add_option_function<std::vector<std::string>>(
         "--choice",
         [&options](const std::vector<std::string>& texts) { constrain(options, Constraint::one_of(texts)); },
         "the reply is one of these texts; to be given several times")
      ->check(utf8_only)
      ->type_name("TEXT")
      ->allow_extra_args(false)
      ->group(group);
}

}  // namespace dalsegno::cli
