#include "cache_sim/replay.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "base/memory_budget.hpp"
#include "cache/block_table.hpp"
#include "cache/kv_cache.hpp"

namespace dalsegno::cache_sim {
namespace {

constexpr KvLayout kLayout{.format = KvFormat::bf16, .layers = 1, .kv_heads = 1, .head_dim = 1};
constexpr auto kBlock = static_cast<std::size_t>(kBlockTokens);

// A name for every prefix: its number, counted from 1.
class Prefixes {
 public:
  std::uint32_t after(std::uint32_t prefix, std::uint32_t block) {
    const auto [at, added] = known_.try_emplace({prefix, block}, static_cast<std::uint32_t>(depth_.size()));
    if (added) depth_.push_back(depth_[prefix] + 1);
    return at->second;
  }
  [[nodiscard]] std::size_t count() const { return depth_.size(); }
  [[nodiscard]] std::uint32_t depth(std::uint32_t prefix) const { return depth_[prefix]; }

 private:
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> known_;
  std::vector<std::uint32_t> depth_{0};
};

struct Path {
  std::vector<std::uint32_t> prefixes;
  std::size_t asked = 0;  // of the prompt; the others are written by the reply
};

std::vector<Path> paths_of(const Trace& trace, Prefixes& prefixes) {
  std::vector<Path> paths;
  for (const Request& request : trace.requests) {
    Path path{{}, request.prompt.size()};
    std::uint32_t at = 0;
    for (const Blocks* blocks : {&request.prompt, &request.reply}) {
      for (const std::uint32_t block : *blocks) path.prefixes.push_back(at = prefixes.after(at, block));
    }
    paths.push_back(std::move(path));
  }
  return paths;
}

std::vector<TokenId> tokens_of(const Request& request) {
  std::vector<TokenId> tokens;
  for (const Blocks* blocks : {&request.prompt, &request.reply}) {
    for (const std::uint32_t block : *blocks) tokens.insert(tokens.end(), kBlock, static_cast<TokenId>(block));
  }
  return tokens;
}

constexpr std::size_t kNever = std::numeric_limits<std::size_t>::max();

// Blocks that are there, what goes first at the end.
class Residents {
 public:
  explicit Residents(const Prefixes& prefixes) : prefixes_(prefixes), next_(prefixes.count(), kGone) {}
  [[nodiscard]] bool has(std::uint32_t prefix) const { return next_[prefix] != kGone; }
  [[nodiscard]] std::size_t count() const { return order_.size(); }
  void set(std::uint32_t prefix, std::size_t next_use) {
    take(prefix);
    next_[prefix] = next_use;
    order_.insert(key(prefix));
  }
  void take(std::uint32_t prefix) {
    if (!has(prefix)) return;
    order_.erase(key(prefix));
    next_[prefix] = kGone;
  }
  void take_furthest() { take(std::get<2>(*order_.rbegin())); }

 private:
  static constexpr std::size_t kGone = kNever - 1;
  using Key = std::tuple<std::size_t, std::uint32_t, std::uint32_t>;
  [[nodiscard]] Key key(std::uint32_t prefix) const { return {next_[prefix], prefixes_.depth(prefix), prefix}; }

  const Prefixes& prefixes_;
  std::vector<std::size_t> next_;
  std::set<Key> order_;
};

// For each request, when each block of its path is asked for again.
std::vector<std::vector<std::size_t>> next_uses(const std::vector<Path>& paths, std::size_t prefixes) {
  std::vector<std::vector<std::size_t>> next(paths.size());
  std::vector<std::size_t> ahead(prefixes, kNever);
  for (std::size_t at = paths.size(); at-- > 0;) {
    const Path& path = paths[at];
    for (const std::uint32_t prefix : path.prefixes) next[at].push_back(ahead[prefix]);
    for (std::size_t i = 0; i < path.asked; ++i) ahead[path.prefixes[i]] = at;
  }
  return next;
}

}  // namespace

Result<Outcome> replay(const Trace& trace, const std::string& policy) {
  MemoryBudget budget(std::uint64_t{16} << 30);
  DALSEGNO_ASSIGN(cache, KvCache::create({.layout = kLayout,
                                          .max_bytes = trace.budget * std::uint64_t{kLayout.block_bytes()},
                                          .budget = &budget,
                                          .eviction = policy}));
  Prefixes prefixes;
  const std::vector<Path> paths = paths_of(trace, prefixes);
  std::vector<bool> computed(prefixes.count(), false);
  Outcome outcome;
  for (std::size_t at = 0; at < paths.size(); ++at) {
    const Path& path = paths[at];
    if (path.prefixes.size() > trace.budget) {
      ++outcome.refused;
      continue;
    }
    const std::vector<TokenId> tokens = tokens_of(trace.requests[at]);
    auto opened = cache->open(Namespace{}, tokens, static_cast<int>(path.asked * kBlock));
    const auto reused = static_cast<std::size_t>(opened.reused) / kBlock;
    outcome.asked += path.asked;
    outcome.reused += reused;
    for (std::size_t i = 0; i < path.prefixes.size(); ++i) {
      if (i >= reused && i < path.asked && computed[path.prefixes[i]]) ++outcome.recomputed;
      computed[path.prefixes[i]] = true;
    }
    const std::span<const TokenId> rest = std::span(tokens).subspan(static_cast<std::size_t>(opened.reused));
    DALSEGNO_TRY(cache->extend(opened.table, static_cast<int>(rest.size())));
    cache->commit(opened.table, rest);
    cache->close(std::move(opened.table));
  }
  return outcome;
}

Outcome clairvoyant(const Trace& trace) {
  Prefixes prefixes;
  std::vector<Path> paths = paths_of(trace, prefixes);
  Outcome outcome;
  outcome.refused = std::erase_if(paths, [&](const Path& path) { return path.prefixes.size() > trace.budget; });
  const auto next = next_uses(paths, prefixes.count());
  std::vector<bool> computed(prefixes.count(), false);
  Residents residents(prefixes);
  for (std::size_t at = 0; at < paths.size(); ++at) {
    const Path& path = paths[at];
    outcome.asked += path.asked;
    for (std::size_t i = 0; i < path.prefixes.size(); ++i) {
      const std::uint32_t prefix = path.prefixes[i];
      if (i < path.asked && residents.has(prefix)) ++outcome.reused;
      if (i < path.asked && !residents.has(prefix) && computed[prefix]) ++outcome.recomputed;
      computed[prefix] = true;
      residents.take(prefix);
    }
    while (residents.count() + path.prefixes.size() > trace.budget) residents.take_furthest();
    for (std::size_t i = 0; i < path.prefixes.size(); ++i) residents.set(path.prefixes[i], next[at][i]);
  }
  return outcome;
}

}  // namespace dalsegno::cache_sim
