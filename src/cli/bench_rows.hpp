#pragma once

#include <boost/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace dalsegno::cli {

// One thing that bench measures.
struct BenchRow {
  const char* test;
  // prefill: of the prompt; load: of the prompt of a cold process; memory: steps after a prompt that fills the rest
  // of the context; else: steps of each sequence
  int tokens;
  int depth;  // tokens that each sequence holds before; memory: of the prompt
  int batch;  // sequences

  [[nodiscard]] bool is(const char* name) const { return std::string_view(test) == name; }
  // Most tokens that one sequence holds. Steps begin with one more token that was sampled before the clock started.
  [[nodiscard]] int context() const { return depth + tokens + (is("prefill") || is("load") || is("memory") ? 0 : 1); }
};

inline constexpr int kMostBatch = 256;  // sequences that one step of the engine takes

// `brief`: the same tests with so few tokens that a tiny model does them in a moment.
[[nodiscard]] std::span<const BenchRow> bench_rows(bool brief);
// "decode:64:1024:1": test, tokens, depth, batch. Nothing if it is no such row.
[[nodiscard]] std::optional<BenchRow> parse_row(const std::string& text);

struct Spread {
  double median = 0, min = 0, max = 0;
};
[[nodiscard]] Spread spread(std::vector<double> values);

// What runs of a row gave.
struct Measured {
  Spread seconds;
  Spread tokens_per_second;
  std::optional<Spread> mib;          // memory: peak of the process
  std::optional<double> limit_share;  // of what the machine could do, 1 being the limit

  // What the row is about, and its unit: tok/s, ms or MiB.
  [[nodiscard]] Spread figure(const BenchRow& row) const;
};
[[nodiscard]] const char* unit(const BenchRow& row);
[[nodiscard]] boost::json::object spread_json(const Spread& spread);

}  // namespace dalsegno::cli
