#include "cache/block_pool.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <limits>
#include <numeric>
#include <utility>

namespace dalsegno {
namespace {

constexpr std::uint32_t kNone = 0xFFFFFFFFU;
// Of a pool's extents one in so many may stay memory while it is empty, at least one.
constexpr std::size_t kEmptyShare = 16;

std::uint64_t system_page() {
  static const auto bytes = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}
std::uint64_t round_down(std::uint64_t value, std::uint64_t unit) {
  return value / unit * unit;
}

}  // namespace

void BlockPool::Unmap::operator()(std::byte* base) const {
  munmap(base, bytes);
}

// Whole pages of ours that are also whole pages of the system, so that an extent can be given back.
std::uint64_t BlockPool::pages_per_extent(const BlockPoolOptions& options) {
  const std::uint64_t stride = stride_of(options.page_bytes);
  const std::uint64_t unit = system_page() / std::gcd(stride, system_page());
  const std::uint64_t wanted = std::max<std::uint64_t>(options.extent_bytes / stride, 1);
  return round_up(std::min<std::uint64_t>(wanted, options.max_pages), unit);
}

// Two pages of the system: at most two extents end within one, the last and one that the budget cut short.
std::uint64_t BlockPool::bookkeeping_bytes(const BlockPoolOptions& options) {
  const std::uint64_t extents = round_up(options.max_pages, pages_per_extent(options)) / pages_per_extent(options);
  return (std::uint64_t{options.max_pages} + options.max_empty) * 2 * sizeof(std::uint32_t) + extents * sizeof(Extent) +
         2 * system_page();
}

Result<std::unique_ptr<BlockPool>> BlockPool::create(const BlockPoolOptions& options) {
  if (options.page_bytes == 0 || options.max_pages == 0 || options.budget == nullptr) {
    return Error{ErrorCode::invalid_argument, "a block pool needs a page size, at least one page and a budget"};
  }
  const std::uint64_t stride = stride_of(options.page_bytes);
  const std::uint64_t per_extent = pages_per_extent(options);
  const std::uint64_t extents = (options.max_pages + per_extent - 1) / per_extent;
  if (stride > std::numeric_limits<std::int64_t>::max() / (extents * per_extent)) {
    return Error{ErrorCode::exhausted, "the K/V pages exceed the address space; lower --memory"};
  }
  DALSEGNO_ASSIGN(bookkeeping, options.budget->reserve(MemoryKind::index, bookkeeping_bytes(options),
                                                       "the bookkeeping of the K/V pages"));
  const std::uint64_t bytes = extents * per_extent * stride;
  void* base = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return Error{
        ErrorCode::exhausted,
        fmt::format("the system refused {} of address space for K/V pages; lower --memory", human_bytes(bytes))};
  }
#ifdef MADV_HUGEPAGE
  madvise(base, bytes, MADV_HUGEPAGE);
#endif
  return std::unique_ptr<BlockPool>(
      new BlockPool(options, static_cast<std::uint32_t>(per_extent), std::move(bookkeeping),
                    std::unique_ptr<std::byte, Unmap>(static_cast<std::byte*>(base), Unmap{bytes})));
}

BlockPool::BlockPool(const BlockPoolOptions& options, std::uint32_t pages_per_extent, Reservation bookkeeping,
                     std::unique_ptr<std::byte, Unmap> base)
    : stride_(stride_of(options.page_bytes)),
      limit_(options.max_pages),
      empty_limit_(options.max_empty),
      pages_per_extent_(pages_per_extent),
      budget_(options.budget),
      bookkeeping_(std::move(bookkeeping)),
      base_(std::move(base)),
      extents_((limit_ + std::uint64_t{pages_per_extent} - 1) / pages_per_extent) {
  references_.reserve(limit_);
  next_.reserve(limit_);
  empty_references_.reserve(empty_limit_);
  empty_free_.reserve(empty_limit_);
}

std::uint32_t BlockPool::capacity_of(std::uint32_t extent) const {
  return std::min(pages_per_extent_, limit_ - extent * pages_per_extent_);
}

std::byte* BlockPool::base_of(std::uint32_t extent) const {
  return base_.get() + std::uint64_t{extent} * pages_per_extent_ * stride_;
}

std::byte* BlockPool::address(PageId page) const {
  assert(references_[index(page)] > 0);
  return base_.get() + std::uint64_t{index(page)} * stride_;
}

std::optional<PageId> BlockPool::allocate_empty() {
  if (empty_used_ == empty_limit_) return std::nullopt;
  if (empty_free_.empty()) {
    empty_free_.push_back(static_cast<std::uint32_t>(empty_references_.size()));
    empty_references_.push_back(0);
  }
  const std::uint32_t at = empty_free_.back();
  empty_free_.pop_back();
  empty_references_[at] = 1;
  ++empty_used_;
  return PageId{limit_ + at};
}

std::optional<PageId> BlockPool::allocate(int count) {
  if (count == 0) return allocate_empty();
  std::uint32_t first = kNone;
  for (; count > 0; --count) {
    const std::optional<std::uint32_t> page = allocate_page();
    if (!page) {
      while (first != kNone) {
        const std::uint32_t next = next_[first];
        take_back(first);
        first = next;
      }
      return std::nullopt;
    }
    if (first != kNone) references_[first] = kChained;
    next_[*page] = std::exchange(first, *page);
  }
  return PageId{first};
}

std::optional<std::uint32_t> BlockPool::allocate_page() {
  for (; first_open_ < extents_.size(); ++first_open_) {
    const Extent& extent = extents_[first_open_];
    if (extent.free_head != kNone || extent.fresh < extent.committed) return lend_from(first_open_);
  }
  if (!grow()) return std::nullopt;
  return lend_from(first_open_);
}

std::uint32_t BlockPool::lend_from(std::uint32_t number) {
  Extent& extent = extents_[number];
  std::uint32_t page = extent.free_head;
  if (page != kNone) {
    extent.free_head = next_[page];
  } else {
    page = number * pages_per_extent_ + extent.fresh++;
  }
  references_[page] = 1;
  ++extent.used;
  ++used_;
  return page;
}

// Makes memory of the first extent that is not all memory yet: all of it, or as much as the budget has left.
bool BlockPool::grow() {
  const std::uint64_t affordable = budget_->free_bytes() / stride_;
  if (committed_ == limit_ || affordable == 0) return false;
  std::uint32_t number = 0;
  while (extents_[number].committed == capacity_of(number)) ++number;
  Extent& extent = extents_[number];
  const auto more =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(capacity_of(number) - extent.committed, affordable));
  auto reservation = budget_->reserve(MemoryKind::kv, more * std::uint64_t{stride_}, "an extent of K/V pages");
  if (!reservation.ok()) return false;
  const std::uint64_t begin = round_down(extent.committed * std::uint64_t{stride_}, system_page());
  const std::uint64_t end = round_up((extent.committed + std::uint64_t{more}) * stride_, system_page());
  if (mprotect(base_of(number) + begin, end - begin, PROT_READ | PROT_WRITE) != 0) return false;
  extent.reservations.push_back(std::move(reservation).value());
  extent.committed += more;
  committed_ += more;
  const std::size_t ids = number * std::size_t{pages_per_extent_} + extent.committed;
  references_.resize(std::max(references_.size(), ids));
  next_.resize(references_.size(), kNone);
  first_open_ = number;
  return true;
}

void BlockPool::retain(PageId page) {
  if (is_empty(page)) {
    assert(references(page) > 0);
    ++empty_references_[index(page) - limit_];
    return;
  }
  assert(references_[index(page)] > 0 && references_[index(page)] != kChained);
  ++references_[index(page)];
}

std::uint32_t BlockPool::release(PageId page) {
  const std::uint32_t at = index(page);
  if (is_empty(page)) {
    assert(references(page) > 0);
    const std::uint32_t left = --empty_references_[at - limit_];
    if (left > 0) return left;
    empty_free_.push_back(at - limit_);
    --empty_used_;
    return 0;
  }
  assert(references_[at] > 0 && references_[at] != kChained);
  if (--references_[at] > 0) return references_[at];
  for (std::uint32_t member = at; member != kNone;) {
    const std::uint32_t next = next_[member];
    take_back(member);
    member = next;
  }
  return 0;
}

void BlockPool::take_back(std::uint32_t at) {
  references_[at] = 0;
  const std::uint32_t number = at / pages_per_extent_;
  Extent& extent = extents_[number];
  next_[at] = std::exchange(extent.free_head, at);
  --extent.used;
  --used_;
  first_open_ = std::min(first_open_, number);
  // Some empty extents stay, so that a sequence that comes and goes does not touch fresh memory each time.
  if (extent.used == 0) {
    const auto is_empty = [](const Extent& e) { return e.committed > 0 && e.used == 0; };
    const auto most = static_cast<std::ptrdiff_t>(std::max<std::size_t>(1, extents_.size() / kEmptyShare));
    if (std::count_if(extents_.begin(), extents_.end(), is_empty) > most) give_back(number);
  }
}

std::uint64_t BlockPool::available() const {
  return committed_ - used_ + std::min<std::uint64_t>(limit_ - committed_, budget_->free_bytes() / stride_);
}

void BlockPool::give_back() {
  for (std::uint32_t number = 0; number < extents_.size(); ++number) {
    if (extents_[number].committed > 0 && extents_[number].used == 0) give_back(number);
  }
}

void BlockPool::give_back(std::uint32_t number) {
  Extent& extent = extents_[number];
  assert(extent.used == 0);
  const std::uint64_t bytes = round_up(extent.committed * std::uint64_t{stride_}, system_page());
  madvise(base_of(number), bytes, MADV_DONTNEED);
  mprotect(base_of(number), bytes, PROT_NONE);
  committed_ -= extent.committed;
  extent = Extent{};
}

std::string BlockPool::check_empty() const {
  const auto lent = std::ranges::count_if(empty_references_, [](std::uint32_t references) { return references > 0; });
  if (static_cast<std::uint32_t>(lent) != empty_used_ || empty_used_ > empty_limit_ ||
      empty_used_ + empty_free_.size() != empty_references_.size()) {
    return "chains of no pages are lost";
  }
  return {};
}

std::string BlockPool::check_invariants() const {
  if (std::string violation = check_empty(); !violation.empty()) return violation;
  std::uint64_t used = 0;
  std::uint64_t committed = 0;
  std::uint64_t in_chains = 0;
  for (std::uint32_t page = 0; page < pages_end(); ++page) {
    if (references_[page] == 0 || references_[page] == kChained) continue;
    ++in_chains;
    for (std::uint32_t at = next_[page]; at != kNone && in_chains <= used_; at = next_[at], ++in_chains) {
      if (references_[at] != kChained) return fmt::format("page {} is in a chain though free or a first page", at);
    }
  }
  if (in_chains != used_) return "pages are lent that no chain holds, or chains share pages";
  for (std::uint32_t number = 0; number < extents_.size(); ++number) {
    const Extent& extent = extents_[number];
    const std::uint32_t first = number * pages_per_extent_;
    std::uint64_t reserved = 0;
    for (const Reservation& reservation : extent.reservations) reserved += reservation.bytes();
    if (reserved != extent.committed * std::uint64_t{stride_}) {
      return fmt::format("extent {} has {} pages but {} reserved bytes", number, extent.committed, reserved);
    }
    if (extent.fresh > extent.committed || extent.committed > capacity_of(number)) {
      return fmt::format("extent {} has lent or committed more pages than it has", number);
    }
    std::uint32_t lent = 0;
    for (std::uint32_t at = 0; at < capacity_of(number) && first + at < pages_end(); ++at) {
      if (references_[first + at] == 0) continue;
      ++lent;
      if (at >= extent.fresh) return fmt::format("page {} has references but was never lent", first + at);
    }
    std::uint32_t free = 0;
    for (std::uint32_t page = extent.free_head; page != kNone && free <= extent.fresh; page = next_[page]) {
      ++free;
      if (references_[page] != 0) return fmt::format("page {} is free and has references", page);
    }
    if (lent != extent.used || lent + free != extent.fresh) {
      return fmt::format("extent {}: {} lent and {} free pages of {}", number, lent, free, extent.fresh);
    }
    used += extent.used;
    committed += extent.committed;
  }
  if (used != used_ || committed != committed_) return "the pool's sums differ from those of its extents";
  return {};
}

}  // namespace dalsegno
