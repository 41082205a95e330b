#include "cache/eviction_policy.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <vector>

namespace dalsegno {
namespace {

// In tokens at the start of a sequence. Attention doubles the cost of a token after about 16,000 others, in models of
// 0.1 to 8 thousand million parameters.
std::uint32_t work(int depth, int tokens) {
  constexpr int kDoubled = 1024;  // blocks
  constexpr int kUnit = 64;
  return static_cast<std::uint32_t>(tokens * (kUnit + kUnit * std::min(depth, 1 << 16) / kDoubled));
}

constexpr std::array<EvictionPolicy, 2> kPolicies = {{
    {"lru"},
    {"value", work, 128},
}};

}  // namespace

std::span<const EvictionPolicy> eviction_policies() {
  return kPolicies;
}

Result<const EvictionPolicy*> find_eviction_policy(std::string_view name) {
  const auto found = std::ranges::find(kPolicies, name, &EvictionPolicy::name);
  if (found != kPolicies.end()) return &*found;
  std::vector<std::string_view> names;
  for (const EvictionPolicy& policy : kPolicies) names.push_back(policy.name);
  return Error{ErrorCode::invalid_argument,
               fmt::format("there is no eviction policy '{}'; choose one of {}", name, fmt::join(names, ", "))};
}

}  // namespace dalsegno
