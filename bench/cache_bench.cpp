#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/memory_budget.hpp"
#include "cache/block_table.hpp"
#include "cache/kv_cache.hpp"
#include "cache/prefix_index.hpp"

// What the cache itself costs, without a model: pages are as small as pages can be, so that a million blocks fit into
// memory. The library is prompts of 4,096 tokens behind one system prompt; which of them a request asks for is drawn
// at random, so that the larger ones come from memory and not from the CPU's caches. Each checks its answer before it
// times anything. Time is per prompt of 256 blocks; `match_one` asks for the same prompt each time.
namespace dalsegno {
namespace {

constexpr KvLayout kLayout{.format = KvFormat::bf16, .layers = 1, .kv_heads = 1, .head_dim = 1};
constexpr int kPromptTokens = 4096;
constexpr int kSystemTokens = 256;
constexpr int kPromptBlocks = kPromptTokens / kBlockTokens;
constexpr int kOwnBlocks = (kPromptTokens - kSystemTokens) / kBlockTokens;
constexpr std::uint32_t kGhosts = 1U << 16;
const Namespace kNamespace{};

using Tokens = std::vector<TokenId>;

Tokens prompt(std::uint64_t number) {
  Tokens tokens(kPromptTokens);
  std::mt19937 random(static_cast<unsigned>(number));
  for (int i = 0; i < kPromptTokens; ++i) {
    tokens[static_cast<std::size_t>(i)] = i < kSystemTokens ? i : static_cast<TokenId>(random() >> 15);
  }
  return tokens;
}

// A cache with room for `blocks` blocks and a prompt more.
struct Cache {
  explicit Cache(std::int64_t blocks) {
    auto made =
        KvCache::create({.layout = kLayout,
                         .max_bytes = static_cast<std::uint64_t>(blocks + 2 * kPromptBlocks) * kLayout.block_bytes(),
                         .budget = &budget,
                         .max_ghosts = kGhosts});
    if (made.ok()) cache = std::move(made).value();
  }
  // A request from beginning to end; how many of its tokens were reused, or -1.
  int ask(const Tokens& tokens) {
    auto opened = cache->open(kNamespace, tokens, static_cast<int>(tokens.size()));
    const auto rest = std::span<const TokenId>(tokens).subspan(static_cast<std::size_t>(opened.reused));
    if (!cache->extend(opened.table, static_cast<int>(rest.size())).ok()) return -1;
    cache->commit(opened.table, rest);
    cache->close(std::move(opened.table));
    return opened.reused;
  }
  int matched(const Tokens& tokens) const {
    return cache->preview(kNamespace, tokens, static_cast<int>(tokens.size())).reused;
  }

  MemoryBudget budget{16ULL << 30};
  std::unique_ptr<KvCache> cache;
};

// Full of prompts, of which those that are asked for are kept as tokens.
struct Library : Cache {
  explicit Library(std::int64_t blocks) : Cache(blocks) {
    const auto count = static_cast<std::uint64_t>(std::max<std::int64_t>(1, blocks / kOwnBlocks));
    if (cache == nullptr) return;
    for (std::uint64_t i = 0; i < count; ++i) ask(prompt(i));
    std::mt19937_64 random(1);
    for (int i = 0; i < 512; ++i) asked.push_back(prompt(random() % count));
    if (std::ranges::any_of(asked, [&](const Tokens& tokens) { return matched(tokens) != kPromptTokens; }))
      cache.reset();
  }
  const Tokens& next() { return asked[at = (at + 1) % asked.size()]; }

  std::vector<Tokens> asked;
  std::size_t at = 0;
};

bool is_ready(benchmark::State& state, const Cache& cache) {
  if (cache.cache != nullptr) return true;
  state.SkipWithError("the cache does not hold what it was given");
  return false;
}

void match(benchmark::State& state) {
  Library library(state.range(0));
  if (!is_ready(state, library)) return;
  for (auto _ : state) benchmark::DoNotOptimize(library.matched(library.next()));
}

void match_one(benchmark::State& state) {
  Library library(state.range(0));
  if (!is_ready(state, library)) return;
  for (auto _ : state) benchmark::DoNotOptimize(library.matched(library.asked.front()));
}

// Opens a table with all 256 blocks and closes it.
void open_and_close(benchmark::State& state) {
  Library library(state.range(0));
  if (!is_ready(state, library)) return;
  for (auto _ : state) {
    auto opened = library.cache->open(kNamespace, library.next(), kPromptTokens);
    benchmark::DoNotOptimize(opened.reused);
    library.cache->close(std::move(opened.table));
  }
}

void fork_and_close(benchmark::State& state) {
  Library library(state.range(0));
  if (!is_ready(state, library)) return;
  auto opened = library.cache->open(kNamespace, library.next(), kPromptTokens);
  for (auto _ : state) {
    BlockTable table = library.cache->fork(opened.table);
    benchmark::DoNotOptimize(table.tokens());
    library.cache->close(std::move(table));
  }
}

// A prompt that nobody asked for before, while the cache is full: 240 or 256 blocks are evicted and as many inserted.
void one_off(benchmark::State& state) {
  Library library(state.range(0));
  if (!is_ready(state, library)) return;
  std::uint64_t number = 1U << 30;
  for (int i = 0; i < 3; ++i) library.ask(prompt(number++));
  const std::uint64_t before = library.cache->stats().evicted.chosen();
  if (library.ask(prompt(number++)) > kSystemTokens || library.cache->stats().evicted.chosen() - before < kOwnBlocks) {
    return state.SkipWithError("a new prompt took no room from others");
  }
  for (auto _ : state) {
    state.PauseTiming();
    const Tokens tokens = prompt(number++);
    state.ResumeTiming();
    benchmark::DoNotOptimize(library.ask(tokens));
  }
}

// An index without a pool, of which either insertions or evictions are timed.
class Index {
 public:
  explicit Index(std::int64_t blocks)
      : index_(static_cast<std::uint32_t>(blocks) + kPromptBlocks, kGhosts, budget_, Reservation{},
               *find_eviction_policy(kDefaultEviction).value()),
        tree_(*index_.enter(kNamespace)) {
    while (static_cast<std::int64_t>(index_.live()) + kPromptBlocks <= blocks) insert(prompt(number_++));
  }
  void insert(const Tokens& tokens) {
    IndexNode* at = &tree_;
    for (int begin = 0; begin < kPromptTokens; begin += kBlockTokens) {
      const PageId page = free_.empty() ? PageId{pages_++} : free_.back();
      const auto block = std::span<const TokenId>(tokens).subspan(static_cast<std::size_t>(begin), kBlockTokens);
      const auto inserted = index_.insert(*at, block, page);
      if (inserted.added && !free_.empty()) free_.pop_back();
      if (!inserted.added && free_.empty()) --pages_;
      if (at != &tree_) index_.set_held(*at, false, true);
      at = inserted.node;
      index_.set_held(*at, true);
    }
    index_.set_held(*at, false);
  }
  void evict(int blocks) {
    for (; blocks > 0; --blocks) free_.push_back(index_.evict(PrefixIndex::Remember::yes));
  }
  Tokens next() { return prompt(number_++); }
  [[nodiscard]] std::uint64_t live() const { return index_.live(); }
  [[nodiscard]] bool has(const Tokens& tokens) const { return index_.match(tree_, tokens).tokens() == kPromptTokens; }

 private:
  MemoryBudget budget_{16ULL << 30};
  PrefixIndex index_;
  PrefixTree& tree_;
  std::uint64_t number_ = 0;
  std::uint32_t pages_ = 0;
  std::vector<PageId> free_;
};

void turn_over(benchmark::State& state, bool time_insert) {
  Index index(state.range(0));
  const Tokens first = index.next();
  index.insert(first);
  const std::uint64_t live = index.live();
  if (!index.has(first)) return state.SkipWithError("what was inserted is not found");
  index.evict(kOwnBlocks);
  if (index.live() + kOwnBlocks != live) return state.SkipWithError("what was evicted is still there");
  for (auto _ : state) {
    state.PauseTiming();
    const Tokens tokens = index.next();
    if (time_insert) state.ResumeTiming();
    index.insert(tokens);
    if (time_insert) {
      state.PauseTiming();
    } else {
      state.ResumeTiming();
    }
    index.evict(kOwnBlocks);
    if (time_insert) state.ResumeTiming();
  }
}
void insert(benchmark::State& state) {
  turn_over(state, true);
}
void evict(benchmark::State& state) {
  turn_over(state, false);
}

// Prompts of 4,096 tokens (or only their last block) whose last block has so many siblings; all share half of it.
void siblings(benchmark::State& state, int tokens) {
  const std::int64_t count = state.range(0);
  Cache cache(count + kPromptBlocks);
  if (!is_ready(state, cache)) return;
  Tokens common = prompt(0);
  common.resize(static_cast<std::size_t>(tokens - kBlockTokens / 2));
  const auto sibling = [&](std::int64_t number) {
    Tokens all = common;
    for (int i = 0; i < kBlockTokens / 2; ++i) all.push_back(static_cast<TokenId>((number >> i) % 3 + i));
    all[common.size()] = static_cast<TokenId>(number * 7919 % count);
    return all;
  };
  std::vector<Tokens> asked;
  for (std::int64_t i = 0; i < count; ++i) cache.ask(sibling(i));
  for (std::int64_t i = 0; i < 1024; ++i) asked.push_back(sibling(i * 97 % count));
  if (std::ranges::any_of(asked, [&](const Tokens& all) { return cache.matched(all) != tokens; })) {
    return state.SkipWithError("a sibling is not found");
  }
  std::size_t at = 0;
  for (auto _ : state) benchmark::DoNotOptimize(cache.matched(asked[++at % asked.size()]));
}
void siblings_of_a_prompt(benchmark::State& state) {
  siblings(state, kPromptTokens);
}
void siblings_of_a_block(benchmark::State& state) {
  siblings(state, kBlockTokens);
}

void sizes(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t blocks : {1'000, 10'000, 100'000, 1'000'000}) bench->Arg(blocks);
  bench->ArgName("blocks")->Unit(benchmark::kMicrosecond);
}
void families(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t count : {1, 1'000, 100'000}) bench->Arg(count);
  bench->ArgName("siblings")->Unit(benchmark::kMicrosecond);
}

BENCHMARK(match)->Apply(sizes);
BENCHMARK(match_one)->Apply(sizes);
BENCHMARK(open_and_close)->Apply(sizes);
BENCHMARK(fork_and_close)->Apply(sizes);
BENCHMARK(one_off)->Apply(sizes);
BENCHMARK(insert)->Apply(sizes);
BENCHMARK(evict)->Apply(sizes);
BENCHMARK(siblings_of_a_prompt)->Apply(families);
BENCHMARK(siblings_of_a_block)->Apply(families);

}  // namespace
}  // namespace dalsegno
