#include "cli/bench_rows.hpp"

#include <algorithm>
#include <array>

#include "cli/options.hpp"

namespace dalsegno::cli {
namespace {

constexpr int kSteps = 64;
constexpr int kBatchSteps = 32;
constexpr std::array<BenchRow, 13> kRows{{{"load", 1, 0, 1},
                                          {"memory", kSteps, 2048 - kSteps, 1},
                                          {"prefill", 512, 0, 1},
                                          {"prefill", 4096, 0, 1},
                                          {"decode", kSteps, 0, 1},
                                          {"decode", kSteps, 1024, 1},
                                          {"decode", kSteps, 4096, 1},
                                          {"batch", kBatchSteps, 128, 1},
                                          {"batch", kBatchSteps, 128, 4},
                                          {"batch", kBatchSteps, 128, 8},
                                          {"batch", kBatchSteps, 128, 16},
                                          {"batch", kBatchSteps, 128, 32},
                                          {"shared_prefix", kBatchSteps, 1024, 32}}};
constexpr std::array<BenchRow, 7> kBriefRows{{{"load", 1, 0, 1},
                                              {"memory", 4, 28, 1},
                                              {"prefill", 32, 0, 1},
                                              {"decode", 4, 0, 1},
                                              {"decode", 4, 32, 1},
                                              {"batch", 4, 16, 2},
                                              {"shared_prefix", 4, 32, 4}}};

}  // namespace

std::span<const BenchRow> bench_rows(bool brief) {
  if (brief) return kBriefRows;
  return kRows;
}

std::optional<BenchRow> parse_row(const std::string& text) {
  std::array<std::string, 4> parts;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::size_t end = i + 1 < parts.size() ? text.find(':', begin) : text.size();
    if (end == std::string::npos) return std::nullopt;
    parts[i] = text.substr(begin, end - begin);
    begin = end + 1;
  }
  for (const BenchRow& known : kRows) {
    BenchRow row{known.test, 0, 0, 0};
    if (parts[0] != known.test) continue;
    if (!parse_number(parts[1], row.tokens) || !parse_number(parts[2], row.depth) || !parse_number(parts[3], row.batch))
      return std::nullopt;
    constexpr int kMost = 1 << 24;
    const bool single = !row.is("batch") && !row.is("shared_prefix");
    const bool fresh = row.is("load") || row.is("prefill");
    if (row.tokens < 1 || row.depth < (row.is("memory") ? 1 : 0) || row.batch < 1) return std::nullopt;
    if (row.tokens > kMost || row.depth > kMost || row.batch > kMostBatch) return std::nullopt;
    if ((single && row.batch != 1) || (fresh && row.depth != 0)) return std::nullopt;
    return row;
  }
  return std::nullopt;
}

Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {.median = median, .min = values.front(), .max = values.back()};
}

Spread Measured::figure(const BenchRow& row) const {
  if (mib) return *mib;
  if (!row.is("load")) return tokens_per_second;
  return {.median = seconds.median * 1e3, .min = seconds.min * 1e3, .max = seconds.max * 1e3};
}

const char* unit(const BenchRow& row) {
  return row.is("memory") ? "MiB" : row.is("load") ? "ms" : "tok/s";
}

boost::json::object spread_json(const Spread& spread) {
  return {{"median", spread.median}, {"min", spread.min}, {"max", spread.max}};
}

}  // namespace dalsegno::cli
