#include <fmt/format.h>

#include <numeric>

#include "cli/json.hpp"
#include "cli/options.hpp"
#include "cli/reply_report.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "dalsegno/diagnostics.hpp"

namespace dalsegno::cli {
namespace {

namespace json = boost::json;

constexpr int kDefaultTop = 10;
constexpr int kMostIds = 1 << 24;

struct ScoreVerbOptions {
  CommonOptions common;
  std::string ids_path;
  ScoreOptions score;
};

// "0,5,9"
std::vector<int> positions(const std::string& text) {
  std::vector<int> result;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    begin = end + 1;
    int position = 0;
    if (!parse_number(part, position) || position < 0) {
      wrong_usage(fmt::format("--at must be positions such as 0,5,9, not '{}'", text));
    }
    result.push_back(position);
  }
  return result;
}

// What the options say can only be judged once the number of ids is known.
void check_range(const ScoreOptions& options, int count) {
  if (options.from >= count) {
    wrong_usage(fmt::format("--from {} is not a position of {} ids (0 to {})", options.from, count, count - 1));
  }
  if (options.warm > count) {
    wrong_usage(fmt::format("--warm {} is more than the {} ids there are", options.warm, count));
  }
  for (const int at : options.at) {
    if (at < options.from || at >= count) {
      wrong_usage(fmt::format("--at {} is not a scored position ({} to {})", at, options.from, count - 1));
    }
  }
}

json::object score_json(const ScoreResult& result) {
  json::array scored;
  for (const auto& position : result.positions) {
    json::array top;
    for (const auto& [id, logprob] : position.top) top.push_back(json::array{id, logprob});
    scored.push_back(json::object{{"at", position.at}, {"top", std::move(top)}});
  }
  json::object object{{"positions", std::move(scored)}, {"nll", json::array(result.nll.begin(), result.nll.end())}};
  object["hash"] = result.hash.empty() ? json::value(nullptr) : json::value(result.hash);
  object["usage"] = usage_json(result.usage);
  object["reuse"] = reuse_json(result.reuse);
  return object;
}

void print_table(const ScoreResult& result) {
  for (const auto& position : result.positions) {
    say(fmt::format("after position {}\n{:>10}  {:>12}\n", position.at, "id", "log-prob"));
    for (const auto& [id, logprob] : position.top) say(fmt::format("{:>10}  {:>12.6f}\n", id, logprob));
  }
  if (!result.nll.empty()) {
    const double mean =
        std::accumulate(result.nll.begin(), result.nll.end(), 0.0) / static_cast<double>(result.nll.size());
    say(fmt::format("mean negative log-likelihood: {:.6f} nats over {} tokens\n", mean, result.nll.size()));
  }
  if (!result.hash.empty()) say(fmt::format("hash: {}\n", result.hash));
  say(reuse_words(result.usage, result.reuse) + "\n");
}

Result<int> score_verb(const ScoreVerbOptions& options) {
  const std::string what = source_name(options.ids_path);
  DALSEGNO_ASSIGN(text, read_all(options.ids_path));
  DALSEGNO_ASSIGN(value, parse_json(text, what));
  DALSEGNO_ASSIGN(engine, open_engine(options.common));
  DALSEGNO_ASSIGN(ids, token_ids(value, what, engine->tokenizer().vocabulary_size()));
  check_range(options.score, static_cast<int>(ids.size()));
  if (options.score.warm > 0 && options.score.from == 0) {
    note("note: without --from every position is computed, so nothing of --warm is reused\n");
  }
  DALSEGNO_ASSIGN(result, score(*engine, ids, options.score));
  if (options.common.json) {
    say(dump(score_json(result)) + "\n");
  } else {
    print_table(result);
  }
  return 0;
}

}  // namespace

void add_score(CLI::App& app, Action& action) {
  auto* verb = app.add_subcommand("score", "Print how likely the model finds the tokens it is given");
  const auto options = std::make_shared<ScoreVerbOptions>();
  ScoreOptions& score = options->score;
  add_common(*verb, options->common, ModelUse::runs);
  verb->add_option("--ids", options->ids_path, "a JSON array of token ids; - is standard input")
      ->check(named)
      ->type_name("FILE")
      ->required();
  verb->add_option_function<std::string>(
          "--at", [&score](const std::string& list) { score.at = positions(list); },
          "positions whose likeliest next tokens are wanted, such as 0,5,9")
      ->type_name("LIST");
  score.top = kDefaultTop;
  add_number(*verb, "--top", score.top, 1, 1 << 24, "how many of them (default: 10)");
  verb->add_flag("--hash", score.hash, "print a SHA-256 over the float32 logits of every scored position");
  add_number(*verb, "--from", score.from, 0, kMostIds, "first position to score (default: 0)");
  add_number(*verb, "--chunk", score.chunk, 1, kMostIds, "tokens per step (default: 512); never changes a bit");
  add_number(*verb, "--warm", score.warm, 0, kMostIds,
             "first let another request compute this many tokens; those before --from are reused");
  verb->add_flag("--evict", score.evict, "then drop everything cached");
  verb->footer("Example:\n  echo '[504, 3725, 282, 4649, 314]' | dalsegno score -m smollm2 --ids - --at 4 --top 5");
  verb->callback([options, &action] { action = [options] { return score_verb(*options); }; });
}

}  // namespace dalsegno::cli
