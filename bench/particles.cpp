// What particles cost: a fork at short and long contexts, the memory of those that diverge, and a resampling program.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cache/block_table.hpp"
#include "particles/program.hpp"
#include "runtime/local_engine.hpp"

namespace dalsegno::particles {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string model;
  int threads = 0;
  int depth = 8000;
  int prompt = 100;
  ProgramOptions program{.particles = 1000, .steps = 200};
  std::uint64_t memory_mib = 0;
};

struct Bench {
  Options options;
  std::unique_ptr<LocalEngine> engine;
  std::unique_ptr<LogprobCache> cache;
  std::mt19937 random{1};

  std::vector<TokenId> tokens(int count) {
    std::vector<TokenId> ids(static_cast<std::size_t>(count));
    const auto vocabulary = static_cast<unsigned>(engine->config().vocabulary);
    for (TokenId& id : ids) id = static_cast<TokenId>(random() % vocabulary);
    return ids;
  }
  CacheStats kv() {
    CacheStats stats;
    engine->scheduler().on_engine_thread([&](KvCache& kv_cache) { stats = kv_cache.stats(); });
    return stats;
  }
  double mib(std::uint64_t pages) {
    std::uint64_t page = 0;
    engine->scheduler().on_engine_thread([&](KvCache& kv_cache) { page = kv_cache.layout().page_bytes(); });
    return static_cast<double>(pages * page) / (1 << 20);
  }
};

// The fastest of some tries, each of many calls, in nanoseconds a call.
double nanoseconds(int calls, const std::function<void()>& call) {
  double best = 1e18;
  for (int attempt = 0; attempt < 7; ++attempt) {
    const auto begin = Clock::now();
    for (int i = 0; i < calls; ++i) call();
    best = std::min(best, std::chrono::duration<double, std::nano>(Clock::now() - begin).count() / calls);
  }
  return best;
}

// At each depth: forking a table; forking it, and making room to write, which copies the block that is not full; and
// the same by the tokens, as a query does.
void forks(Bench& bench, const std::vector<TokenId>& prompt) {
  for (const int depth : {100, bench.options.depth}) {
    const int tokens = depth / kBlockTokens * kBlockTokens + 4;  // within a block, wherever the depth
    bench.engine->scheduler().on_engine_thread([&](KvCache& cache) {
      const Namespace name_space = bench.engine->scheduler().name_space("");
      BlockTable table = std::move(cache.open(name_space, prompt, tokens).table);
      const int reused = table.tokens();
      const double fork = nanoseconds(2000, [&] { cache.discard(cache.fork(table)); });
      const double write = nanoseconds(200, [&] {
        BlockTable copy = cache.fork(table);
        if (cache.extend(copy, 1).ok()) cache.discard(std::move(copy));
      });
      cache.close(std::move(table));
      const double open = nanoseconds(200, [&] { cache.discard(cache.open(name_space, prompt, tokens).table); });
      fmt::print("fork at {} tokens: {:.0f} ns, and made writable {:.1f} us; found by its tokens {:.1f} us\n", reused,
                 fork, write / 1e3, open / 1e3);
    });
  }
}

// Particles that part from the end of the prompt and grow on their own.
Result<void> growth(Bench& bench, const std::vector<TokenId>& prompt) {
  constexpr int kParticles = 32;
  std::vector<std::vector<TokenId>> particles(kParticles, prompt);
  const CacheStats before = bench.kv();
  const std::uint64_t computed = bench.cache->stats().tokens_computed;
  for (const int more : {1, 15, 16, 32}) {
    for (int i = 0; i < more; ++i) {
      for (int p = 0; p < kParticles; ++p) particles[static_cast<std::size_t>(p)].push_back(100 + p);
      DALSEGNO_TRY(bench.cache->next_token_logprobs(particles));
    }
    const CacheStats now = bench.kv();
    const int grown = static_cast<int>(particles.front().size() - prompt.size());
    fmt::print("{} particles of {} tokens, {} of them their own: {} blocks more, {:.1f} MiB; {} rows computed\n",
               kParticles, particles.front().size(), grown, now.blocks - before.blocks,
               bench.mib(now.pages_used - before.pages_used), bench.cache->stats().tokens_computed - computed);
  }
  return {};
}

Result<void> program(Bench& bench) {
  const auto prompt = bench.tokens(bench.options.prompt);
  DALSEGNO_TRY(bench.cache->cache_kv(prompt));
  const LogprobStats before = bench.cache->stats();
  const CacheStats kv = bench.kv();
  Program run(*bench.cache, prompt, bench.options.program);
  const auto begin = Clock::now();
  DALSEGNO_TRY(run.run());
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const LogprobStats after = bench.cache->stats();
  const CacheStats now = bench.kv();
  fmt::print(
      "{} particles, {} steps, resampled {} times: {} queries of {} different contexts; the model ran for {}, "
      "computing "
      "{} tokens; {} from hidden states\n",
      bench.options.program.particles, bench.options.program.steps, run.resampled(), after.queries - before.queries,
      run.asked(), after.computed - before.computed, after.tokens_computed - before.tokens_computed,
      after.from_hidden - before.from_hidden);
  fmt::print("  {:.1f} s, {:.0f} contexts a second; {} blocks of K/V, {:.1f} MiB more, {} expected, {} evicted\n",
             seconds, static_cast<double>(run.asked()) / seconds, now.blocks, bench.mib(now.pages_used - kv.pages_used),
             run.contexts().blocks(), now.evicted.chosen() - kv.evicted.chosen());
  return {};
}

Result<void> run(const Options& options) {
  EngineOptions engine;
  engine.model_path = options.model;
  engine.threads = options.threads;
  engine.memory.bytes = options.memory_mib << 20;
  Bench bench;
  bench.options = options;
  DALSEGNO_ASSIGN(opened, LocalEngine::open(engine));
  bench.engine = std::move(opened);
  DALSEGNO_ASSIGN(cache, LogprobCache::create(*bench.engine));
  bench.cache = std::move(cache);
  bench.options.depth = std::min(options.depth, bench.engine->context() - 100);
  const auto prompt = bench.tokens(bench.options.depth + kBlockTokens);
  DALSEGNO_TRY(bench.cache->cache_kv(prompt));
  forks(bench, prompt);
  DALSEGNO_TRY(growth(bench, prompt));
  bench.cache->clear_cache();
  return program(bench);
}

}  // namespace
}  // namespace dalsegno::particles

int main(int argc, char** argv) {
  CLI::App app{"Measures what particles cost that continue one prompt: forks, memory, and a resampling program."};
  dalsegno::particles::Options options;
  app.add_option("model", options.model, "a GGUF file")->required();
  app.add_option("--threads", options.threads, "default: one per core");
  app.add_option("--depth", options.depth, "of the deeper fork (default: 8000)");
  app.add_option("--prompt", options.prompt, "tokens of the program's prompt (default: 100)");
  app.add_option("--particles", options.program.particles, "of the program (default: 1000)");
  app.add_option("--steps", options.program.steps, "of the program (default: 200)");
  app.add_option("--sharpness", options.program.sharpness, "of its draws (default: 1)");
  app.add_option("--memory", options.memory_mib, "MiB (default: half of what is available)");
  CLI11_PARSE(app, argc, argv);
  if (const auto done = dalsegno::particles::run(options); !done.ok()) {
    fmt::print(stderr, "error: {}\n", done.error().message);
    return 1;
  }
  return 0;
}
