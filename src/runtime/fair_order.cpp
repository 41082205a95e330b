#include "runtime/fair_order.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

namespace dalsegno {
namespace {

// Service is forgotten in steps of this length: nothing changes much within one.
constexpr std::chrono::seconds kForgetEach{1};
// Who was served less than this, and is not there, is as one that never was.
constexpr double kNothing = 1;

// Of a tenant that has requests.
bool is_there(const std::shared_ptr<FairOrder::Tenant>& tenant) {
  return tenant.use_count() > 1;
}

}  // namespace

void FairOrder::Claim::lend(const Claim& waiting) {
  urgency = std::max(urgency, waiting.urgency);
  due = std::min(due, waiting.due);
}

bool FairOrder::Claim::outlasts(const Claim& other) const {
  return urgency != other.urgency ? urgency > other.urgency : arrival < other.arrival;
}

FairOrder::Claim FairOrder::enter(const std::string& tenant, int urgency, std::optional<Clock::time_point> deadline,
                                  Clock::time_point now) {
  forget(now);
  std::shared_ptr<Tenant>& its = tenants_[tenant];
  if (its == nullptr) its = std::make_shared<Tenant>();
  if (!is_there(its)) {
    double least = std::numeric_limits<double>::max();
    for (const auto& [name, other] : tenants_) {
      if (is_there(other)) least = std::min(least, other->service);
    }
    if (least < std::numeric_limits<double>::max()) its->service = std::max(its->service, least - kCredit);
  }
  return {urgency, deadline.value_or(now + kPatience), arrivals_++, its};
}

void FairOrder::charge(const Claim& claim, int tokens, Clock::time_point now) {
  forget(now);
  claim.tenant->service += tokens;
}

std::size_t FairOrder::first(std::span<const Claim* const> claims) {
  int urgency = std::numeric_limits<int>::min();
  double least = std::numeric_limits<double>::max();
  for (const Claim* claim : claims) {
    if (claim == nullptr || claim->urgency < urgency) continue;
    const double service = claim->tenant->service;
    least = claim->urgency > urgency ? service : std::min(least, service);
    urgency = claim->urgency;
  }
  const auto place = [&](const Claim& claim) {
    return std::tuple(std::floor((claim.tenant->service - least) / kQuantum), claim.due, claim.arrival);
  };
  std::size_t best = claims.size();
  for (std::size_t i = 0; i < claims.size(); ++i) {
    if (claims[i] == nullptr || claims[i]->urgency != urgency) continue;
    if (best == claims.size() || place(*claims[i]) < place(*claims[best])) best = i;
  }
  return best;
}

void FairOrder::forget(Clock::time_point now) {
  const auto passed = now - forgotten_;
  if (passed < kForgetEach) return;
  forgotten_ = now;
  const double kept = std::exp2(-std::chrono::duration<double>(passed) / std::chrono::duration<double>(kHalfLife));
  for (auto at = tenants_.begin(); at != tenants_.end();) {
    at->second->service *= kept;
    at = at->second->service < kNothing && !is_there(at->second) ? tenants_.erase(at) : std::next(at);
  }
}

}  // namespace dalsegno
