#pragma once

#include <boost/json.hpp>
#include <memory>

#include "cli/bench_rows.hpp"
#include "cli/read_bandwidth.hpp"
#include "dalsegno/diagnostics.hpp"

namespace dalsegno::cli {

// What this machine could do at best with a model: its speed, measured first, and what each row cannot avoid.
class BenchLimit {
 public:
  // `brief`: in a moment, and so too low to be believed.
  static Result<BenchLimit> measure(const std::string& model_path, const EngineOptions& engine, bool brief);

  // Looks whether memory has become faster.
  void refresh() { bandwidth_->sweep(2); }

  // The least time that a run of this row could take: its operations at the peak of the instructions, or its bytes at
  // the speed of memory, whichever is longer. Weights that fit the cache never come from memory, so there only
  // operations count.
  [[nodiscard]] double least_seconds(const BenchRow& row) const;
  // memory: weights and the keys and values of the context.
  [[nodiscard]] double least_bytes(const BenchRow& row) const;

  [[nodiscard]] boost::json::object json() const;
  [[nodiscard]] std::string sentence() const;

 private:
  std::string level_;
  std::unique_ptr<ReadBandwidth> bandwidth_;
  MachinePeak peak_;
  ModelCost cost_;
};

}  // namespace dalsegno::cli
