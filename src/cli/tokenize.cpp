#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/json.hpp"
#include "cli/models_folder.hpp"
#include "cli/options.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "dalsegno/tokenizer.hpp"

namespace dalsegno::cli {
namespace {

struct TokenizeOptions {
  CommonOptions common;
  EncodeOptions encode;
};

Result<int> tokenize(const TokenizeOptions& options) {
  DALSEGNO_ASSIGN(path, find_model(options.common.model));
  DALSEGNO_ASSIGN(tokenizer, Tokenizer::open(path));
  DALSEGNO_ASSIGN(text, read_all("-"));
  DALSEGNO_TRY(check_utf8(text, "standard input"));
  DALSEGNO_ASSIGN(ids, tokenizer.encode(text, options.encode));
  if (options.common.json) {
    say(dump(boost::json::object{{"ids", boost::json::array(ids.begin(), ids.end())}}) + "\n");
  } else {
    say(fmt::format("{}\n", fmt::join(ids, " ")));
  }
  return 0;
}

}  // namespace

void add_tokenize(CLI::App& app, Action& action) {
  auto* verb = app.add_subcommand("tokenize", "Print the token ids of the text on standard input");
  const auto options = std::make_shared<TokenizeOptions>();
  add_common(*verb, options->common, ModelUse::reads);
  verb->add_flag("--special", options->encode.special, "recognise special tokens such as <|im_start|> in the text");
  verb->add_flag("--bos", options->encode.bos, "add what the model adds, usually a beginning-of-text token");
  verb->footer("Example:\n  printf 'Hello, world' | dalsegno tokenize -m smollm2");
  verb->callback([options, &action] { action = [options] { return tokenize(*options); }; });
}

}  // namespace dalsegno::cli
