#include "backend/cpu/host_memory.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

namespace dalsegno {
namespace {

constexpr std::size_t kHugePage = 2U << 20;
constexpr std::size_t kAlignment = 64;  // a cache line, and one AVX-512 vector
// Addresses of an extent. They cost nothing, but what is left of them when the next piece does not fit is lost.
constexpr std::size_t kExtent = 32 * kHugePage;

constexpr std::size_t round_up(std::size_t n, std::size_t to) {
  return (n + to - 1) / to * to;
}

}  // namespace

Result<HostMemory> HostMemory::map(std::size_t range, const std::string& what) {
  HostMemory memory;
  const std::size_t size = round_up(std::max<std::size_t>(range, 1), kHugePage);
  // One huge page more than needed, so that an aligned range lies inside; the ends are given back.
  void* mapped = mmap(nullptr, size + kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) {
    return Error{ErrorCode::exhausted,
                 fmt::format("the system refused {} of address space for {} and what comes after it; raise its limit "
                             "(ulimit -v)",
                             human_bytes(size), what)};
  }
  auto* base = static_cast<std::byte*>(mapped);
  const std::size_t skip =
      round_up(reinterpret_cast<std::uintptr_t>(base), kHugePage) - reinterpret_cast<std::uintptr_t>(base);
  if (skip > 0) munmap(base, skip);
  if (skip < kHugePage) munmap(base + skip + size, kHugePage - skip);
  memory.data_ = base + skip;
  memory.range_ = size;
  return memory;
}

Result<void> HostMemory::grow(MemoryBudget& budget, MemoryKind kind, std::size_t bytes, const std::string& what) {
  const std::size_t size = round_up(bytes, kHugePage);
  if (size <= bytes_) return {};
  const std::size_t more = size - bytes_;
  DALSEGNO_ASSIGN(reservation, budget.reserve(kind, more, what));
  if (mprotect(data_ + bytes_, more, PROT_READ | PROT_WRITE) != 0) {
    return Error{ErrorCode::exhausted, fmt::format("{} needs {}, which the system refused; close other programs or "
                                                   "choose a smaller model",
                                                   what, human_bytes(more))};
  }
  madvise(data_ + bytes_, more, MADV_HUGEPAGE);
  reservations_.push_back(std::move(reservation));
  bytes_ = size;
  return {};
}

HostMemory::HostMemory(HostMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      range_(std::exchange(other.range_, 0)),
      bytes_(std::exchange(other.bytes_, 0)),
      reservations_(std::move(other.reservations_)) {}

HostMemory& HostMemory::operator=(HostMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(range_, other.range_);
  std::swap(bytes_, other.bytes_);
  std::swap(reservations_, other.reservations_);
  return *this;
}

HostMemory::~HostMemory() {
  if (data_ != nullptr) munmap(data_, range_);
}

Result<std::byte*> HostArena::allocate(std::size_t bytes, const std::string& what) {
  const std::size_t size = round_up(bytes, kAlignment);
  if (extents_.empty() || extents_.back().range() - used_ < size) {
    DALSEGNO_ASSIGN(extent, HostMemory::map(std::max(size, kExtent), what));
    extents_.push_back(std::move(extent));
    used_ = 0;
  }
  DALSEGNO_TRY(extents_.back().grow(*budget_, kind_, used_ + size, what));
  std::byte* piece = extents_.back().data() + used_;
  used_ += size;
  return piece;
}

void HostArena::give_back() {
  for (const HostMemory& extent : extents_) madvise(extent.data(), extent.bytes(), MADV_DONTNEED);
}

std::size_t HostArena::bytes() const {
  std::size_t sum = 0;
  for (const HostMemory& extent : extents_) sum += extent.bytes();
  return sum;
}

}  // namespace dalsegno
