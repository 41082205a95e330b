#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "base/memory_budget.hpp"
#include "dalsegno/result.hpp"

namespace dalsegno {

// A range of addresses, 2 MiB aligned, whose first bytes() are zeroed memory in huge pages where the system grants
// them, counted against a budget. Move-only. Pages become resident when first touched.
class HostMemory {
 public:
  HostMemory() = default;
  // Takes addresses alone. Errors: exhausted (the system has none); what names the use in the sentence.
  static Result<HostMemory> map(std::size_t range, const std::string& what);
  HostMemory(HostMemory&& other) noexcept;
  HostMemory& operator=(HostMemory&& other) noexcept;
  ~HostMemory();

  // Makes the first `bytes` memory, in whole huge pages. Errors: exhausted (the budget, or the system, has no room).
  // Requires: bytes <= range().
  Result<void> grow(MemoryBudget& budget, MemoryKind kind, std::size_t bytes, const std::string& what);

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] std::size_t range() const { return range_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t range_ = 0;
  std::size_t bytes_ = 0;
  std::vector<Reservation> reservations_;
};

// Hands out 64-byte aligned pieces of HostMemory that live as long as the arena, one after the other, so that many
// small tensors share huge pages. Threads: one at a time.
class HostArena {
 public:
  HostArena(MemoryBudget& budget, MemoryKind kind) : budget_(&budget), kind_(kind) {}
  Result<std::byte*> allocate(std::size_t bytes, const std::string& what);
  [[nodiscard]] std::size_t bytes() const;
  // Gives the memory back to the system, but keeps addresses and reservations: pieces are zero afterwards.
  void give_back();

 private:
  MemoryBudget* budget_;
  MemoryKind kind_;
  std::vector<HostMemory> extents_;
  std::size_t used_ = 0;  // of the last extent
};

}  // namespace dalsegno
