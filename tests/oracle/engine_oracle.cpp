// Random conversation trees on the tiny models, on an engine that reuses all it can and forgets what it must, against
// one with the cache off: no bit of a logit may differ. The same seed repeats a run.
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "oracle/conversations.hpp"
#include "oracle/setups.hpp"

namespace dalsegno::oracle {
namespace {

constexpr std::uint64_t kFullRun = 1000;  // trees; fewer need not meet everything

struct Options {
  std::uint64_t trees = 5000;
  std::uint64_t steps = 0;  // instead of trees
  std::uint32_t seed = 1;
  std::string model;  // empty: all
};

Counts what_must_happen() {
  return Counts({"requests",
                 "turns",
                 "edits",
                 "tokens reused",
                 "resumed within a block",
                 "requests at once",
                 "prompts in chunks",
                 "requests more or less urgent",
                 "requests without reuse",
                 "requests of another tenant",
                 "cancelled",
                 "stopped by what was evicted",
                 "stopped by a window",
                 "blocks evicted",
                 "checkpoints evicted",
                 "pages with residues",
                 "forks",
                 "rewinds",
                 "drafts rejected",
                 "guesses right",
                 "guesses of a draft model",
                 "guesses wrong",
                 "several sequences in a step",
                 "blocks audited",
                 "trees of llama",
                 "trees of qwen2",
                 "trees of qwen3",
                 "trees of gemma3",
                 "trees in bf16",
                 "trees in f32",
                 "trees in 8 bits",
                 "trees in 4 bits",
                 "trees where codes start later",
                 "trees with max size",
                 "trees with max size and keep",
                 "trees on 1 thread",
                 "trees on 2 threads",
                 "trees with lru",
                 "trees with 16-bit activations"});
}

void count_tree(const Setup& setup, Counts& counts) {
  const std::string model = setup.model;
  counts.add("trees of " + model.substr(0, model.find('-')));
  const char* formats[] = {"bf16", "f32", "8 bits", "4 bits"};
  counts.add(fmt::format("trees in {}", formats[static_cast<int>(setup.kv.format)]));
  counts.add("trees where codes start later", setup.kv.start > 0 ? 1 : 0);
  counts.add("trees with max size", setup.kv.max_size > 0 ? 1 : 0);
  counts.add("trees with max size and keep", setup.kv.keep > 0 ? 1 : 0);
  counts.add(setup.threads == 1 ? "trees on 1 thread" : "trees on 2 threads");
  counts.add("trees with lru", setup.eviction == std::string("lru") ? 1 : 0);
  counts.add("trees with 16-bit activations", setup.activation_bits == 16 ? 1 : 0);
}

struct Total {
  std::uint64_t trees = 0, steps = 0, positions = 0;
};

// Its share of the run. False: something was wrong, and has been told.
bool run_setup(const Setup& setup, const Options& options, std::uint32_t seed, std::uint64_t share, Total& total,
               Counts& counts) {
  Conversations conversations(setup, seed, counts);
  std::uint64_t trees = 0;
  std::string wrong;
  while (wrong.empty() && (options.steps > 0 ? conversations.steps() : trees) < share) {
    ++trees;
    count_tree(setup, counts);
    wrong = conversations.tree();
  }
  const std::string rest = conversations.judge_rest();
  if (wrong.empty()) wrong = rest;
  const CacheStats stats = conversations.stats();
  counts.add("blocks evicted", stats.evicted.chosen());
  counts.add("guesses of a draft model", conversations.drafted());
  counts.add("checkpoints evicted", stats.evicted.checkpoints);
  fmt::print("{}, seed {}: {} trees, {} steps, {} positions equal\n", describe(setup), seed, trees,
             conversations.steps(), conversations.compared());
  // The logits of a tree are judged while the next one grows.
  if (!wrong.empty()) fmt::print("error: in tree {} or the one before: {}\n", trees, wrong);
  std::fflush(stdout);
  total.trees += trees;
  total.steps += conversations.steps();
  total.positions += conversations.compared();
  return wrong.empty();
}

int run(const Options& options) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  std::vector<Setup> setups;
  for (const Setup& setup : all_setups()) {
    if (options.model.empty() || options.model == setup.model) setups.push_back(setup);
  }
  const std::uint64_t all = options.steps > 0 ? options.steps : options.trees;
  Counts counts = what_must_happen();
  Total total;
  for (std::size_t i = 0; i < setups.size(); ++i) {
    const std::uint64_t share = all * (i + 1) / setups.size() - all * i / setups.size();
    if (!run_setup(setups[i], options, options.seed + static_cast<std::uint32_t>(i), share, total, counts)) return 1;
  }
  const bool all_met = counts.print();
  fmt::print("{} trees, {} steps, {} positions in {:.0f} s: 0 differing bits\n", total.trees, total.steps,
             total.positions, std::chrono::duration<double>(Clock::now() - begin).count());
  if (all_met || !options.model.empty() || total.trees < kFullRun) return 0;
  fmt::print("error: something never happened that the oracle is there for\n");
  return 1;
}

}  // namespace
}  // namespace dalsegno::oracle

int main(int argc, char** argv) {
  dalsegno::oracle::Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string word = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "";
    if (word == "--trees") {
      options.trees = std::strtoull(value, nullptr, 10);
    } else if (word == "--steps") {
      options.steps = std::strtoull(value, nullptr, 10);
    } else if (word == "--seed") {
      options.seed = static_cast<std::uint32_t>(std::strtoul(value, nullptr, 10));
    } else if (word == "--model") {
      options.model = value;
    } else {
      fmt::print("usage: engine_oracle [--trees N | --steps N] [--seed N] [--model NAME]\n");
      return 2;
    }
  }
  return dalsegno::oracle::run(options);
}
