#include "cli/bench_limit.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace dalsegno::cli {
namespace {

constexpr int kSweeps = 20;  // some 10 ms each

}  // namespace

Result<BenchLimit> BenchLimit::measure(const std::string& model_path, const EngineOptions& engine, bool brief) {
  BenchLimit limit;
  DALSEGNO_ASSIGN(cost, model_cost(model_path, engine.kv, engine.activation_bits));
  limit.cost_ = cost;
  DALSEGNO_ASSIGN(levels, cpu_levels());
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
  // Keys that a token sees, on average: from the first token of a prompt on, or, where one more token was
  // sampled before the clock started, from depth + 2.
  const double keys = prefill ? (tokens + 1) / 2 : row.depth + 1 + (tokens + 1) / 2;
  const double int8 = rows * cost_.layers.int8 + heads * cost_.head.int8;
  const double bf16 = rows * cost_.layers.bf16 + heads * cost_.head.bf16 + rows * keys * cost_.attention_operations;
  const double computing = int8 / peak_.int8 + bf16 / peak_.bf16;
  const double steps = prefill ? 1 : tokens;
  if (cost_.weight_bytes < 2 * cache_bytes() || bytes_per_second <= 0) return steps * computing;
  const double read = prefill ? 0 : row.is("shared_prefix") ? row.depth + rows * (keys - row.depth) : rows * keys;
  return steps * std::max(computing, (cost_.weight_bytes + read * cost_.kv_bytes) / bytes_per_second);
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
