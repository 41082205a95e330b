#include "cli/bench_limit.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "cli/options.hpp"

namespace dalsegno::cli {
namespace {

constexpr int kSweeps = 20;  // some 10 ms each

struct Keys {
  double seen;  // by a token, on average
  double read;  // by a step
};

// Where a token sees itself and at most window - 1 tokens before it.
Keys keys_of(const BenchRow& row, double window) {
  const double tokens = row.tokens;
  if (row.is("prefill")) {
    const double growing = std::min(tokens, window);  // tokens that see all before them
    return {(growing * (growing + 1) / 2 + (tokens - growing) * growing) / tokens, 0};
  }
  // One more token was sampled before the clock started.
  const double own = 1 + (tokens + 1) / 2;
  const double seen = std::min(row.depth + own, window);
  const double own_seen = std::min(own, window);
  return {seen, row.is("shared_prefix") ? seen - own_seen + row.batch * own_seen : row.batch * seen};
}

}  // namespace

Result<BenchLimit> BenchLimit::measure(const std::string& model_path, const EngineOptions& engine, bool brief) {
  BenchLimit limit;
  DALSEGNO_ASSIGN(cost, asked_for(model_cost(model_path, engine.kv, engine.activation_bits)));
  limit.cost_ = cost;
  DALSEGNO_ASSIGN(levels, asked_for(cpu_levels()));
  limit.level_ = levels.chosen;
  DALSEGNO_ASSIGN(peak, measure_peak(engine.threads, brief ? 0.01 : 0.4));
  limit.peak_ = peak;
  limit.bandwidth_ = std::make_unique<ReadBandwidth>(engine.threads, brief);
  limit.bandwidth_->sweep(brief ? 1 : kSweeps);
  return limit;
}

double BenchLimit::least_seconds(const BenchRow& row) const {
  const double bytes_per_second = bandwidth_->best();
  if (row.is("load")) return bytes_per_second > 0 ? cost_.file_bytes / bytes_per_second : 0;
  const bool prefill = row.is("prefill");
  const double tokens = row.tokens;
  const double rows = prefill ? tokens : row.batch;  // tokens of one step
  const double heads = prefill ? 1 : row.batch;
  Keys keys = keys_of(row, std::numeric_limits<double>::infinity());
  if (cost_.window > 0) {
    const Keys windowed = keys_of(row, cost_.window);
    keys.seen += cost_.windowed_share * (windowed.seen - keys.seen);
    keys.read += cost_.windowed_share * (windowed.read - keys.read);
  }
  const double int8 = rows * cost_.layers.int8 + heads * cost_.head.int8;
  const double bf16 =
      rows * cost_.layers.bf16 + heads * cost_.head.bf16 + rows * keys.seen * cost_.attention_operations;
  const double computing = int8 / peak_.int8 + bf16 / peak_.bf16;
  const double steps = prefill ? 1 : tokens;
  if (cost_.weight_bytes < 2 * cache_bytes() || bytes_per_second <= 0) return steps * computing;
  return steps * std::max(computing, (cost_.weight_bytes + keys.read * cost_.kv_bytes) / bytes_per_second);
}

double BenchLimit::least_bytes(const BenchRow& row) const {
  return cost_.weight_bytes + row.context() * cost_.kv_bytes;
}

boost::json::object BenchLimit::json() const {
  return {{"level", level_},
          {"read_gb_per_second", bandwidth_->best() * 1e-9},
          {"int8_gops", peak_.int8 * 1e-9},
          {"bf16_gflops", peak_.bf16 * 1e-9}};
}

std::string BenchLimit::sentence() const {
  return fmt::format("limits ({}): reads {:.1f} GB/s, int8 {:.0f} GOPS, bf16 {:.0f} GFLOPS", level_,
                     bandwidth_->best() * 1e-9, peak_.int8 * 1e-9, peak_.bf16 * 1e-9);
}

}  // namespace dalsegno::cli
