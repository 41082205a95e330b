#include "backend/cpu/host_memory.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

namespace dalsegno {
namespace {

constexpr std::size_t kHugePage = 2U << 20;
constexpr std::size_t kAlignment = 64;  // a cache line, and one AVX-512 vector
// Four huge pages: small enough that a tiny model stays small, large enough that the tail is noise.
constexpr std::size_t kExtent = 4 * kHugePage;

constexpr std::size_t round_up(std::size_t n, std::size_t to) {
  return (n + to - 1) / to * to;
}

}  // namespace

Result<HostMemory> HostMemory::allocate(MemoryBudget& budget, MemoryKind kind, std::size_t bytes,
                                        const std::string& what) {
  HostMemory memory;
  const std::size_t size = round_up(std::max<std::size_t>(bytes, 1), kHugePage);
  DALSEGNO_ASSIGN(reservation, budget.reserve(kind, size, what));
  // One huge page more than needed, so that an aligned range lies inside; the ends are given back.
  void* mapped =
      mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) {
    return Error{ErrorCode::exhausted, fmt::format("{} needs {}, which the system refused; close other programs or "
                                                   "choose a smaller model",
                                                   what, human_bytes(size))};
  }
  auto* base = static_cast<std::byte*>(mapped);
  const std::size_t skip =
      round_up(reinterpret_cast<std::uintptr_t>(base), kHugePage) - reinterpret_cast<std::uintptr_t>(base);
  if (skip > 0) munmap(base, skip);
  if (skip < kHugePage) munmap(base + skip + size, kHugePage - skip);
  memory.data_ = base + skip;
  memory.bytes_ = size;
  memory.reservation_ = std::move(reservation);
  madvise(memory.data_, size, MADV_HUGEPAGE);
  return memory;
}

HostMemory::HostMemory(HostMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      reservation_(std::move(other.reservation_)) {}

HostMemory& HostMemory::operator=(HostMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(reservation_, other.reservation_);
  return *this;
}

HostMemory::~HostMemory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

Result<std::byte*> HostArena::allocate(std::size_t bytes, const std::string& what) {
  const std::size_t size = round_up(bytes, kAlignment);
  if (extents_.empty() || extents_.back().bytes() - used_ < size) {
    DALSEGNO_ASSIGN(extent, HostMemory::allocate(*budget_, kind_, std::max(size, kExtent), what));
    extents_.push_back(std::move(extent));
    used_ = 0;
  }
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
