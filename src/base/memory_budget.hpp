#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

#include "dalsegno/result.hpp"

namespace dalsegno {

enum class MemoryKind : std::uint8_t { weights, kv, index, log_probs, work };
inline constexpr std::size_t kMemoryKinds = 5;

class MemoryBudget;

// Bytes taken from a budget; the destructor gives them back. Move-only.
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation() { release(); }
  void release();
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  friend class MemoryBudget;
  Reservation(MemoryBudget* budget, MemoryKind kind, std::uint64_t bytes)
      : budget_(budget), kind_(kind), bytes_(bytes) {}
  MemoryBudget* budget_ = nullptr;
  MemoryKind kind_ = MemoryKind::work;
  std::uint64_t bytes_ = 0;
};

// One ledger of bytes for the whole process: whoever allocates reserves first.
// It allocates nothing itself. Threads: any.
// Invariant: the sum over kinds never exceeds limit().
class MemoryBudget {
 public:
  explicit MemoryBudget(std::uint64_t limit) : limit_(limit) {}
  MemoryBudget(const MemoryBudget&) = delete;
  MemoryBudget& operator=(const MemoryBudget&) = delete;

  // what: named in the sentence of the `exhausted` error.
  Result<Reservation> reserve(MemoryKind kind, std::uint64_t bytes, const std::string& what);
  [[nodiscard]] std::uint64_t limit() const { return limit_; }
  [[nodiscard]] std::uint64_t used() const { return used_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t free_bytes() const { return limit_ - used(); }
  [[nodiscard]] std::uint64_t used(MemoryKind kind) const;

 private:
  friend class Reservation;
  const std::uint64_t limit_;
  std::atomic<std::uint64_t> used_{0};
  std::array<std::atomic<std::uint64_t>, kMemoryKinds> by_kind_{};
};

// "1.5 GiB", "300 MiB", "12 bytes".
[[nodiscard]] std::string human_bytes(std::uint64_t bytes);
// Both, to the byte where they would read alike but are not.
[[nodiscard]] std::pair<std::string, std::string> told_apart(std::uint64_t a, std::uint64_t b);
// What follows "x needs ": "9.0 MiB, but only 8.0 MiB of the memory budget of ...".
[[nodiscard]] std::string too_much_for(const MemoryBudget& budget, std::uint64_t needed, std::uint64_t free);

}  // namespace dalsegno
