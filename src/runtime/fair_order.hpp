#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace dalsegno {

// Who goes first, of requests that wait for room or whose prompts wait for a step: the most urgent; of those, who
// belongs to a tenant that was not served more than the others; of those, whose deadline is next (without one it is
// taken to be kPatience away); then who came first.
// Service is tokens computed, and is forgotten by half every kHalfLife. Tenants that lie less than kQuantum apart are
// equals. A tenant that comes anew is at most kCredit behind the least of those that are there, so that it is
// served soon and then shares, however long it was away.
// Invariant: of requests that are equally urgent each becomes the first after a bounded time, whoever comes.
// Threads: one.
class FairOrder {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr double kQuantum = 1024;
  static constexpr double kCredit = 2 * kQuantum;
  static constexpr std::chrono::seconds kHalfLife{30};
  static constexpr std::chrono::seconds kPatience{60};

  struct Tenant {
    double service = 0;
  };
  // A request's place. As long as it exists, its tenant is there.
  struct Claim {
    int urgency = 0;
    Clock::time_point due{};
    std::uint64_t arrival = 0;
    std::shared_ptr<Tenant> tenant{};

    // Whoever waits for this one's work makes it as urgent as itself.
    void lend(const Claim& waiting);
    // When there is no room for both: less urgent ones give way, then younger ones.
    [[nodiscard]] bool outlasts(const Claim& other) const;
  };

  Claim enter(const std::string& tenant, int urgency, std::optional<Clock::time_point> deadline, Clock::time_point now);
  void charge(const Claim& claim, int tokens, Clock::time_point now);
  // Index of the first; empty places do not count. claims.size(): there is none. Cost: two passes.
  [[nodiscard]] static std::size_t first(std::span<const Claim* const> claims);

  // For tests.
  [[nodiscard]] std::size_t tenants() const { return tenants_.size(); }

 private:
  void forget(Clock::time_point now);

  std::map<std::string, std::shared_ptr<Tenant>> tenants_;
  std::uint64_t arrivals_ = 0;
  Clock::time_point forgotten_{};  // until when
};

}  // namespace dalsegno
