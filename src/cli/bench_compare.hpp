#pragma once

#include <map>
#include <string>
#include <tuple>

#include "cli/bench_rows.hpp"
#include "dalsegno/result.hpp"

namespace dalsegno::cli {

// What an earlier run printed with --json.
class EarlierRun {
 public:
  // Errors: not_found, io, invalid_argument; the sentence names the file.
  static Result<EarlierRun> read(const std::string& path);

  struct Change {
    double ratio = 0;            // of the row's figure, now over then
    bool beyond_spread = false;  // no value of one run lies within the other
  };
  // Nothing if the earlier run had no such row.
  [[nodiscard]] std::optional<Change> change(const BenchRow& row, const Measured& now) const;

 private:
  using Key = std::tuple<std::string, std::int64_t, std::int64_t, std::int64_t>;
  std::map<Key, Spread> figures_;
};

}  // namespace dalsegno::cli
