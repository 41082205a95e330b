#include <fmt/format.h>

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

struct RunOptions {
  CommonOptions common;
  GenerateOptions generate;
  QuestionOptions question;
  bool show_ids = false;
};

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
  const auto ids = ids_of(engine.tokenizer(), question);
  if (!ids.ok()) return located(question, ids.error());
  auto reply = engine.generate(*ids, options.generate, live_callbacks(!options.common.json, progress));
  return reply.ok() ? std::move(reply) : located(question, reply.error());
}

Result<void> check_begun(const Reply& reply, const Question& question, const RunOptions& options) {
  if (reply.finish_reason != FinishReason::deadline || reply.usage.reply_tokens > 0) return {};
  return Error{
      ErrorCode::exhausted,
      fmt::format("{}{}the deadline of {:g} s passed before the reply began; allow more with --deadline, or "
                  "shorten the prompt",
                  question.where, question.where.empty() ? "" : ": ", options.generate.scheduling.deadline_seconds)};
}

Result<int> run(const RunOptions& options) {
  DALSEGNO_TRY(find_model(options.common.model));
  DALSEGNO_ASSIGN(questions, questions_of(options.question));
  DALSEGNO_ASSIGN(engine, open_engine(options.common));
  check_generation(options.generate, *engine);
  const Interruptible interruptible(true);
  DamageWarning damage;
  int turn = 0;
  for (const Question& question : questions) {
    const auto reply = answer(*engine, question, options);
    if (!reply.ok() && reply.error().code == ErrorCode::cancelled) return kInterrupted;
    if (!reply.ok()) return reply.error();
    DALSEGNO_TRY(check_begun(*reply, question, options));
    DALSEGNO_TRY(finish_output());
    print_reply(*reply, ++turn, options);
    damage.check(*engine);
    if (Interruptible::requested()) return kInterrupted;
  }
  return 0;
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  auto* verb = app.add_subcommand("run", "Answer one prompt, from --prompt or standard input");
  const auto options = std::make_shared<RunOptions>();
  const auto complete = add_questions(*verb, options->question);
  verb->add_flag("--show-ids", options->show_ids, "add the token ids of prompt and reply to the JSON");
  add_common(*verb, options->common, ModelUse::runs);
  add_draft_model(*verb, options->common);
  add_generation(*verb, options->generate);
  verb->footer("Example:\n  dalsegno run -m smollm2 --prompt 'Name three rivers.' --max-tokens 64");
  verb->callback([options, complete, &action] {
    complete();
    action = [options] { return run(*options); };
  });
}

}  // namespace dalsegno::cli
