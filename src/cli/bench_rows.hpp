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
  // Most tokens that one sequence holds.
  [[nodiscard]] int context() const { return depth + tokens; }
};

// `brief`: the same tests with so few tokens that a tiny model does them in a moment.
[[nodiscard]] std::span<const BenchRow> bench_rows(bool brief);

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
