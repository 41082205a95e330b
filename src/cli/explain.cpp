#include <fmt/format.h>

#include <algorithm>

#include "cli/json.hpp"
#include "cli/models_folder.hpp"
#include "cli/options.hpp"
#include "cli/questions.hpp"
#include "cli/reply_report.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "dalsegno/tokenizer.hpp"

namespace dalsegno::cli {
namespace {

constexpr int kShownTokens = 12;

struct ExplainOptions {
  CommonOptions common;
  QuestionOptions question;
};

// The text of the first tokens that are not cached.
std::string text_at(const Tokenizer& tokenizer, const std::vector<TokenId>& ids, int at) {
  const auto begin = ids.begin() + std::min<std::ptrdiff_t>(at, std::ssize(ids));
  const auto end = begin + std::min<std::ptrdiff_t>(kShownTokens, ids.end() - begin);
  const auto text = tokenizer.decode({begin, end});
  return text.ok() ? *text : std::string();
}

void print(const Explanation& seen, int turn, const std::string& text, bool as_json) {
  const Usage usage{seen.prompt_tokens, seen.reused_tokens, seen.prompt_tokens - seen.reused_tokens, 0};
  if (as_json) {
    const boost::json::object result{{"turn", turn},
                                     {"usage", usage_json(usage)},
                                     {"reuse", reuse_json(seen.reuse)},
                                     {"text", well_formed(text)},
                                     {"ttft_ms", seen.ttft_ms}};
    say(dump(result) + "\n");
    return;
  }
  const std::string first = seen.ttft_ms > 0 ? fmt::format(" | first token in about {:.0f} ms", seen.ttft_ms) : "";
  say(fmt::format("[{}{}]\n", reuse_words(usage, seen.reuse), first));
  if (!text.empty()) say(fmt::format("  from here on: {}\n", one_line(text)));
}

// Each prompt is computed after it was explained, so that the next may reuse it. A reply, which could be reused as
// well, is not: its tokens depend on how it would be sampled.
Result<int> explain(const ExplainOptions& options) {
  DALSEGNO_TRY(find_model(options.common.model));
  DALSEGNO_ASSIGN(questions, questions_of(options.question));
  DALSEGNO_ASSIGN(engine, open_engine(options.common));
  int turn = 0;
  for (const Question& question : questions) {
    const auto ids = ids_of(engine->tokenizer(), question);
    if (!ids.ok()) return located(question, ids.error());
    const auto seen = engine->explain(*ids);
    if (!seen.ok()) return located(question, seen.error());
    print(*seen, ++turn, text_at(engine->tokenizer(), *ids, seen->reuse.at), options.common.json);
    DALSEGNO_TRY(finish_output());
    if (turn == static_cast<int>(questions.size())) break;
    DALSEGNO_TRY(engine->generate(*ids, {.max_tokens = 1}));
  }
  return 0;
}

}  // namespace

void add_explain(CLI::App& app, Action& action) {
  auto* verb = app.add_subcommand("explain", "Say what a prompt would reuse, and why not more, without running it");
  const auto options = std::make_shared<ExplainOptions>();
  const auto complete = add_questions(*verb, options->question);
  add_common(*verb, options->common, ModelUse::runs);
  verb->footer(
      "With --messages each conversation is explained as if those before it had been read and cached, but not\n"
      "answered: what a reply would add to the cache cannot be known without running it.\n\n"
      "Example:\n  dalsegno explain -m smollm2 --messages conversations.jsonl");
  verb->callback([options, complete, &action] {
    complete();
    action = [options] { return explain(*options); };
  });
}

}  // namespace dalsegno::cli
