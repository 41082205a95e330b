#include "cli/bench_compare.hpp"

#include <fmt/format.h>

#include "cli/json.hpp"
#include "cli/terminal.hpp"

namespace dalsegno::cli {
namespace {

namespace json = boost::json;

std::optional<double> number(const json::object& object, const char* name) {
  const json::value* value = object.if_contains(name);
  if (value == nullptr || !value->is_number()) return std::nullopt;
  return value->to_number<double>();
}

std::optional<Spread> read_spread(const json::object& row, const char* name, double scale) {
  const json::value* value = row.if_contains(name);
  const json::object* object = value == nullptr ? nullptr : value->if_object();
  if (object == nullptr) return std::nullopt;
  const auto median = number(*object, "median");
  const auto min = number(*object, "min");
  const auto max = number(*object, "max");
  if (!median || !min || !max || *median <= 0) return std::nullopt;
  return Spread{.median = *median * scale, .min = *min * scale, .max = *max * scale};
}

// The figure that the row is about, as Measured::figure has it.
std::optional<Spread> read_figure(const json::object& row, const std::string& test) {
  if (test == "memory") return read_spread(row, "mib", 1);
  if (test == "load") return read_spread(row, "seconds", 1e3);
  return read_spread(row, "tokens_per_second", 1);
}

}  // namespace

Result<EarlierRun> EarlierRun::read(const std::string& path) {
  DALSEGNO_ASSIGN(text, read_all(path));
  EarlierRun run;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const auto value = parse_json(line, path);
    const json::object* row = value.ok() ? value->if_object() : nullptr;
    const json::value* test = row == nullptr ? nullptr : row->if_contains("test");
    const bool named = test != nullptr && test->is_string();
    const std::string name = named ? std::string(test->get_string()) : "";
    const auto tokens = named ? number(*row, "tokens") : std::nullopt;
    const auto depth = named ? number(*row, "depth") : std::nullopt;
    const auto batch = named ? number(*row, "batch") : std::nullopt;
    const auto figure = named ? read_figure(*row, name) : std::nullopt;
    if (!tokens || !depth || !batch || !figure) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{} does not hold what bench --json prints: no row was understood at '{}'",
                               source_name(path), one_line(line.substr(0, 60)))};
    }
    run.figures_[{name, static_cast<std::int64_t>(*tokens), static_cast<std::int64_t>(*depth),
                  static_cast<std::int64_t>(*batch)}] = *figure;
  }
  if (run.figures_.empty()) {
    return Error{ErrorCode::invalid_argument, fmt::format("{} holds no rows of bench --json", source_name(path))};
  }
  return run;
}

std::optional<EarlierRun::Change> EarlierRun::change(const BenchRow& row, const Measured& now) const {
  const auto found = figures_.find({row.test, row.tokens, row.depth, row.batch});
  if (found == figures_.end()) return std::nullopt;
  const Spread& before = found->second;
  const Spread figure = now.figure(row);
  return Change{.ratio = figure.median / before.median,
                .beyond_spread = figure.min > before.max || figure.max < before.min};
}

}  // namespace dalsegno::cli
