#pragma once

#include <array>
#include <boost/intrusive/set.hpp>
#include <cstddef>
#include <cstdint>
#include <span>

#include "cache/block_pool.hpp"
#include "dalsegno/types.hpp"
#include "tensor/kv_view.hpp"

namespace dalsegno {

struct IndexNode;

// Siblings, by their tokens: the one that shares most with a sequence of tokens stands next to
// where that sequence would be, so that finding it takes O(log siblings) comparisons.
struct ByTokens {
  bool operator()(const IndexNode& a, const IndexNode& b) const;
};
struct ByUse {
  bool operator()(const IndexNode& a, const IndexNode& b) const;
};
struct ByRank {
  bool operator()(const IndexNode& a, const IndexNode& b) const;
};
struct SiblingTag;
struct UseTag;
struct MarkTag;
namespace intrusive = boost::intrusive;
using SiblingHook = intrusive::set_base_hook<intrusive::tag<SiblingTag>, intrusive::optimize_size<true>>;
using UseHook = intrusive::set_base_hook<intrusive::tag<UseTag>, intrusive::optimize_size<true>>;
// Linked while the node is a checkpoint (cache/checkpoints.hpp).
using MarkHook = intrusive::set_base_hook<intrusive::tag<MarkTag>, intrusive::optimize_size<true>>;
using Siblings = intrusive::set<IndexNode, intrusive::base_hook<SiblingHook>, intrusive::compare<ByTokens>,
                                intrusive::constant_time_size<false>>;
using NodesByUse = intrusive::set<IndexNode, intrusive::base_hook<UseHook>, intrusive::compare<ByUse>>;
using NodesByRank = intrusive::set<IndexNode, intrusive::base_hook<UseHook>, intrusive::compare<ByRank>>;

// One block of one prefix: up to 16 tokens that follow its parent's. With a page it is live; without
// one it is a ghost, a block evicted, and so are all its children. Only live blocks of 16 tokens
// have children.
struct IndexNode : SiblingHook, UseHook, MarkHook {
  std::array<TokenId, kBlockTokens> tokens{};
  int size = 0;
  PageId page = kNoPage;
  bool held = false;           // a table holds the page too
  std::uint64_t last_use = 0;  // unique among leaves; a ghost's: when it was evicted
  // EvictionOrder alone changes these.
  std::uint64_t rank = 0;    // while it could be evicted
  std::uint32_t hits = 0;    // requests that found it, or had to compute it again while it was remembered
  std::uint32_t seen = 0;    // the request that used it last
  std::uint32_t gap = 0;     // from one use to the next, in sixteenths of a request: a running mean,
  std::uint32_t spread = 0;  // and how far from it the gaps were
  bool periodic = false;     // could be evicted, and is in the order of those used regularly
  IndexNode* parent = nullptr;
  IndexNode* jump = nullptr;  // an ancestor further up, so that any ancestor is O(log depth) steps away
  int depth = 0;              // blocks from the root to the end of this one
  std::uint32_t held_slot = 0;
  std::uint64_t epoch = 0;  // that of the index: it was found above a held node
  // Of the sliding-window layers; Checkpoints alone changes these.
  PageId window = kNoPage;
  std::uint32_t cover = 0;     // checkpoints that need the window page
  bool is_end = false;         // a checkpoint where a prompt or reply ended
  bool is_fork = false;        // a checkpoint where a table was forked
  std::uint64_t mark_use = 0;  // when the checkpoint was made or resumed from
  Siblings children;           // live; none is the beginning of another
  Siblings ghosts;

  [[nodiscard]] std::span<const TokenId> block() const { return {tokens.data(), static_cast<std::size_t>(size)}; }
};

}  // namespace dalsegno
