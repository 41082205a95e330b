// Random traffic on the tiny models: requests that come at any moment, are cancelled, preempted and given caches, on an
// engine with too little room, against one with the cache off. No bit of a logit may differ. The same seed repeats
// what is asked for, though not the moments at which it is.
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <string>

#include "oracle/arrivals.hpp"
#include "oracle/setups.hpp"

namespace dalsegno::oracle {
namespace {

constexpr std::uint64_t kFullRun = 1000;  // fewer need not meet everything

struct Options {
  std::uint64_t runs = 2000;
  std::uint32_t seed = 1;
  std::string model;      // empty: all
  std::size_t setup = 0;  // of those of the model, from 1; 0: all
};

Counts what_must_happen() {
  return Counts({"requests",
                 "waves of more than 16 requests",
                 "tokens reused",
                 "prompts in chunks",
                 "requests without reuse",
                 "requests of another tenant",
                 "requests more or less urgent",
                 "requests with a cache",
                 "requests that leave their cache half-way",
                 "cancels",
                 "cancelled",
                 "preemptions",
                 "guesses right",
                 "guesses wrong",
                 "blocks evicted",
                 "stopped by what was evicted",
                 "caches made",
                 "caches trimmed",
                 "caches taken from requests on their way",
                 "caches loaded"});
}

int run(const Options& options) {
  const auto begin = std::chrono::steady_clock::now();
  Counts counts = what_must_happen();
  std::vector<Setup> setups;
  for (const Setup& setup : all_setups()) {
    if (options.model.empty() || options.model == setup.model) setups.push_back(setup);
  }
  std::uint64_t runs = 0;
  std::uint64_t positions = 0;
  for (std::size_t i = 0; i < setups.size(); ++i) {
    if (options.setup != 0 && options.setup != i + 1) continue;
    const std::uint64_t end = runs + options.runs * (i + 1) / setups.size() - options.runs * i / setups.size();
    const std::uint32_t seed = options.seed + static_cast<std::uint32_t>(i);
    Arrivals arrivals(setups[i], seed, counts);
    std::string wrong;
    for (; runs < end && wrong.empty(); ++runs) wrong = arrivals.run();
    const std::string rest = arrivals.judge_rest();
    if (wrong.empty()) wrong = rest;
    counts.add("preemptions", arrivals.preemptions());
    counts.add("blocks evicted", arrivals.stats().evicted.chosen());
    positions += arrivals.compared();
    fmt::print("{}, seed {}: {} requests, {} positions equal\n", describe(setups[i]), seed, arrivals.requests(),
               arrivals.compared());
    if (!wrong.empty()) fmt::print("error: in run {} or the one before: {}\n", runs, wrong);
    std::fflush(stdout);
    if (!wrong.empty()) return 1;
  }
  if (runs == 0) {
    fmt::print("error: nothing ran: no such model or setup\n");
    return 2;
  }
  const bool all_met = counts.print();
  fmt::print("{} runs, {} positions in {:.0f} s: 0 differing bits\n", runs, positions,
             std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  if (all_met || !options.model.empty() || options.setup != 0 || runs < kFullRun) return 0;
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
    if (word == "--runs") {
      options.runs = std::strtoull(value, nullptr, 10);
    } else if (word == "--seed") {
      options.seed = static_cast<std::uint32_t>(std::strtoul(value, nullptr, 10));
    } else if (word == "--model") {
      options.model = value;
    } else if (word == "--setup") {
      options.setup = std::strtoull(value, nullptr, 10);
    } else {
      fmt::print("usage: scheduler_oracle [--runs N] [--seed N] [--model NAME] [--setup N]\n");
      return 2;
    }
  }
  return dalsegno::oracle::run(options);
}
