#pragma once

#include <cstdint>
#include <string>

#include "cache/block_pool.hpp"
#include "cache/prefix_index.hpp"
#include "tensor/kv_view.hpp"

namespace dalsegno {

struct ByMark {
  bool operator()(const IndexNode& a, const IndexNode& b) const { return a.mark_use < b.mark_use; }
};
using NodesByMark = intrusive::set<IndexNode, intrusive::base_hook<MarkHook>, intrusive::compare<ByMark>>;

// The K/V of sliding-window layers that the index keeps. Tables hold the window pages that their next tokens see; what
// they let go of stays only where a checkpoint covers it. A checkpoint is a block, and covers the window before each
// of its positions: from any of them a sequence can be resumed. Each window page of a block in the index has one
// reference of this class's.
// Threads: engine thread only. Does nothing for models without such layers.
// Invariant: a block's `cover` is the number of checkpoints whose window it is in; a window page with no cover is
// held by a table.
class Checkpoints {
 public:
  // Requires: all of them outlive it.
  Checkpoints(const KvLayout& layout, BlockPool& pool, PrefixIndex& index)
      : layout_(layout), pool_(pool), index_(index) {}
  ~Checkpoints() { marks_.clear(); }
  Checkpoints(const Checkpoints&) = delete;
  Checkpoints& operator=(const Checkpoints&) = delete;

  [[nodiscard]] bool needed() const { return layout_.slides(); }
  // A page of the block's window layers is missing.
  [[nodiscard]] bool lacks(const IndexNode& node) const { return node.window == kNoPage && pages_of(node) > 0; }
  // The first block that a sequence of `tokens` tokens needs to go on.
  [[nodiscard]] int first_block(int tokens) const { return layout_.first_seen(tokens) / kBlockTokens; }
  // The most tokens of a match from which a sequence can go on.
  [[nodiscard]] int resumable(const PrefixIndex::Match& match) const;
  // The same for the first `tokens` of those that lead to `node`, the last block or partial block of them.
  [[nodiscard]] int resumable(const IndexNode& node, int tokens) const;

  // The block has this window page from now on; kNoPage: it is of the sink. Requires: it has none.
  void give(IndexNode& node, PageId page);
  // A table's references to window pages, whether the index has them or not. Without effect on kNoPage.
  void retain(PageId page);
  void release(PageId page);

  // Makes the block a checkpoint. Without effect if a window page it needs is gone.
  // is_end: people resume here. Cost: O(window).
  void mark(IndexNode& node, bool is_end);
  // The same where a table is forked: it is never thinned out.
  void mark_fork(IndexNode& node);
  void unmark(IndexNode& node);
  void touch(IndexNode& node);
  // Gives up checkpoints above `node`, the end of a sequence, that are near enough to others: see kNear.
  // Cost: linear in the blocks above.
  void thin(IndexNode& node);
  // A partial block that is about to be replaced by one that continues it: takes checkpoint and window page from it.
  // True if it was a checkpoint: the new block is then to take_over().
  [[nodiscard]] bool hand_over(IndexNode& node);
  void take_over(IndexNode& node);

  // The checkpoint used longest ago, or nullptr.
  [[nodiscard]] IndexNode* oldest();
  // Window pages that no table holds: giving up checkpoints frees all of them.
  [[nodiscard]] std::uint64_t evictable() const { return evictable_; }
  [[nodiscard]] std::uint64_t count() const { return marks_.size(); }
  // Blocks of the index that have a window page.
  [[nodiscard]] std::uint64_t windows() const { return windows_; }
  // Empty if sound, else the first violation. Cost: linear in nodes times window.
  [[nodiscard]] std::string check_invariants() const;

 private:
  [[nodiscard]] int first_covered(const IndexNode& node) const {
    return first_block((node.depth - 1) * kBlockTokens + 1);
  }
  [[nodiscard]] int pages_of(const IndexNode& node) const { return layout_.window_pages(node.depth - 1); }
  void uncover(IndexNode& node);
  void drop_window(IndexNode& node);

  const KvLayout& layout_;
  BlockPool& pool_;
  PrefixIndex& index_;
  NodesByMark marks_;
  std::uint64_t evictable_ = 0;  // pages
  std::uint64_t windows_ = 0;    // blocks
};

}  // namespace dalsegno
