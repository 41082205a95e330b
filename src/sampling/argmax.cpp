#include <array>
#include <cassert>
#include <cstddef>

#include "sampling/sampler.hpp"

namespace dalsegno {
namespace {

// Independent running maxima, so that the compiler turns the inner loop into packed instructions.
constexpr std::size_t kLanes = 32;

float maximum(std::span<const float> x) {
  std::array<float, kLanes> best;
  best.fill(x[0]);
  std::size_t i = 0;
  for (; i + kLanes <= x.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      best[lane] = x[i + lane] > best[lane] ? x[i + lane] : best[lane];
    }
  }
  for (; i < x.size(); ++i) best[0] = x[i] > best[0] ? x[i] : best[0];
  float result = best[0];
  for (const float value : best) result = value > result ? value : result;
  return result;
}

}  // namespace

TokenId argmax(std::span<const float> logits) {
  assert(!logits.empty());
  const float best = maximum(logits);
  std::size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    int found = 0;
    for (std::size_t lane = 0; lane < kLanes; ++lane) found |= logits[i + lane] == best ? 1 : 0;
    if (found != 0) break;
  }
  while (i < logits.size() && logits[i] != best) ++i;
  assert(i < logits.size() && "logits are finite");
  return static_cast<TokenId>(i);
}

}  // namespace dalsegno
