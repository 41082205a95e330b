#include "cli/json.hpp"
#include "cli/models_folder.hpp"
#include "cli/options.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "dalsegno/tokenizer.hpp"

namespace dalsegno::cli {
namespace {

// Whether the request asks for the beginning of the next reply; an array of messages does not.
Result<bool> wants_generation_prompt(const boost::json::value& request) {
  if (request.is_array()) return false;
  if (!request.is_object()) {
    return Error{ErrorCode::invalid_argument, "standard input must be an array of messages or an object with one"};
  }
  const auto* flag = request.get_object().if_contains("add_generation_prompt");
  if (flag == nullptr) return false;
  if (!flag->is_bool()) return Error{ErrorCode::invalid_argument, "add_generation_prompt must be true or false"};
  return flag->get_bool();
}

Result<int> render(const CommonOptions& options) {
  DALSEGNO_ASSIGN(path, find_model(options.model));
  DALSEGNO_ASSIGN(tokenizer, Tokenizer::open(path));
  DALSEGNO_ASSIGN(input, read_all("-"));
  DALSEGNO_ASSIGN(request, parse_json(input, "standard input"));
  DALSEGNO_ASSIGN(generation_prompt, wants_generation_prompt(request));
  DALSEGNO_ASSIGN(text, tokenizer.render(input, generation_prompt));
  say(options.json ? dump(boost::json::object{{"text", text}}) + "\n" : text);
  return 0;
}

}  // namespace

void add_template(CLI::App& app, Action& action) {
  auto* verb = app.add_subcommand("template", "Print the prompt that the model's chat template makes of messages");
  const auto options = std::make_shared<CommonOptions>();
  add_common(*verb, *options, ModelUse::reads);
  verb->footer(
      "Example:\n"
      R"(  echo '{"messages":[{"role":"user","content":"Hi"}],"add_generation_prompt":true}' | \)"
      "\n      dalsegno template -m smollm2");
  verb->callback([options, &action] { action = [options] { return render(*options); }; });
}

}  // namespace dalsegno::cli
