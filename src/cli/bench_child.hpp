#pragma once

#include "cli/bench_rows.hpp"
#include "cli/options.hpp"

namespace dalsegno::cli {

// What one request cost a process of its own.
struct ColdRun {
  double first_token_seconds = 0;  // from before the process was made
  double seconds = 0;              // until its last token came
  double peak_mib = 0;             // resident, as the system saw it
};

// The hidden form of bench that such a process runs: loads the model, computes `row.depth` tokens (at least one) and
// `row.tokens` steps, and says on standard output when the first and the last token came.
Result<int> run_cold(const CommonOptions& options, const BenchRow& row);

// Starts this program again for it.
Result<ColdRun> time_cold(const CommonOptions& options, const BenchRow& row);

}  // namespace dalsegno::cli
