#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/memory_budget.hpp"
#include "cache/block_pool.hpp"
#include "cache/eviction_order.hpp"
#include "cache/index_node.hpp"
#include "dalsegno/types.hpp"
#include "tensor/kv_view.hpp"
#include "tensor/numerics_key.hpp"

namespace dalsegno {

// The root of one namespace's tree, or of the tree of one private sequence and its forks, which none else sees.
struct PrefixTree : IndexNode {
  const Namespace* name_space = nullptr;  // nullptr: private
  std::uint32_t tables = 0;               // that were opened here and are not closed
  TenantShare own;                        // in use if there is a quota
  std::uint64_t pinned_pages = 0;
  std::uint64_t allowance = 0;  // bytes taken of what the index set aside for namespaces, or
  Reservation reservation;      // from the budget
};

// A radix tree over token ids for each namespace; its nodes name the pages that hold their K/V, and
// nothing but real tokens decides what matches. It orders what could be evicted by a policy and
// remembers a bounded number of evicted blocks, but owns no pages: its caller keeps the references.
// Threads: engine thread only. Memory: reserved for the most it may need when it is made.
// What stands above a held node is not evictable, because children go before their parents.
class PrefixIndex {
 public:
  static std::uint64_t bytes_for(std::uint32_t max_pages, std::uint32_t max_ghosts);
  // What a block that may be added needs besides its page.
  static constexpr std::uint64_t block_bytes() { return sizeof(IndexNode) + 2 * sizeof(void*); }
  // How many pages evicting the n-th block of a sequence sets free; how many its window page stands for.
  using PagesOf = std::function<int(int block)>;
  // Requires: budget and policy outlive the index. `reserved` holds bytes_for(max_pages, max_ghosts).
  PrefixIndex(
      std::uint32_t max_pages, std::uint32_t max_ghosts, MemoryBudget& budget, Reservation reserved,
      const EvictionPolicy& policy, PagesOf pages_of = [](int) { return 1; },
      PagesOf window_pages_of = [](int) { return 0; });
  ~PrefixIndex();
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;

  // The namespace's tree, made if need be, with a quota in pages if that is not 0; it stays until leave(). nullptr: the
  // budget has no room for it.
  PrefixTree* enter(const Namespace& name_space, std::uint64_t quota = 0);
  PrefixTree& enter_private();
  void join(PrefixTree& tree) { ++tree.tables; }
  // Requires of a private tree whose last table leaves: it is empty.
  void leave(PrefixTree& tree);
  [[nodiscard]] const PrefixTree* find(const Namespace& name_space) const;

  struct Match {
    std::vector<IndexNode*> blocks;  // wholly matched blocks of 16, from the root down
    IndexNode* partial = nullptr;    // the child of the last that continues furthest
    int partial_tokens = 0;          // how far
    [[nodiscard]] int tokens() const { return static_cast<int>(blocks.size()) * kBlockTokens + partial_tokens; }
  };
  // The longest live prefix of `tokens`. Cost: O(log siblings) comparisons for each block.
  [[nodiscard]] Match match(const PrefixTree& tree, std::span<const TokenId> tokens) const;
  // Why `match` ended where it did. `tree` is nullptr when the namespace has none.
  [[nodiscard]] Stopped why(const Namespace& name_space, const PrefixTree* tree, const Match& match,
                            std::span<const TokenId> tokens) const;

  // What stands below `from` after `beginning`, at most `most` tokens: where it forks, one of those that requests used
  // last. Cost: as match(), and kForks blocks looked at per block.
  static constexpr int kForks = 8;
  [[nodiscard]] std::vector<TokenId> continuation(const IndexNode& from, std::span<const TokenId> beginning,
                                                  int most) const;

  struct Inserted {
    IndexNode* node = nullptr;  // that now stands for these tokens; for a partial block, it may hold more
    bool added = false;         // it took the page: the caller adds a reference
    PageId dropped = kNoPage;   // a partial block that this one continues gave this page up
  };
  // Adds a block after `parent`. An equal block keeps its page, and so does one that begins with
  // this. The new node is held. Requires: 1 to 16 tokens; parent is live, with 16 tokens, or a tree.
  Inserted insert(IndexNode& parent, std::span<const TokenId> tokens, PageId page);
  // The partial block that insert() would drop, or nullptr.
  [[nodiscard]] IndexNode* continued_by(IndexNode& parent, std::span<const TokenId> tokens) const;
  // The block that ends `depth` blocks from the root. Requires: 0 <= depth <= node.depth. Cost: O(log node.depth).
  [[nodiscard]] static IndexNode& ancestor(IndexNode& node, int depth);

  // The node that a page belongs to, or nullptr.
  [[nodiscard]] IndexNode* node_of(PageId page) const {
    const auto at = static_cast<std::size_t>(page);
    return at < node_of_page_.size() ? node_of_page_[at] : nullptr;
  }
  // No page from this id on ever belonged to a node.
  [[nodiscard]] std::uint32_t pages_end() const { return static_cast<std::uint32_t>(node_of_page_.size()); }
  // Notes that a page of its window layers belongs to the node, or no longer does (kNoPage).
  void set_window(IndexNode& node, PageId window);
  // Says whether tables hold the node's page. The end of holding counts as a use.
  // child_held: a child of it is held, so that nothing becomes evictable.
  void set_held(IndexNode& node, bool held, bool child_held = false);
  void touch(IndexNode& node);
  // What a request that uses the block wants for it; see EvictionOrder.
  void claim(IndexNode& node, std::int8_t priority, std::uint64_t expires) { order_.claim(node, priority, expires); }
  // Counts the block and those above it as pinned once more, or once less. Returns the pages of those for which that
  // was the first time, or the last. Requires: the caller holds it all the while. Cost: O(depth).
  std::uint64_t pin(IndexNode& node);
  std::uint64_t unpin(IndexNode& node);
  [[nodiscard]] std::uint64_t pinned() const { return pinned_; }
  void begin_request() { order_.begin_request(); }
  // A sequence begins with the first `tokens` tokens of the match. Cost: linear in its blocks.
  void hit(const Match& match, int tokens);
  // A number higher than all before, for comparing uses.
  std::uint64_t tick() { return ++clock_; }

  // Of the leaves not held the one to be evicted first, or nullptr.
  [[nodiscard]] IndexNode* least() const { return order_.least(); }
  [[nodiscard]] const EvictionOrder& order() const { return order_; }
  // Removes it and returns its page: kNoPage if there is none. Requires: it has no window page. Cost: O(log nodes).
  enum class Remember : bool { no, yes };
  PageId evict(Remember remember);
  // Removes one leaf, as evict() does. Requires: not held.
  PageId remove(IndexNode& leaf, Remember remember);
  void forget_ghosts();

  // Blocks that could be evicted one after another: those with no held block at or below them.
  // Cost: O(1), or linear in the others after a table let go of something.
  [[nodiscard]] std::uint64_t evictable() const { return count().blocks; }
  [[nodiscard]] std::uint64_t evictable_pages() const { return count().pages; }
  // Of these blocks, those whose page is a chain of none.
  [[nodiscard]] std::uint64_t evictable_empty() const { return count().empty; }
  [[nodiscard]] std::uint64_t live() const { return live_.blocks; }
  [[nodiscard]] std::uint64_t ghosts() const { return ghosts_.size(); }
  [[nodiscard]] std::size_t trees() const { return trees_.size(); }
  [[nodiscard]] std::uint64_t tables() const;  // of all namespaces
  [[nodiscard]] std::uint64_t bytes() const;
  // Block comparisons made so far, by all lookups and insertions.
  [[nodiscard]] std::uint64_t comparisons() const { return comparisons_; }
  // Empty if sound, else the first violation as a sentence. Cost: linear in nodes and pages.
  [[nodiscard]] std::string check_invariants() const;

 private:
  struct Tally {
    std::uint64_t blocks = 0;
    std::uint64_t pages = 0;
    std::uint64_t empty = 0;
    bool operator==(const Tally&) const = default;
  };
  struct Nearest {
    IndexNode* node = nullptr;
    int shared = 0;
  };
  static constexpr std::size_t kChunk = 64;
  using Chunk = std::array<IndexNode, kChunk>;

  [[nodiscard]] Siblings::const_iterator position(const Siblings& siblings, std::span<const TokenId> tokens) const;
  Siblings::const_iterator position(const Siblings& siblings, std::span<const TokenId> tokens, Nearest& best) const;
  [[nodiscard]] Nearest nearest(const Siblings& siblings, std::span<const TokenId> tokens) const;
  [[nodiscard]] const IndexNode* latest(const Siblings& siblings, std::span<const TokenId> beginning) const;
  [[nodiscard]] bool held_elsewhere(const Namespace& name_space, std::span<const TokenId> tokens) const;
  IndexNode& take_node(IndexNode& parent, std::span<const TokenId> tokens);
  void free_node(IndexNode& node);
  PageId remove_live(IndexNode& node);
  void update_evictable(IndexNode& node);
  void protect_path(IndexNode& node) const;
  void empty_and_unlink(IndexNode& node);
  void forget_oldest_ghost();
  void drop_tree_if_unused(IndexNode& node);
  [[nodiscard]] Tally count() const;
  [[nodiscard]] Tally count_evictable() const;
  void add(const IndexNode& node, Tally& tally) const;
  void subtract(const IndexNode& node, Tally& tally) const;
  [[nodiscard]] std::string check_node(const IndexNode& node) const;
  [[nodiscard]] std::uint64_t full_pages(const IndexNode& node) const {
    return static_cast<std::uint64_t>(pages_of_(node.depth - 1));
  }
  [[nodiscard]] std::uint64_t window_pages(const IndexNode& node) const {
    return static_cast<std::uint64_t>(window_pages_of_(node.depth - 1));
  }
  [[nodiscard]] std::string check_share(const PrefixTree& tree) const;

  // constant after construction
  const std::uint64_t max_nodes_;
  const std::uint32_t max_ghosts_;
  MemoryBudget& budget_;
  const Reservation reserved_;
  const PagesOf pages_of_;
  const PagesOf window_pages_of_;
  // engine thread only
  std::map<Namespace, PrefixTree> trees_;
  std::map<const PrefixTree*, std::unique_ptr<PrefixTree>> private_trees_;
  std::vector<std::unique_ptr<Chunk>> chunks_;
  IndexNode* free_nodes_ = nullptr;       // linked through parent
  std::vector<IndexNode*> node_of_page_;  // [highest page yet + 1], with room for max_pages
  EvictionOrder order_;                   // of live leaves not held
  NodesByUse ghosts_;
  std::uint64_t tree_bytes_ = 0;  // of the allowance for namespaces
  Tally live_;
  std::uint64_t pinned_ = 0;
  std::vector<IndexNode*> held_;
  // Blocks at or above held ones, counted anew when epoch_stale_; each carries the epoch.
  mutable Tally protected_;
  mutable std::uint64_t epoch_ = 1;
  mutable bool epoch_stale_ = false;
  std::uint64_t clock_ = 0;
  mutable std::uint64_t comparisons_ = 0;
};

}  // namespace dalsegno
