#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "cli/bench_check.hpp"
#include "cli/bench_child.hpp"
#include "cli/bench_compare.hpp"
#include "cli/bench_limit.hpp"
#include "cli/json.hpp"
#include "cli/models_folder.hpp"
#include "cli/options.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "dalsegno/diagnostics.hpp"

namespace dalsegno::cli {
namespace {

namespace json = boost::json;

constexpr double kShortest = 1e-9;  // seconds: below what the clock tells

struct BenchOptions {
  CommonOptions common;
  std::set<std::string> tests;  // empty: all
  std::vector<BenchRow> rows;   // empty: the usual ones
  int repeat = 5;
  bool brief = false;
  std::string compare;    // empty: with nothing
  std::vector<int> cold;  // depth, tokens: this process is one that time_cold() started
};

class Bench {
 public:
  explicit Bench(const BenchOptions& options) : options_(options) {}
  Result<int> run();

 private:
  [[nodiscard]] bool wanted(const BenchRow& row) const {
    return options_.tests.empty() || options_.tests.count(row.test) != 0;
  }
  // One run of the row.
  struct Run {
    double seconds = 0;
    double tokens = 0;
    double mib = 0;  // memory only
  };
  Result<Run> once(const BenchRow& row);
  Result<Measured> measure(const BenchRow& row);
  void print_header() const;
  void print(const BenchRow& row, const Measured& measured) const;
  [[nodiscard]] json::object row_json(const BenchRow& row, const Measured& measured) const;

  const BenchOptions& options_;
  std::unique_ptr<Engine> engine_;  // none while a cold process is measured
  int context_ = 0;
  BenchLimit limit_;
  std::optional<EarlierRun> earlier_;
};

Result<Bench::Run> Bench::once(const BenchRow& row) {
  if (row.is("load") || row.is("memory")) {
    engine_.reset();
    DALSEGNO_ASSIGN(cold, time_cold(options_.common, row));
    if (row.is("load")) return Run{.seconds = cold.first_token_seconds, .tokens = 1};
    return Run{.seconds = cold.seconds, .tokens = static_cast<double>(row.context()), .mib = cold.peak_mib};
  }
  if (engine_ == nullptr) {
    DALSEGNO_ASSIGN(engine, open_engine(options_.common));
    engine_ = std::move(engine);
  }
  const auto timed = row.is("prefill")
                         ? time_prefill(*engine_, row.tokens)
                         : time_decode(*engine_, row.depth, row.batch, row.tokens, row.is("shared_prefix"));
  if (!timed.ok()) return timed.error();
  return Run{.seconds = timed->seconds, .tokens = static_cast<double>(timed->tokens)};
}

Result<Measured> Bench::measure(const BenchRow& row) {
  std::vector<double> seconds;
  std::vector<double> rates;
  std::vector<double> mib;
  DALSEGNO_TRY(once(row));
  for (int i = 0; i < options_.repeat; ++i) {
    DALSEGNO_ASSIGN(run, once(row));
    seconds.push_back(std::max(run.seconds, kShortest));
    rates.push_back(run.tokens / seconds.back());
    mib.push_back(run.mib);
  }
  Measured measured{.seconds = spread(seconds), .tokens_per_second = spread(rates), .mib = {}, .limit_share = {}};
  if (row.is("memory")) {
    measured.mib = spread(mib);
    measured.limit_share = limit_.least_bytes(row) / 0x1p20 / measured.mib->median;
  } else if (const double least = limit_.least_seconds(row); least > 0) {
    measured.limit_share = least / measured.seconds.median;
  }
  return measured;
}

json::object Bench::row_json(const BenchRow& row, const Measured& measured) const {
  json::object object{{"test", row.test}, {"tokens", row.tokens}, {"depth", row.depth}, {"batch", row.batch}};
  object["tokens_per_second"] = spread_json(measured.tokens_per_second);
  object["seconds"] = spread_json(measured.seconds);
  if (measured.mib) object["mib"] = spread_json(*measured.mib);
  object["limit_share"] = measured.limit_share ? json::value(*measured.limit_share) : json::value(nullptr);
  object["limits"] = limit_.json();
  if (earlier_) {
    const auto change = earlier_->change(row, measured);
    object["ratio"] = change ? json::value(change->ratio) : json::value(nullptr);
    object["beyond_spread"] = change && change->beyond_spread;
  }
  return object;
}

void Bench::print_header() const {
  say(fmt::format("{:<14}{:>7}{:>7}{:>6} {:>10} {:>10} {:>10} {:<5} {:>8}{}\n", "test", "tokens", "depth", "batch",
                  "median", "min", "max", "", "of limit", earlier_ ? "  now/then" : ""));
}

void Bench::print(const BenchRow& row, const Measured& measured) const {
  if (options_.common.json) {
    say(dump(row_json(row, measured)) + "\n");
    return;
  }
  const Spread figure = measured.figure(row);
  std::string line = fmt::format("{:<14}{:>7}{:>7}{:>6} {:>10.1f} {:>10.1f} {:>10.1f} {:<5} {:>8}", row.test,
                                 row.tokens, row.depth, row.batch, figure.median, figure.min, figure.max, unit(row),
                                 measured.limit_share ? fmt::format("{:.0f}%", *measured.limit_share * 100) : "");
  if (earlier_) {
    const auto change = earlier_->change(row, measured);
    line += change ? fmt::format("{:>10.3f}{}", change->ratio, change->beyond_spread ? " beyond both spreads" : "")
                   : fmt::format("{:>10}", "new");
  }
  say(line + "\n");
}

Result<int> Bench::run() {
  if (!options_.compare.empty()) {
    DALSEGNO_ASSIGN(earlier, EarlierRun::read(options_.compare));
    earlier_ = std::move(earlier);
  }
  DALSEGNO_ASSIGN(path, find_model(options_.common.model));
  DALSEGNO_ASSIGN(engine, open_checked(options_.common, options_.brief));
  context_ = engine->context();
  engine_ = std::move(engine);
  DALSEGNO_ASSIGN(limit, BenchLimit::measure(path, options_.common.engine, options_.brief));
  limit_ = std::move(limit);
  if (!options_.common.json) print_header();
  bool skipped_asked = false;
  for (const BenchRow& row : options_.rows.empty() ? bench_rows(options_.brief) : options_.rows) {
    if (!wanted(row)) continue;
    if (row.context() > context_) {
      skipped_asked = skipped_asked || !options_.rows.empty();
      note(fmt::format("skipped: {} of {} tokens at depth {} needs more than the context of {}\n", row.test, row.tokens,
                       row.depth, context_));
      continue;
    }
    limit_.refresh();
    DALSEGNO_ASSIGN(measured, measure(row));
    print(row, measured);
  }
  if (!options_.common.json) say(limit_.sentence() + "\n");
  return skipped_asked ? 1 : 0;
}

Result<int> bench_verb(const BenchOptions& options) {
  if (options.cold.empty()) return Bench(options).run();
  return run_cold(options.common, {"", options.cold[1], options.cold[0], 1});
}

void add_test(std::set<std::string>& tests, const std::string& test) {
  std::set<std::string> known;
  for (const BenchRow& row : bench_rows(false)) known.insert(row.test);
  if (known.count(test) == 0) {
    wrong_usage(fmt::format("--test: there is no test '{}'; the tests are {}", test, fmt::join(known, ", ")));
  }
  tests.insert(test);
}

void add_row(std::vector<BenchRow>& rows, const std::string& text) {
  const auto row = parse_row(text);
  if (!row) {
    wrong_usage(
        fmt::format("--row must be TEST:TOKENS:DEPTH:BATCH such as batch:32:128:8, prefill:512:0:1 or "
                    "decode:64:1024:1, with a batch of at most {}, not '{}'",
                    kMostBatch, text));
  }
  rows.push_back(*row);
}

void add_options(CLI::App& verb, BenchOptions& options) {
  add_common(verb, options.common, ModelUse::runs);
  verb.add_option_function<std::vector<std::string>>(
          "--test",
          [&options](const std::vector<std::string>& names) {
            for (const std::string& name : names) add_test(options.tests, name);
          },
          "only this test: load, memory, prefill, decode, batch, shared_prefix; may be given several times")
      ->type_name("NAME")
      ->delimiter(',')
      ->allow_extra_args(false);
  verb.add_option_function<std::vector<std::string>>(
          "--row",
          [&options](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) add_row(options.rows, text);
          },
          "TEST:TOKENS:DEPTH:BATCH, such as decode:64:1024:1, instead of the usual rows; may be given several times")
      ->type_name("ROW")
      ->allow_extra_args(false);
  add_number(verb, "--repeat", options.repeat, 1, 1000, "measured runs after one to warm up (default: 5)");
  verb.add_option("--compare", options.compare, "an earlier output of --json: show what changed since")
      ->check(named)
      ->type_name("FILE");
  verb.add_flag_callback(
      "--short", [&options] { options.brief = true, options.repeat = 1; },
      "few tokens, one run each: shows that it works, not how fast it is");
  verb.add_option("--cold", options.cold)->delimiter(',')->expected(2)->group("");
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  auto* verb = app.add_subcommand("bench", "Measure how fast a model runs on this machine");
  const auto options = std::make_shared<BenchOptions>();
  add_options(*verb, *options);
  verb->footer(
      "Before it times anything it checks that the logits have the same bits on any number of threads, in any chunks\n"
      "and in a batch, and measures what the machine can do.\n\n"
      "Example:\n  dalsegno bench -m smollm2 --threads 2 --test prefill --test decode");
  verb->callback([options, &action] { action = [options] { return bench_verb(*options); }; });
}

}  // namespace dalsegno::cli
