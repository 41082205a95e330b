#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/memory_budget.hpp"
#include "dalsegno/result.hpp"

namespace dalsegno {

enum class PageId : std::uint32_t {};
inline constexpr PageId kNoPage{0xFFFFFFFFU};

struct BlockPoolOptions {
  // affects behaviour
  std::size_t page_bytes = 0;  // rounded up to 64
  std::uint32_t max_pages = 0;
  std::uint32_t max_empty = 0;     // chains of no pages
  MemoryBudget* budget = nullptr;  // outlives the pool
  // affects performance
  std::uint64_t extent_bytes = 64ULL << 20;  // rounded to whole pages, ours and the operating system's
};

// BlockPool lends fixed-size pages, one or a chain of several at a time, and takes them back when nobody refers to
// them any more. It never picks a victim: when nothing is free and the budget gives no more, allocate() fails.
// Memory: address space for all pages is mapped once; it becomes usable extent by extent, each
// reserved from the budget before, and is given back by extent, when one is empty and another is too. The system backs
// a page when it is first written.
// A page never lent before holds zeros, any other what was last written.
// A chain of no pages is an id with references like any other, and no memory: what stands for a block of which nothing
// is kept.
// Threads: engine thread only.
// Invariant: a page has references, or is in the chain of one that has, or in its extent's free list, or was never
// lent: exactly one.
class BlockPool {
 public:
  // Errors: invalid_argument, exhausted (the budget or the address space cannot hold the bookkeeping).
  static Result<std::unique_ptr<BlockPool>> create(const BlockPoolOptions& options);
  // What create() reserves beside the pages themselves.
  [[nodiscard]] static std::uint64_t bookkeeping_bytes(const BlockPoolOptions& options);
  // Distance between pages.
  [[nodiscard]] static constexpr std::size_t stride_of(std::size_t page_bytes) { return (page_bytes + 63) / 64 * 64; }

  // A chain of `count` pages, wherever they lie; its first page stands for all of them and has one reference.
  // 0: a chain of no pages.
  [[nodiscard]] std::optional<PageId> allocate(int count = 1);
  void retain(PageId page);
  // Returns the references left; at zero the chain is free.
  std::uint32_t release(PageId page);
  // The page after this one of a chain that is lent, or kNoPage.
  [[nodiscard]] PageId next(PageId page) const { return is_empty(page) ? kNoPage : PageId{next_[index(page)]}; }
  // A chain of no pages.
  [[nodiscard]] bool is_empty(PageId page) const { return index(page) >= limit_; }

  // 0: free, or within a chain.
  [[nodiscard]] std::uint32_t references(PageId page) const {
    if (is_empty(page)) return empty_references_[index(page) - limit_];
    return references_[index(page)] == kChained ? 0 : references_[index(page)];
  }
  [[nodiscard]] std::byte* address(PageId page) const;
  [[nodiscard]] std::uint32_t used() const { return used_; }
  [[nodiscard]] std::uint32_t limit() const { return limit_; }
  [[nodiscard]] std::uint32_t empty_limit() const { return empty_limit_; }
  // How many chains of no pages could be lent.
  [[nodiscard]] std::uint64_t empty_available() const { return empty_limit_ - empty_used_; }
  // No page, or chain of none, from this id on was ever lent.
  [[nodiscard]] std::uint32_t ids_end() const {
    return empty_references_.empty() ? pages_end() : limit_ + static_cast<std::uint32_t>(empty_references_.size());
  }
  // True for every id below ids_end() that references() may be asked about.
  [[nodiscard]] bool was_lent(PageId page) const { return is_empty(page) || index(page) < pages_end(); }
  // How many more allocate() could lend at this moment.
  [[nodiscard]] std::uint64_t available() const;
  // How many of these are memory already.
  [[nodiscard]] std::uint32_t free() const { return committed_ - used_; }
  // Gives every empty extent back to the system and the budget.
  void give_back();
  [[nodiscard]] std::uint64_t committed_bytes() const { return std::uint64_t{committed_} * stride_; }
  // Empty if sound, else the first violation as a sentence. Cost: linear in pages.
  [[nodiscard]] std::string check_invariants() const;

 private:
  static constexpr std::uint32_t kChained = 0xFFFFFFFFU;
  struct Unmap {
    std::uint64_t bytes;
    void operator()(std::byte* base) const;
  };
  struct Extent {
    std::uint32_t committed = 0;  // pages that are memory: the first ones
    std::uint32_t fresh = 0;      // of these, lent at least once
    std::uint32_t used = 0;
    std::uint32_t free_head = 0xFFFFFFFFU;  // page index; linked through next_
    std::vector<Reservation> reservations;  // one for each time it grew
  };

  BlockPool(const BlockPoolOptions& options, std::uint32_t pages_per_extent, Reservation bookkeeping,
            std::unique_ptr<std::byte, Unmap> base);
  [[nodiscard]] static std::uint64_t pages_per_extent(const BlockPoolOptions& options);
  [[nodiscard]] static constexpr std::uint32_t index(PageId page) { return static_cast<std::uint32_t>(page); }
  [[nodiscard]] std::uint32_t capacity_of(std::uint32_t extent) const;
  [[nodiscard]] std::byte* base_of(std::uint32_t extent) const;
  [[nodiscard]] std::uint32_t pages_end() const { return static_cast<std::uint32_t>(references_.size()); }
  [[nodiscard]] std::optional<PageId> allocate_empty();
  [[nodiscard]] std::string check_empty() const;
  [[nodiscard]] std::optional<std::uint32_t> allocate_page();
  [[nodiscard]] std::uint32_t lend_from(std::uint32_t extent);
  void take_back(std::uint32_t page);
  bool grow();
  void give_back(std::uint32_t extent);

  // constant after construction
  const std::size_t stride_;
  const std::uint32_t limit_;
  const std::uint32_t empty_limit_;
  const std::uint32_t pages_per_extent_;
  MemoryBudget* const budget_;
  const Reservation bookkeeping_;
  const std::unique_ptr<std::byte, Unmap> base_;
  // engine thread only
  std::vector<std::uint32_t> references_;        // [pages_end], with room for limit; kChained within a chain
  std::vector<std::uint32_t> next_;              // the same; next free page of the same extent, or page of the chain
  std::vector<std::uint32_t> empty_references_;  // of ids from limit on, with room for empty_limit
  std::vector<std::uint32_t> empty_free_;        // indices of these
  std::vector<Extent> extents_;
  std::uint32_t used_ = 0;
  std::uint32_t empty_used_ = 0;
  std::uint32_t committed_ = 0;
  std::uint32_t first_open_ = 0;  // no extent before this one has a page to lend without growing
};

}  // namespace dalsegno
