#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <optional>
#include <set>

#include "cli/json.hpp"
#include "cli/models_folder.hpp"
#include "cli/options.hpp"
#include "cli/read_bandwidth.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "dalsegno/diagnostics.hpp"

namespace dalsegno::cli {
namespace {

namespace json = boost::json;

struct Row {
  const char* test;
  int tokens;  // prefill: of the prompt; load: after opening the file; else: steps of each sequence
  int depth;   // tokens that each sequence holds before
  int batch;   // sequences
};

constexpr int kSteps = 64;
constexpr double kShortest = 1e-9;  // seconds: below what the clock tells
constexpr std::array<Row, 8> kRows{{{"load", 1, 0, 1},
                                    {"prefill", 512, 0, 1},
                                    {"decode", kSteps, 0, 1},
                                    {"decode", kSteps, 1024, 1},
                                    {"batch", kSteps, 128, 1},
                                    {"batch", kSteps, 128, 4},
                                    {"batch", kSteps, 128, 8},
                                    {"shared_prefix", kSteps, 1024, 8}}};

struct BenchOptions {
  CommonOptions common;
  std::set<std::string> tests;  // empty: all
  int repeat = 5;
};

struct Spread {
  double median = 0, min = 0, max = 0;
};

Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {.median = median, .min = values.front(), .max = values.back()};
}

json::object spread_json(const Spread& spread) {
  return {{"median", spread.median}, {"min", spread.min}, {"max", spread.max}};
}

// What a row is measured against: the bytes a decoding step has to read and how fast memory gives them.
struct MemoryLimit {
  double weight_bytes = 0;
  double kv_bytes_per_token = 0;
  double bytes_per_second = 0;  // 0: not measured

  // Bytes per step, or nothing where memory does not bound the row: prefill is bound by arithmetic,
  // and weights that fit the cache never reach memory.
  [[nodiscard]] std::optional<double> step_bytes(const Row& row) const {
    const std::string test = row.test;
    if (test == "prefill" || test == "load" || weight_bytes < 2 * cache_bytes()) return std::nullopt;
    const int copies = test == "shared_prefix" ? 1 : row.batch;
    return weight_bytes + kv_bytes_per_token * row.depth * copies;
  }
};

class Bench {
 public:
  explicit Bench(const BenchOptions& options) : options_(options) {}
  Result<int> run();

 private:
  [[nodiscard]] bool wanted(const Row& row) const {
    return options_.tests.empty() || options_.tests.count(row.test) != 0;
  }
  Result<void> learn_limit();
  // Seconds of one run of the row, and how many tokens it computed.
  Result<TimedRun> once(const Row& row);
  Result<void> measure(const Row& row);
  void print(const Row& row, const Spread& seconds, const Spread& rate) const;

  const BenchOptions& options_;
  std::unique_ptr<Engine> engine_;
  MemoryLimit limit_;
};

Result<void> Bench::learn_limit() {
  DALSEGNO_ASSIGN(path, find_model(options_.common.model));
  DALSEGNO_ASSIGN(report, inspect(path, options_.common.engine.kv, options_.common.engine.context));
  limit_.weight_bytes = static_cast<double>(report.packed_weight_bytes);
  limit_.kv_bytes_per_token = static_cast<double>(report.kv_bytes_per_token);
  const bool needed = std::any_of(kRows.begin(), kRows.end(),
                                  [this](const Row& row) { return wanted(row) && limit_.step_bytes(row).has_value(); });
  if (needed) limit_.bytes_per_second = read_bandwidth(options_.common.engine.threads);
  return {};
}

Result<TimedRun> Bench::once(const Row& row) {
  const std::string test = row.test;
  if (test == "prefill") return time_prefill(*engine_, row.tokens);
  if (test != "load") return time_decode(*engine_, row.depth, row.batch, row.tokens, test == "shared_prefix");
  engine_.reset();
  const auto start = std::chrono::steady_clock::now();
  DALSEGNO_ASSIGN(engine, open_engine(options_.common));
  const std::chrono::duration<double> opening = std::chrono::steady_clock::now() - start;
  engine_ = std::move(engine);
  DALSEGNO_ASSIGN(first, time_prefill(*engine_, row.tokens));
  return TimedRun{.seconds = opening.count() + first.seconds, .tokens = row.tokens};
}

Result<void> Bench::measure(const Row& row) {
  if (row.depth + row.tokens > engine_->context()) {
    note(fmt::format("skipped: {} of {} tokens at depth {} needs more than the context of {}\n", row.test, row.tokens,
                     row.depth, engine_->context()));
    return {};
  }
  std::vector<double> seconds;
  std::vector<double> rates;
  DALSEGNO_TRY(once(row));
  for (int i = 0; i < options_.repeat; ++i) {
    DALSEGNO_ASSIGN(timed, once(row));
    seconds.push_back(timed.seconds);
    rates.push_back(timed.tokens / std::max(timed.seconds, kShortest));
  }
  print(row, spread(seconds), spread(rates));
  return {};
}

void Bench::print(const Row& row, const Spread& seconds, const Spread& rate) const {
  const auto step = limit_.step_bytes(row);
  std::optional<double> read;  // bytes per second
  if (step) read = rate.median / row.batch * *step;
  std::optional<double> share;
  if (read && limit_.bytes_per_second > 0) share = *read / limit_.bytes_per_second;
  if (options_.common.json) {
    json::object object{{"test", row.test}, {"tokens", row.tokens}, {"depth", row.depth}, {"batch", row.batch}};
    object["tokens_per_second"] = spread_json(rate);
    object["seconds"] = spread_json(seconds);
    object["gb_per_second"] = read ? json::value(*read * 1e-9) : json::value(nullptr);
    object["limit_share"] = share ? json::value(*share) : json::value(nullptr);
    say(dump(object) + "\n");
    return;
  }
  const std::string speed = fmt::format("{:>10.1f} {:>10.1f} {:>10.1f}", rate.median, rate.min, rate.max);
  say(fmt::format("{:<14}{:>7}{:>7}{:>6} {} {:>9} {:>8} {:>8}\n", row.test, row.tokens, row.depth, row.batch, speed,
                  fmt::format("{:.3f}", seconds.median), read ? fmt::format("{:.1f}", *read * 1e-9) : "",
                  share ? fmt::format("{:.0f}%", *share * 100) : ""));
}

Result<int> Bench::run() {
  DALSEGNO_TRY(learn_limit());
  DALSEGNO_ASSIGN(engine, open_engine(options_.common));
  engine_ = std::move(engine);
  if (!options_.common.json) {
    say(fmt::format("{:<14}{:>7}{:>7}{:>6} {:>10} {:>10} {:>10} {:>9} {:>8} {:>8}\n", "test", "tokens", "depth",
                    "batch", "tok/s", "min", "max", "seconds", "GB/s", "of limit"));
  }
  for (const Row& row : kRows) {
    if (wanted(row)) DALSEGNO_TRY(measure(row));
  }
  if (!options_.common.json && limit_.bytes_per_second > 0) {
    say(fmt::format("limit: memory reads at {:.1f} GB/s\n", limit_.bytes_per_second * 1e-9));
  }
  return 0;
}

void add_test(std::set<std::string>& tests, const std::string& test) {
  std::set<std::string> known;
  for (const Row& row : kRows) known.insert(row.test);
  if (known.count(test) == 0) {
    wrong_usage(fmt::format("--test: there is no test '{}'; the tests are {}", test, fmt::join(known, ", ")));
  }
  tests.insert(test);
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  auto* verb = app.add_subcommand("bench", "Measure how fast a model runs on this machine");
  const auto options = std::make_shared<BenchOptions>();
  add_common(*verb, options->common, ModelUse::runs);
  verb->add_option_function<std::vector<std::string>>(
          "--test",
          [options](const std::vector<std::string>& names) {
            for (const std::string& name : names) add_test(options->tests, name);
          },
          "only this test: load, prefill, decode, batch, shared_prefix; may be given several times")
      ->type_name("NAME")
      ->delimiter(',')
      ->allow_extra_args(false);
  add_number(*verb, "--repeat", options->repeat, 1, 1000, "measured runs after one to warm up (default: 5)");
  verb->footer("Example:\n  dalsegno bench -m smollm2 --threads 2 --test prefill --test decode");
  verb->callback([options, &action] { action = [options] { return Bench(*options).run(); }; });
}

}  // namespace dalsegno::cli
