#pragma once

#include <cstdint>
#include <string>

#include "cache/eviction_policy.hpp"
#include "cache/index_node.hpp"

namespace dalsegno {

// The leaves of a prefix index that could be evicted, in the order of a policy; a parent becomes a leaf after its
// children are gone. Those of the lowest priority go first. A policy that weighs costs keeps them in three orders and
// compares their ends:
//   fresh     no second request found them: by last use. They go first while they are more than a share of all
//             blocks, so that what is asked for once does not drive out what is asked for again
//   periodic  the gaps between their uses were alike: by when the next use is due. When many take turns and cannot all
//             stay, the last to have had its turn goes, since it is wanted again last of all
//   others    by last use
// What is expected to be wanted again latest goes, per cost of computing it again. A regular block is expected when its
// gap has passed; any other, and one that is late, after as long again as it has not been used.
// Leaves of a namespace with a quota stand in orders of their own as well, so that it can make room for itself.
// Time is counted in requests. Threads: engine thread only. Cost of every call but check_invariants(): O(log leaves).
class EvictionOrder {
 public:
  explicit EvictionOrder(const EvictionPolicy& policy) : policy_(policy) {}
  ~EvictionOrder() { clear(); }
  EvictionOrder(const EvictionOrder&) = delete;
  EvictionOrder& operator=(const EvictionOrder&) = delete;
  void clear();

  void begin_request() { ++now_; }
  // The block becomes live. The only continuation of a block takes after it, as the next turn of a conversation does.
  // Requires: it is not yet among its parent's children.
  void add(IndexNode& node);
  // It will become live: it was evicted, and computed again.
  void revive(IndexNode& node) const { count_use(node); }
  // It is live no more.
  void remove(IndexNode& node);
  // It could be evicted from now on, or no more. take_out() of another does nothing.
  void put_in(IndexNode& node);
  void take_out(IndexNode& node);
  void use(IndexNode& node) const { node.seen = now_; }
  // Another request found it.
  void hit(IndexNode& node);
  // A request that used it wants this for it; the most that any wanted counts.
  void claim(IndexNode& node, std::int8_t priority, std::uint64_t expires);

  // What goes first, or nullptr; of one namespace with a quota alone.
  [[nodiscard]] IndexNode* least() const { return least_of(leaves_); }
  [[nodiscard]] IndexNode* least(const TenantShare& share) const { return least_of(share.leaves); }
  // A leaf that expired at `now` or before, or nullptr.
  [[nodiscard]] IndexNode* expired(std::uint64_t now) const;
  // Whether something of a live block, itself used at `last_use`, goes before a leaf that could be evicted.
  [[nodiscard]] bool goes_before(const IndexNode& node, std::uint64_t last_use, const IndexNode& leaf) const;

  // Requests since one used it.
  [[nodiscard]] std::uint64_t unused_for(const IndexNode& node) const { return now_ - node.seen; }
  [[nodiscard]] std::uint64_t live() const { return leaves_.live; }
  [[nodiscard]] std::uint64_t fresh() const { return leaves_.never_hit; }
  // Empty if sound, else the first violation. Cost: linear in leaves.
  [[nodiscard]] std::string check_invariants() const;
  [[nodiscard]] std::string check_invariants(const TenantShare& share) const { return check(share.leaves); }

 private:
  [[nodiscard]] bool weighs() const { return policy_.cost != nullptr; }
  [[nodiscard]] bool is_fresh(const IndexNode& node) const { return weighs() && node.hits == 0; }
  [[nodiscard]] bool is_periodic(const IndexNode& node) const;
  [[nodiscard]] std::uint64_t rank_of(const IndexNode& node) const;
  template <class Hook>
  [[nodiscard]] auto& leaves_with(LeafOrders<Hook>& orders, const IndexNode& node) const;
  template <class Hook>
  [[nodiscard]] IndexNode* least_of(const LeafOrders<Hook>& orders) const;
  template <class Hook>
  [[nodiscard]] std::string check(const LeafOrders<Hook>& orders) const;
  void count(const IndexNode& node, int blocks);
  void count_use(IndexNode& node) const;
  // Requests until it is wanted again, as expected, per cost.
  [[nodiscard]] double wait(const IndexNode& node) const;

  const EvictionPolicy& policy_;
  LeafOrders<UseHook> leaves_;
  NodesByExpiry expiring_;
  std::uint32_t now_ = 0;
};

}  // namespace dalsegno
