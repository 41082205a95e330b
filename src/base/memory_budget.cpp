#include "base/memory_budget.hpp"

#include <fmt/format.h>

namespace dalsegno {

Reservation::Reservation(Reservation&& other) noexcept
    : budget_(std::exchange(other.budget_, nullptr)), kind_(other.kind_), bytes_(std::exchange(other.bytes_, 0)) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  if (this != &other) {
    release();
    budget_ = std::exchange(other.budget_, nullptr);
    kind_ = other.kind_;
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

void Reservation::release() {
  if (budget_ == nullptr) return;
  budget_->by_kind_[static_cast<std::size_t>(kind_)].fetch_sub(bytes_, std::memory_order_relaxed);
  budget_->used_.fetch_sub(bytes_, std::memory_order_relaxed);
  budget_ = nullptr;
  bytes_ = 0;
}

Result<Reservation> MemoryBudget::reserve(MemoryKind kind, std::uint64_t bytes, const std::string& what) {
  std::uint64_t now = used_.load(std::memory_order_relaxed);
  do {
    if (bytes > limit_ - now) {
      return Error{ErrorCode::exhausted, fmt::format("{} needs {}", what, too_much_for(*this, bytes, limit_ - now))};
    }
  } while (!used_.compare_exchange_weak(now, now + bytes, std::memory_order_relaxed));
  by_kind_[static_cast<std::size_t>(kind)].fetch_add(bytes, std::memory_order_relaxed);
  return Reservation(this, kind, bytes);
}

std::uint64_t MemoryBudget::used(MemoryKind kind) const {
  return by_kind_[static_cast<std::size_t>(kind)].load(std::memory_order_relaxed);
}

std::string human_bytes(std::uint64_t bytes) {
  constexpr double kKiB = 1024.0;
  const auto value = static_cast<double>(bytes);
  if (value < kKiB) return fmt::format("{} byte{}", bytes, bytes == 1 ? "" : "s");
  if (value < kKiB * kKiB) return fmt::format("{:.0f} KiB", value / kKiB);
  if (value < kKiB * kKiB * kKiB) return fmt::format("{:.1f} MiB", value / (kKiB * kKiB));
  return fmt::format("{:.2f} GiB", value / (kKiB * kKiB * kKiB));
}

std::pair<std::string, std::string> told_apart(std::uint64_t a, std::uint64_t b) {
  std::pair words(human_bytes(a), human_bytes(b));
  if (a != b && words.first == words.second) words = {fmt::format("{} bytes", a), fmt::format("{} bytes", b)};
  return words;
}

std::string too_much_for(const MemoryBudget& budget, std::uint64_t needed, std::uint64_t free) {
  const auto [wanted, there] = told_apart(needed, free);
  if (free == budget.limit()) return fmt::format("{}, but the memory budget is {}; raise --memory", wanted, there);
  return fmt::format("{}, but only {} of the memory budget of {} are free; raise --memory", wanted, there,
                     human_bytes(budget.limit()));
}

}  // namespace dalsegno
