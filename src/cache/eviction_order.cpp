#include "cache/eviction_order.hpp"

#include <algorithm>
#include <iterator>
#include <limits>

namespace dalsegno {
namespace {

constexpr std::uint32_t kGapUnit = 16;  // of gaps and spreads
constexpr std::uint32_t kRegular = 8;   // gaps differ by an eighth at most

template <class Leaves>
IndexNode* first(const Leaves& leaves) {
  return leaves.empty() ? nullptr : const_cast<IndexNode*>(&*leaves.begin());
}

// The last of those of the first one's priority.
template <class Leaves>
IndexNode* last_of_first_priority(const Leaves& leaves) {
  if (leaves.empty()) return nullptr;
  struct Priority {
    bool operator()(int priority, const IndexNode& node) const { return priority < node.priority; }
    bool operator()(const IndexNode& node, int priority) const { return node.priority < priority; }
  };
  return const_cast<IndexNode*>(&*std::prev(leaves.upper_bound(int{leaves.begin()->priority}, Priority{})));
}

// A quarter of the way, as round-trip times are averaged.
std::uint32_t towards(std::uint32_t mean, std::uint32_t sample) {
  return mean - mean / 4 + sample / 4;
}

}  // namespace

void EvictionOrder::clear() {
  leaves_.clear();
  expiring_.clear();
}

bool EvictionOrder::is_periodic(const IndexNode& node) const {
  return weighs() && node.hits >= 2 && node.spread <= node.gap / kRegular;
}

std::uint64_t EvictionOrder::rank_of(const IndexNode& node) const {
  return node.periodic ? std::uint64_t{node.seen} * kGapUnit + node.gap : 0;
}

template <class Hook>
auto& EvictionOrder::leaves_with(LeafOrders<Hook>& orders, const IndexNode& node) const {
  if (is_fresh(node)) return orders.fresh;
  return node.periodic ? orders.periodic : orders.others;
}

void EvictionOrder::count(const IndexNode& node, int blocks) {
  const auto add = [&](auto& orders) {
    orders.live += blocks;
    if (node.hits == 0) orders.never_hit += blocks;
  };
  add(leaves_);
  if (node.share != nullptr) add(node.share->leaves);
}

void EvictionOrder::count_use(IndexNode& node) const {
  const std::uint32_t gap = std::min(now_ - node.seen, 1U << 24) * kGapUnit;
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
  count(node, 1);
}

void EvictionOrder::remove(IndexNode& node) {
  take_out(node);
  count(node, -1);
}

void EvictionOrder::put_in(IndexNode& node) {
  node.periodic = is_periodic(node);
  node.rank = rank_of(node);
  leaves_with(leaves_, node).insert(node);
  if (node.share != nullptr) leaves_with(node.share->leaves, node).insert(node);
  if (node.expires != kUnsaid && node.expires != kNeverExpires) expiring_.insert(node);
}

void EvictionOrder::take_out(IndexNode& node) {
  if (!node.UseHook::is_linked()) return;
  const auto erase = [&](auto& leaves) { leaves.erase(leaves.iterator_to(node)); };
  erase(leaves_with(leaves_, node));
  if (node.OwnHook::is_linked()) erase(leaves_with(node.share->leaves, node));
  if (node.ExpiryHook::is_linked()) erase(expiring_);
}

void EvictionOrder::hit(IndexNode& node) {
  const bool was_in = node.UseHook::is_linked();
  take_out(node);
  if (node.hits == 0) {
    --leaves_.never_hit;
    if (node.share != nullptr) --node.share->leaves.never_hit;
  }
  count_use(node);
  use(node);
  if (was_in) put_in(node);
}

void EvictionOrder::claim(IndexNode& node, std::int8_t priority, std::uint64_t expires) {
  if (priority <= node.priority && expires <= node.expires) return;
  const bool was_in = node.UseHook::is_linked();
  take_out(node);
  node.priority = std::max(node.priority, priority);
  node.expires = std::max(node.expires, expires);
  if (was_in) put_in(node);
}

IndexNode* EvictionOrder::expired(std::uint64_t now) const {
  IndexNode* node = first(expiring_);
  return node != nullptr && node->expires <= now ? node : nullptr;
}

double EvictionOrder::wait(const IndexNode& node) const {
  const double idle = now_ - node.seen;
  const double left = static_cast<double>(node.gap) / kGapUnit - idle;
  const double requests = is_periodic(node) && left > 0 ? left : idle;
  return requests / policy_.cost(node.depth, node.size);
}

template <class Hook>
IndexNode* EvictionOrder::least_of(const LeafOrders<Hook>& orders) const {
  IndexNode* fresh = first(orders.fresh);
  IndexNode* least = first(orders.others);
  IndexNode* soonest = first(orders.periodic);
  int lowest = std::numeric_limits<std::int8_t>::max();
  for (const IndexNode* node : {fresh, least, soonest}) {
    if (node != nullptr) lowest = std::min(lowest, int{node->priority});
  }
  for (IndexNode** node : {&fresh, &least, &soonest}) {
    if (*node != nullptr && (*node)->priority > lowest) *node = nullptr;
  }
  if (fresh != nullptr && orders.never_hit * 1024 > orders.live * policy_.fresh_share) return fresh;
  if (soonest != nullptr) {
    for (IndexNode* other : {soonest, last_of_first_priority(orders.periodic)}) {
      if (least == nullptr || wait(*other) > wait(*least)) least = other;
    }
  }
  return least != nullptr ? least : fresh;
}

template IndexNode* EvictionOrder::least_of(const LeafOrders<UseHook>&) const;
template IndexNode* EvictionOrder::least_of(const LeafOrders<OwnHook>&) const;

bool EvictionOrder::goes_before(const IndexNode& node, std::uint64_t last_use, const IndexNode& leaf) const {
  if (node.priority != leaf.priority) return node.priority < leaf.priority;
  if (is_fresh(node) != is_fresh(leaf)) return is_fresh(node);
  if (!weighs() || is_fresh(node) || wait(node) == wait(leaf)) return last_use < leaf.last_use;
  return wait(node) > wait(leaf);
}

template <class Hook>
std::string EvictionOrder::check(const LeafOrders<Hook>& orders) const {
  for (const auto* leaves : {&orders.fresh, &orders.periodic, &orders.others}) {
    const IndexNode* before = nullptr;
    for (const IndexNode& node : *leaves) {
      if (is_fresh(node) != (leaves == &orders.fresh)) return "a leaf is among those hit, or never hit, by mistake";
      if (node.periodic != (leaves == &orders.periodic)) return "a leaf is among the periodic ones by mistake";
      if (node.periodic != is_periodic(node) || node.rank != rank_of(node)) return "a leaf's rank is not its own";
      if (before != nullptr && !ByRank{}(*before, node)) return "leaves are out of order";
      if (node.OwnHook::is_linked() != (node.share != nullptr)) return "a leaf is not in the orders of its namespace";
      const bool expires = node.expires != kUnsaid && node.expires != kNeverExpires;
      if (node.ExpiryHook::is_linked() != expires) return "a leaf is among those that expire by mistake";
      before = &node;
    }
  }
  return {};
}

template std::string EvictionOrder::check(const LeafOrders<OwnHook>&) const;

std::string EvictionOrder::check_invariants() const {
  const IndexNode* before = nullptr;
  for (const IndexNode& node : expiring_) {
    if (before != nullptr && !ByExpiry{}(*before, node)) return "leaves that expire are out of order";
    if (!node.UseHook::is_linked()) return "a block expires that could not be evicted";
    before = &node;
  }
  return check(leaves_);
}

}  // namespace dalsegno
