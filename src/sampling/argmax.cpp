#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>

#include "sampling/sampler.hpp"

namespace dalsegno {
namespace {

constexpr std::size_t kBlock = 4096;  // 16 KB: half of L1

std::span<const float> block_at(std::span<const float> x, std::size_t first) {
  return x.subspan(first, std::min(kBlock, x.size() - first));
}

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

// A block at a time, so that the values of one step's many rows come from memory once.
TokenId argmax(std::span<const float> logits) {
  assert(!logits.empty());
  std::size_t best_block = 0;
  float best = logits[0];
  for (std::size_t first = 0; first < logits.size(); first += kBlock) {
    const float value = maximum(block_at(logits, first));
    if (value <= best) continue;
    best = value;
    best_block = first;
  }
  std::size_t i = best_block;
  while (i < logits.size() && logits[i] != best) ++i;
  assert(i < logits.size() && "logits are finite");
  return static_cast<TokenId>(i);
}

}  // namespace dalsegno
