#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <vector>

#include "cache/prefix_index.hpp"

namespace dalsegno {
namespace {

bool begins(const IndexNode& beginning, const IndexNode& node) {
  return std::ranges::mismatch(beginning.block(), node.block()).in1 == beginning.block().end();
}

}  // namespace

std::string PrefixIndex::check_node(const IndexNode& node) const {
  const bool is_root = node.parent == nullptr;
  const bool is_ghost = !is_root && node.page == kNoPage;
  if (node.size < kBlockTokens && !(node.children.empty() && node.ghosts.empty()))
    return "a partial block has children";
  if (is_ghost && !node.children.empty()) return "an evicted block has live children";
  const IndexNode* before = nullptr;
  for (const IndexNode& child : node.children) {
    if (child.parent != &node || child.size < 1) return "a child does not belong to its parent";
    if (child.page == kNoPage || node_of(child.page) != &child) return "a live block and its page disagree";
    if (child.depth != node.depth + 1 ||
        ancestor(const_cast<IndexNode&>(child), node.depth / 2).depth != node.depth / 2) {
      return "a block counts the blocks above it wrong";
    }
    if (child.window != kNoPage && node_of(child.window) != &child) return "a block and its window page disagree";
    if (!is_root && child.pins > node.pins) return "a pinned block's parent is not pinned";
    if (child.held != (child.held_slot < held_.size() && held_[child.held_slot] == &child)) {
      return "the list of held blocks is wrong";
    }
    if (child.UseHook::is_linked() != (!child.held && child.children.empty())) {
      return "a block is evictable though held or a parent, or the other way round";
    }
    if (before != nullptr && (!ByTokens{}(*before, child) || begins(*before, child))) {
      return "a block begins with its sibling, or comes before it";
    }
    before = &child;
  }
  for (const IndexNode& ghost : node.ghosts) {
    if (ghost.parent != &node || ghost.size < 1) return "a ghost does not belong to its parent";
    if (ghost.page != kNoPage || ghost.held || !ghost.UseHook::is_linked()) return "a ghost has a page";
    if (is_ghost && ghost.last_use > node.last_use) return "a ghost was evicted after its parent";
  }
  return {};
}

// Counted anew. What goes over the quota is held by tables, or a checkpoint's.
std::string PrefixIndex::check_share(const PrefixTree& tree) const {
  const TenantShare& share = tree.own;
  if (tree.share != (share.quota > 0 ? &share : nullptr)) return "a namespace's quota is not its own";
  if (tree.share == nullptr) return {};
  if (std::string violation = order_.check_invariants(share); !violation.empty()) return violation;
  std::uint64_t live = 0;
  std::uint64_t pages = 0;
  std::uint64_t leaves = 0;
  std::vector<const IndexNode*> pending{&tree};
  while (!pending.empty()) {
    const IndexNode& node = *pending.back();
    pending.pop_back();
    for (const IndexNode& child : node.children) {
      if (child.share != &share) return "a block belongs to another namespace's quota";
      ++live;
      pages += full_pages(child) + (child.window != kNoPage ? window_pages(child) : 0);
      leaves += child.OwnHook::is_linked() ? 1 : 0;
      pending.push_back(&child);
    }
  }
  if (pages > share.quota && leaves > 0) return "a namespace over its quota keeps what it could give up";
  const auto& own = share.leaves;
  if (live != own.live || leaves != own.fresh.size() + own.periodic.size() + own.others.size() || pages != share.pages)
    return fmt::format("a namespace has {} blocks and {} pages, not {} and {}", live, pages, own.live, share.pages);
  return {};
}

// By walking up from every held block, into a set of its own.
PrefixIndex::Tally PrefixIndex::count_evictable() const {
  std::set<const IndexNode*> above;
  Tally evictable = live_;
  for (const IndexNode* node : held_) {
    for (const IndexNode* at = node; at->parent != nullptr && above.insert(at).second;) {
      subtract(*at, evictable);
      at = at->parent;
    }
  }
  return evictable;
}

std::string PrefixIndex::check_invariants() const {
  if (std::string violation = order_.check_invariants(); !violation.empty()) return violation;
  std::uint64_t live = 0;
  std::uint64_t fresh = 0;
  std::uint64_t windows = 0;
  std::uint64_t held = 0;
  std::uint64_t ghosts = 0;
  std::vector<const IndexNode*> pending;
  for (const auto& [name_space, tree] : trees_) {
    if (tree.tables == 0 && tree.children.empty() && tree.ghosts.empty()) return "an unused namespace was kept";
    if (tree.UseHook::is_linked()) return "a root is evictable";
    if (std::string violation = check_share(tree); !violation.empty()) return violation;
    pending.push_back(&tree);
  }
  for (const auto& [key, tree] : private_trees_) {
    if (tree->tables == 0) return "an unused private tree was kept";
    pending.push_back(tree.get());
  }
  while (!pending.empty()) {
    const IndexNode& node = *pending.back();
    pending.pop_back();
    if (std::string violation = check_node(node); !violation.empty()) return violation;
    for (const IndexNode& child : node.children) {
      ++live;
      fresh += child.hits == 0 ? 1 : 0;
      held += child.held ? 1 : 0;
      windows += child.window != kNoPage ? 1 : 0;
      pending.push_back(&child);
    }
    for (const IndexNode& ghost : node.ghosts) {
      ++ghosts;
      pending.push_back(&ghost);
    }
  }
  std::uint64_t free = 0;
  for (const IndexNode* node = free_nodes_; node != nullptr; node = node->parent) ++free;
  if (live != live_.blocks || held != held_.size())
    return fmt::format("{} live and {} held blocks, not {} and {}", live, held, live_.blocks, held_.size());
  if (live != order_.live() || fresh != order_.fresh())
    return fmt::format("{} blocks were never hit, not {}", fresh, order_.fresh());
  if (const Tally counted = count_evictable(); counted != count())
    return fmt::format("{} blocks are evictable, not {}", counted.blocks, evictable());
  if (ghosts != ghosts_.size() || ghosts > max_ghosts_) return fmt::format("{} ghosts of {}", ghosts, ghosts_.size());
  if (live + ghosts + free != chunks_.size() * kChunk) return "index nodes are lost";
  if (chunks_.size() * kChunk >= max_nodes_ + kChunk) return "more index nodes than were reserved";
  const auto named = std::ranges::count_if(node_of_page_, [](const IndexNode* node) { return node != nullptr; });
  if (static_cast<std::uint64_t>(named) != live + windows) return "a page names a block that is gone";
  return {};
}

}  // namespace dalsegno
