// Replays traces through the K/V cache, without a model, once per eviction policy, and compares what is computed
// again with what a cache that knows the future would.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "cache/eviction_policy.hpp"
#include "cache_sim/replay.hpp"
#include "cache_sim/trace.hpp"
#include "tensor/kv_view.hpp"

namespace dalsegno::cache_sim {
namespace {

struct Options {
  std::string file;
  int block_tokens = 512;
  std::uint32_t budget = 0;
  std::uint64_t seed = 1;
};

void print_row(std::string_view policy, const Outcome& outcome, const Outcome& bound, int block_tokens) {
  const auto tokens = static_cast<unsigned long long>(block_tokens);
  const double ratio =
      static_cast<double>(outcome.recomputed) / static_cast<double>(std::max<std::uint64_t>(bound.recomputed, 1));
  fmt::print("  {:<12} hit ratio {:6.4f}  recomputed tokens {:>10}", policy,
             static_cast<double>(outcome.reused) / static_cast<double>(std::max<std::uint64_t>(outcome.asked, 1)),
             outcome.recomputed * tokens);
  if (bound.recomputed > 0) fmt::print("  {:6.3f} times the bound", ratio);
  fmt::print("\n");
}

int simulate(const Trace& trace, int block_tokens) {
  const Outcome bound = clairvoyant(trace);
  fmt::print("{}: {} requests, {} of {} blocks fit", trace.name, trace.requests.size(), trace.budget,
             unique_blocks(trace));
  if (bound.refused > 0) fmt::print(", {} refused", bound.refused);
  fmt::print("\n");
  for (const EvictionPolicy& policy : eviction_policies()) {
    const auto outcome = replay(trace, std::string(policy.name));
    if (!outcome.ok()) {
      fmt::print(stderr, "cache_sim: {}\n", outcome.error().message);
      return 1;
    }
    print_row(policy.name, outcome.value(), bound, block_tokens);
  }
  print_row("clairvoyant", bound, bound, block_tokens);
  return 0;
}

int run(const Options& options) {
  if (options.file.empty()) {
    int failed = 0;
    for (Trace& trace : generated(options.seed)) {
      if (options.budget > 0) trace.budget = options.budget;
      failed |= simulate(trace, kBlockTokens);
    }
    return failed;
  }
  auto trace = import_trace(options.file);
  if (!trace.ok()) {
    fmt::print(stderr, "cache_sim: {}\n", trace.error().message);
    return 1;
  }
  if (options.budget > 0) trace.value().budget = options.budget;
  return simulate(trace.value(), options.block_tokens);
}

}  // namespace
}  // namespace dalsegno::cache_sim

int main(int argc, char** argv) {
  CLI::App app{"Replays traces through the K/V cache and compares its eviction policies with the clairvoyant bound."};
  dalsegno::cache_sim::Options options;
  app.add_option("trace", options.file, "a file of JSON lines with \"hash_ids\" (default: generated traces)");
  app.add_option("--block-tokens", options.block_tokens, "tokens of one id of the file (default: 512)")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--budget", options.budget, "blocks that fit (default: a share of the trace's)");
  app.add_option("--seed", options.seed, "of the generated traces (default: 1)");
  CLI11_PARSE(app, argc, argv);
  return dalsegno::cache_sim::run(options);
}
