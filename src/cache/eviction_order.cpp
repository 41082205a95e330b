#include "cache/eviction_order.hpp"

#include <algorithm>

namespace dalsegno {
namespace {

constexpr std::uint32_t kUnit = 16;    // of gaps and spreads
constexpr std::uint32_t kRegular = 8;  // gaps differ by an eighth at most

IndexNode* first(const NodesByRank& leaves) {
  return leaves.empty() ? nullptr : const_cast<IndexNode*>(&*leaves.begin());
}

IndexNode* last(const NodesByRank& leaves) {
  return leaves.empty() ? nullptr : const_cast<IndexNode*>(&*leaves.rbegin());
}

// A quarter of the way, as round-trip times are averaged.
std::uint32_t towards(std::uint32_t mean, std::uint32_t sample) {
  return mean - mean / 4 + sample / 4;
}

}  // namespace

void EvictionOrder::clear() {
  fresh_leaves_.clear();
  periodic_leaves_.clear();
  leaves_.clear();
}

bool EvictionOrder::is_periodic(const IndexNode& node) const {
  return weighs() && node.hits >= 2 && node.spread <= node.gap / kRegular;
}

std::uint64_t EvictionOrder::rank_of(const IndexNode& node) const {
  return node.periodic ? std::uint64_t{node.seen} * kUnit + node.gap : 0;
}

NodesByRank& EvictionOrder::leaves_with(const IndexNode& node) {
  if (is_fresh(node)) return fresh_leaves_;
  return node.periodic ? periodic_leaves_ : leaves_;
}

void EvictionOrder::count_use(IndexNode& node) const {
  const std::uint32_t gap = std::min(now_ - node.seen, 1U << 24) * kUnit;
  const std::uint32_t apart = std::max(gap, node.gap) - std::min(gap, node.gap);
  node.spread = node.hits < 2 ? apart : towards(node.spread, apart);
  node.gap = node.hits == 0 ? gap : towards(node.gap, gap);
  ++node.hits;
}

void EvictionOrder::add(IndexNode& node) {
  const IndexNode& parent = *node.parent;
  if (node.hits == 0 && parent.hits > 0 && parent.children.empty() && parent.ghosts.empty()) {
    node.hits = parent.hits;
    node.gap = parent.gap;
    node.spread = parent.spread;
  }
  use(node);
  ++live_;
  if (node.hits == 0) ++fresh_;
}

void EvictionOrder::remove(IndexNode& node) {
  take_out(node);
  --live_;
  if (node.hits == 0) --fresh_;
}

void EvictionOrder::put_in(IndexNode& node) {
  node.periodic = is_periodic(node);
  node.rank = rank_of(node);
  leaves_with(node).insert(node);
}

void EvictionOrder::take_out(IndexNode& node) {
  if (!node.UseHook::is_linked()) return;
  NodesByRank& leaves = leaves_with(node);
  leaves.erase(leaves.iterator_to(node));
}

void EvictionOrder::hit(IndexNode& node) {
  const bool was_in = node.UseHook::is_linked();
  take_out(node);
  if (node.hits == 0) --fresh_;
  count_use(node);
  use(node);
  if (was_in) put_in(node);
}

double EvictionOrder::wait(const IndexNode& node) const {
  const double idle = now_ - node.seen;
  const double left = static_cast<double>(node.gap) / kUnit - idle;
  const double requests = is_periodic(node) && left > 0 ? left : idle;
  return requests / policy_.cost(node.depth, node.size);
}

IndexNode* EvictionOrder::least() const {
  IndexNode* fresh = first(fresh_leaves_);
  if (fresh != nullptr && fresh_ * 1024 > live_ * policy_.fresh_share) return fresh;
  IndexNode* least = first(leaves_);
  for (IndexNode* other : {first(periodic_leaves_), last(periodic_leaves_)}) {
    if (other != nullptr && (least == nullptr || wait(*other) > wait(*least))) least = other;
  }
  return least != nullptr ? least : fresh;
}

bool EvictionOrder::goes_before(const IndexNode& node, std::uint64_t last_use, const IndexNode& leaf) const {
  if (is_fresh(node) != is_fresh(leaf)) return is_fresh(node);
  if (!weighs() || is_fresh(node) || wait(node) == wait(leaf)) return last_use < leaf.last_use;
  return wait(node) > wait(leaf);
}

std::string EvictionOrder::check_invariants() const {
  for (const NodesByRank* leaves : {&fresh_leaves_, &periodic_leaves_, &leaves_}) {
    const IndexNode* before = nullptr;
    for (const IndexNode& node : *leaves) {
      if (is_fresh(node) != (leaves == &fresh_leaves_)) return "a leaf is among those hit, or never hit, by mistake";
      if (node.periodic != (leaves == &periodic_leaves_)) return "a leaf is among the periodic ones by mistake";
      if (node.periodic != is_periodic(node) || node.rank != rank_of(node)) return "a leaf's rank is not its own";
      if (before != nullptr && !ByRank{}(*before, node)) return "leaves are out of order";
      before = &node;
    }
  }
  return {};
}

}  // namespace dalsegno
