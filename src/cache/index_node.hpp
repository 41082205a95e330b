#pragma once

#include <array>
#include <boost/intrusive/set.hpp>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "cache/block_pool.hpp"
#include "dalsegno/types.hpp"
#include "tensor/kv_view.hpp"

namespace dalsegno {

struct IndexNode;
struct TenantShare;

// Siblings, by their tokens: the one that shares most with a sequence of tokens stands next to
// where that sequence would be, so that finding it takes O(log siblings) comparisons.
struct ByTokens {
  bool operator()(const IndexNode& a, const IndexNode& b) const;
};
struct ByUse {
  bool operator()(const IndexNode& a, const IndexNode& b) const;
};
// Of one priority the rank decides, and of one rank the last use.
struct ByRank {
  bool operator()(const IndexNode& a, const IndexNode& b) const;
};
struct ByExpiry {
  bool operator()(const IndexNode& a, const IndexNode& b) const;
};
namespace intrusive = boost::intrusive;
template <class Tag>
using NodeHook = intrusive::set_base_hook<intrusive::tag<Tag>, intrusive::optimize_size<true>>;
using SiblingHook = NodeHook<struct SiblingTag>;
using UseHook = NodeHook<struct UseTag>;
// Linked while the node is a leaf that could be evicted in a namespace with a quota.
using OwnHook = NodeHook<struct OwnTag>;
// Linked while it is a leaf that could be evicted and expires.
using ExpiryHook = NodeHook<struct ExpiryTag>;
// Linked while the node is a checkpoint (cache/checkpoints.hpp).
using MarkHook = NodeHook<struct MarkTag>;
template <class Hook, class Order>
using NodeSet = intrusive::set<IndexNode, intrusive::base_hook<Hook>, intrusive::compare<Order>>;
using Siblings = intrusive::set<IndexNode, intrusive::base_hook<SiblingHook>, intrusive::compare<ByTokens>,
                                intrusive::constant_time_size<false>>;
using NodesByUse = NodeSet<UseHook, ByUse>;
using NodesByExpiry = NodeSet<ExpiryHook, ByExpiry>;

// What a lookup reads of a node, in two cache lines.
struct alignas(128) IndexBlock : SiblingHook {
  std::array<TokenId, kBlockTokens> tokens{};
  Siblings children;  // live; none is the beginning of another
  int size = 0;
  PageId page = kNoPage;
  // A block that once was a few below this one, and may be something else by now: a lookup has it fetched meanwhile.
  const IndexBlock* ahead = nullptr;

  [[nodiscard]] std::span<const TokenId> block() const { return {tokens.data(), static_cast<std::size_t>(size)}; }
};

// Lower than any that can be asked for: no request has said anything yet.
inline constexpr std::int8_t kNoPriority = std::numeric_limits<std::int8_t>::min();
// Of `expires`: nobody said anything, which is treated as never until somebody does.
inline constexpr std::uint64_t kUnsaid = 0;
inline constexpr std::uint64_t kNeverExpires = std::numeric_limits<std::uint64_t>::max();

// What EvictionOrder knows of a node; it alone changes all but held and last_use.
struct IndexUse : UseHook {
  std::uint64_t rank = 0;      // while it could be evicted
  std::uint64_t last_use = 0;  // unique among leaves; a ghost's: when it was evicted
  std::uint32_t hits = 0;      // requests that found it, or had to compute it again while it was remembered
  std::uint32_t seen = 0;      // the request that used it last
  std::uint32_t gap = 0;       // from one use to the next, in sixteenths of a request: a running mean,
  std::uint32_t spread = 0;    // and how far from it the gaps were
  // The highest and the latest that requests asked for which used it, or a block below it that is gone. What stands
  // below counts as well, but is not entered here before it goes.
  std::int8_t priority = kNoPriority;
  bool periodic = false;            // could be evicted, and is in the order of those used regularly
  bool held = false;                // a table holds the page too
  std::uint64_t expires = kUnsaid;  // milliseconds of the cache's clock
};

// One block of one prefix: up to 16 tokens that follow its parent's. With a page it is live; without
// one it is a ghost, a block evicted, and so are all its children. Only live blocks of 16 tokens
// have children.
struct IndexNode : IndexBlock, IndexUse, OwnHook, ExpiryHook, MarkHook {
  TenantShare* share = nullptr;  // of a namespace with a quota
  IndexNode* parent = nullptr;
  IndexNode* jump = nullptr;  // an ancestor further up, so that any ancestor is O(log depth) steps away
  int depth = 0;              // blocks from the root to the end of this one
  std::uint32_t held_slot = 0;
  std::uint32_t pins = 0;
  std::uint64_t epoch = 0;  // that of the index: it was found above a held node
  // Of the sliding-window layers; Checkpoints alone changes these.
  PageId window = kNoPage;
  std::uint32_t cover = 0;     // checkpoints that need the window page
  bool is_end = false;         // a checkpoint where a prompt or reply ended
  bool is_fork = false;        // a checkpoint where a table was forked
  std::uint64_t mark_use = 0;  // when the checkpoint was made or resumed from
  Siblings ghosts;
};

// Leaves that could be evicted, as EvictionOrder orders them, and the live blocks these belong to.
template <class Hook>
struct LeafOrders {
  using Leaves = NodeSet<Hook, ByRank>;
  Leaves fresh;
  Leaves periodic;
  Leaves others;
  std::uint64_t live = 0;
  std::uint64_t never_hit = 0;  // of these

  void clear() {
    fresh.clear();
    periodic.clear();
    others.clear();
  }
};

// What a namespace with a quota keeps in the index. Pages of both layer groups count.
struct TenantShare {
  LeafOrders<OwnHook> leaves;
  std::uint64_t quota = 0;  // in pages
  std::uint64_t pages = 0;
};

}  // namespace dalsegno
