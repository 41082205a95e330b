#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "base/memory_budget.hpp"
#include "dalsegno/result.hpp"

namespace dalsegno {

// Zeroed, 2 MiB aligned memory in huge pages where the system grants them; counted against a budget.
// Move-only. Pages become resident when first touched.
class HostMemory {
 public:
  HostMemory() = default;
  // Errors: exhausted (the budget, or the system, has no room); what names the use in the sentence.
  static Result<HostMemory> allocate(MemoryBudget& budget, MemoryKind kind, std::size_t bytes, const std::string& what);
  HostMemory(HostMemory&& other) noexcept;
  HostMemory& operator=(HostMemory&& other) noexcept;
  ~HostMemory();

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  Reservation reservation_;
};

// Hands out 64-byte aligned pieces of HostMemory that live as long as the arena, so that many
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
